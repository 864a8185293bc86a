//! Finding the cgroup v2 hierarchy, and private BPF file systems.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::error::{Doing, Error, Result};

/// Where the machine's cgroup v2 hierarchy is mounted, from /proc/self/mountinfo.
///
/// # Errors
/// `NoCgroup2` if it is not.
pub fn cgroup2() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .doing(|| "read /proc/self/mountinfo".to_owned())?;
    find(&table, "cgroup2").ok_or(Error::NoCgroup2)
}

fn find(mountinfo: &str, file_system: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, super_block) = line.split_once(" - ")?;
        if super_block.split(' ').next()? != file_system {
            return None;
        }
        Some(unescape(mount.split(' ').nth(4)?))
    })
}

/// Undoes the kernel's octal escapes (`\040` for a space) in a path of mountinfo.
fn unescape(path: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(escaped) = octal {
            bytes.push(escaped);
            rest = &after[3..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Mounts a BPF file system of its own at `directory`, making the directory.
///
/// Every mount is a file system by itself, so what is pinned in one is not seen in another and goes away with it.
pub(crate) fn mount_bpffs(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).doing(|| format!("create {}", directory.display()))?;
    mount(
        "bpf",
        directory,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .doing(|| format!("mount a BPF file system at {}", directory.display()))
}

/// Unmounts whatever is at `path`; a path that is no mount point is left as it is.
pub(crate) fn unmount_if_mounted(path: &Path) {
    // EINVAL and ENOENT are the answers for "not a mount point" and "gone already": both are what is wanted.
    let _ = unmount(path, UnmountFlags::DETACH);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:5 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_second_version_is_found_beside_the_first() {
        assert_eq!(
            find(HYBRID, "cgroup2"),
            Some(PathBuf::from("/sys/fs/cgroup/uni fied"))
        );
        assert_eq!(find(HYBRID, "bpf"), None);
    }
}
