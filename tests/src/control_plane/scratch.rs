//! A control plane's directory of files, removed however the process that made it ends.

use std::{
    fs::{self, File, TryLockError},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

const PREFIX: &str = "weir-control-plane.";

/// Waits for the end of its standard input, which is the end of the process that holds the other end;
/// then removes the directory. What still runs in there is being killed by the kernel at that moment.
const REAPER: &str =
    r#"read -r _; n=0; until rm -rf -- "$1" || [ $((n += 1)) -gt 100 ]; do sleep 0.1; done"#;

/// A directory below the system's temporary one.
///
/// Nothing in this process has to run for it to be removed, neither a destructor nor an exit handler:
/// a child in a session of its own does it when the kernel closes this process' end of a pipe. Should
/// that child be killed as well, the next control plane's start removes what is left: whoever can take
/// the directory's lock knows that its owner has gone.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    _lock: File,
    _reaper: Child,
}

impl Scratch {
    /// Removes the directories whose owners have gone, and makes a new one.
    pub(super) fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let (path, lock) = loop {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempdir_in(&parent)
                .with_context(|| format!("cannot make a directory in {}", parent.display()))?
                .keep();
            let lock = File::open(&path).context("cannot open the new directory")?;
            lock.lock().context("cannot lock the new directory")?;
            // Another start may have swept it away before it was locked.
            if lock
                .metadata()
                .context("cannot look at the new directory")?
                .nlink()
                > 0
            {
                break (path, lock);
            }
        };
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "weir-control-plane-reaper"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A terminal's ^C goes to the whole process group.
            .process_group(0)
            .spawn()
            .context("cannot start the process that cleans up")?;
        Ok(Self {
            path,
            _lock: lock,
            _reaper: reaper,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(directory) = File::open(entry.path()) else {
            continue;
        };
        match directory.try_lock() {
            Ok(()) => {
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    eprintln!("cannot remove {}: {error}", entry.path().display());
                }
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                eprintln!("cannot lock {}: {error}", entry.path().display());
            }
        }
    }
}
