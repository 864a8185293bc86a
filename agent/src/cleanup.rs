//! `weir cleanup`: removes everything that Weir ever pinned or attached.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use weir_abi::{config::flags::LOCAL_REDIRECT, table};

use crate::{
    bpffs::{self, Layout},
    dataplane::{Config, Object},
};

/// What was removed.
#[derive(Debug, Default, Serialize)]
pub struct Removed {
    /// Pinned links: their programs are detached.
    pub links: Vec<PathBuf>,
    /// Pinned maps.
    pub maps: Vec<PathBuf>,
    /// Directories and other files.
    pub files: Vec<PathBuf>,
}

impl Removed {
    /// Whether there was nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.maps.is_empty() && self.files.is_empty()
    }
}

/// Removes what is pinned below `bpffs`, whichever version of Weir pinned it, and the socket that a dead agent left.
///
/// # Errors
/// When an agent is running, or something cannot be removed. Links go first: whatever fails, no program is left without
/// its tables.
pub fn cleanup(bpffs: &Path, api_socket: &Path) -> Result<Removed> {
    let layout = Layout::new(bpffs);
    let mut removed = Removed::default();
    if layout.root().exists() {
        let Some(_lock) = layout.try_lock()? else {
            bail!(
                "an agent is running and uses {}; stop it first (kubectl -n weir-system delete daemonset weir, or end the \
                 process)",
                layout.root().display()
            );
        };
        show_the_stack(&layout);
        let paths = bpffs::remove_tree(layout.root())
            .with_context(|| format!("cannot remove {}", layout.root().display()))?;
        for path in paths {
            let parent = path.parent().and_then(Path::file_name);
            match parent.and_then(|name| name.to_str()) {
                Some("links") => removed.links.push(path),
                Some("maps") => removed.maps.push(path),
                _ => removed.files.push(path),
            }
        }
    }
    match fs::remove_file(api_socket) {
        Ok(()) => removed.files.push(api_socket.to_path_buf()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot remove {}", api_socket.display()));
        }
    }
    Ok(removed)
}

/// How long connections that are being opened may take to be known to the node's stack.
const OPENING: Duration = Duration::from_millis(100);

/// Lets the node's own stack see the packets between pods, in both directions from one moment on. Programs go one by one: a stack
/// that sees one side of a connection only takes it for broken, and kube-proxy's rules drop what is.
fn show_the_stack(layout: &Layout) {
    let shown = Object::pinned_map(layout, table::CONFIG)
        .and_then(|map| Ok(Config::new(&map)?))
        .and_then(|config| Ok(config.update(|config| config.flags &= !LOCAL_REDIRECT)?));
    // Of another version, or half made: then nothing is known of it.
    if shown.is_ok() {
        thread::sleep(OPENING);
    }
}
