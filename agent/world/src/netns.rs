//! Network namespaces by name, and running code inside one.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Doing, Result};
use crate::mounts::unmount_if_mounted;

/// Where iproute2 keeps named network namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A named network namespace, as `ip netns` knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetNs {
    name: String,
    path: PathBuf,
}

impl NetNs {
    pub(crate) fn named(name: String) -> Self {
        let path = Path::new(DIRECTORY).join(&name);
        Self { name, path }
    }

    /// Its name, for `ip -n NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, for `setns` and `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens its file.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn open(&self) -> Result<File> {
        File::open(&self.path).doing(|| format!("open {}", self.path.display()))
    }

    /// Its inode number: what `readlink /proc/PID/ns/net` shows of the processes in it.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn inode(&self) -> Result<u64> {
        fs::metadata(&self.path)
            .map(|file| file.ino())
            .doing(|| format!("look at {}", self.path.display()))
    }

    /// Runs `work` in this namespace: see [`in_netns`].
    ///
    /// # Errors
    /// The namespace is gone, or may not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_netns(&self.path, work)
    }

    /// Takes the name away. The namespace itself lives until the last process and socket in it are gone.
    pub(crate) fn forget(&self) {
        unmount_if_mounted(&self.path);
        // Gone already is what is wanted.
        let _ = fs::remove_file(&self.path);
    }
}

/// Runs `work` on a thread of its own that is in the network namespace whose file is `path`, and waits for it.
///
/// Sockets opened and processes started by `work` are in that namespace and `/proc/sys/net` is its own. `/sys` is still the
/// caller's, and so is the cgroup: cgroup hooks see the calling process. A panic of `work` is passed on.
///
/// # Errors
/// The namespace is gone, or may not be entered.
pub fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).doing(|| format!("open {}", path.display()))?;
    let enter = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .doing(|| format!("enter {}", path.display()))?;
        Ok(work())
    };
    thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
