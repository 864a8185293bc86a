//! Where Weir's maps and links are pinned: `<bpffs>/weir/v<abi version>/{maps,links}`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock, statfs};
use weir_abi::VERSION;

use crate::bpf;

/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The pinned directory tree of one node.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The tree below a bpffs mount (or a directory in one).
    #[must_use]
    pub fn new(bpffs: &Path) -> Self {
        Self {
            root: bpffs.join("weir"),
        }
    }

    /// Everything Weir ever pins is below this directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this version's maps and links.
    #[must_use]
    pub fn version_dir(&self) -> PathBuf {
        self.root.join(format!("v{VERSION}"))
    }

    /// Where the map of that name is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.version_dir().join("maps").join(name)
    }

    /// Where maps of another size are pinned while they take the others' place. It is only there meanwhile.
    #[must_use]
    pub fn resize_dir(&self) -> PathBuf {
        self.version_dir().join("resize")
    }

    /// Where the map of that name is pinned while it gets another size: first the new one, then the old one.
    #[must_use]
    pub fn resized(&self, name: &str) -> PathBuf {
        self.resize_dir().join(name)
    }

    /// The directory of this version's links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.version_dir().join("links")
    }

    /// Where the link of that hook is pinned.
    #[must_use]
    pub fn link(&self, hook: &str) -> PathBuf {
        self.links().join(hook)
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// When `--bpffs` is not in a bpf file system, or may not be written.
    pub fn create(&self) -> Result<()> {
        let mount = self.root.parent().unwrap_or(&self.root);
        let kind = statfs(mount)
            .with_context(|| format!("--bpffs {}: cannot look at it", mount.display()))?;
        if u64::try_from(kind.f_type).ok() != Some(BPF_FS_MAGIC) {
            bail!(
                "--bpffs {path} is not in a bpf file system; mount one: mount -t bpf bpf {path}",
                path = mount.display()
            );
        }
        for name in ["maps", "links"] {
            let dir = self.version_dir().join(name);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(())
    }

    /// Takes the node's lock, so that two agents never write the same tables. It goes with the returned file.
    /// `Ok(None)`: another process holds it.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn try_lock(&self) -> Result<Option<File>> {
        let dir = File::open(&self.root)
            .with_context(|| format!("cannot open {}", self.root.display()))?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(dir)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("cannot lock {}", self.root.display()))
            }
        }
    }

    /// Directories of other versions: what an earlier or later Weir left.
    ///
    /// # Errors
    /// The file system's.
    pub fn other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let current = self.version_dir();
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_dir() && path != current {
                others.push(path);
            }
        }
        others.sort();
        Ok(others)
    }
}

/// Removes whatever is at `path`, if anything is.
///
/// # Errors
/// The file system's.
pub fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => remove_tree(path).map(drop),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a pinned directory tree, links before maps, so that no program outlives its tables. What is linked is detached when
/// this returns. Returns what was removed, files and directories alike, in that order.
///
/// # Errors
/// The first removal that failed.
pub fn remove_tree(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    if !dir.exists() {
        return Ok(removed);
    }
    let mut entries: Vec<_> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    entries.sort_by_key(|path| {
        (
            path.file_name().is_some_and(|name| name != "links"),
            path.clone(),
        )
    });
    for path in entries {
        if path.is_dir() {
            removed.extend(remove_tree(&path)?);
        } else {
            if dir.file_name().is_some_and(|name| name == "links") {
                // What cannot be detached at once goes with its file.
                let _ = bpf::open_pinned(&path).and_then(|link| bpf::detach_link(&link));
            }
            fs::remove_file(&path)?;
            removed.push(path);
        }
    }
    fs::remove_dir(dir)?;
    removed.push(dir.to_path_buf());
    Ok(removed)
}
