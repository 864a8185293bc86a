//! The cgroup below which sockets are translated.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::fstatfs;

/// `CGROUP2_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// An open cgroup v2 directory.
pub struct CgroupRoot {
    /// Its path.
    pub path: PathBuf,
    /// Its id, as links tell it.
    pub id: u64,
    /// Its directory.
    pub dir: File,
}

impl CgroupRoot {
    /// Opens `path`, or the machine's cgroup v2 mount when there is none.
    ///
    /// # Errors
    /// When it is not a cgroup v2 directory, or none is mounted.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_path_buf(),
            None => find_cgroup_root()?,
        };
        let dir = File::open(&path)
            .with_context(|| format!("--cgroup-root {}: cannot open it", path.display()))?;
        let kind = fstatfs(&dir)?;
        if u64::try_from(kind.f_type).ok() != Some(CGROUP2_MAGIC) {
            bail!(
                "--cgroup-root {} is not in a cgroup v2 hierarchy; find one with: mount -t cgroup2",
                path.display()
            );
        }
        // A cgroup's id is its inode number (`cgroup_id()` in `include/linux/cgroup.h`).
        let id = dir.metadata()?.ino();
        Ok(Self { path, id, dir })
    }
}

/// The machine's cgroup v2 mount: the topmost one if there are several.
///
/// # Errors
/// When none is mounted.
pub fn find_cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    cgroup_mounts(&mounts)
        .min_by_key(|path| path.components().count())
        .context(
            "no cgroup v2 hierarchy is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup) or boot with \
             systemd.unified_cgroup_hierarchy=1",
        )
}

/// The mount points of type cgroup2 in the text of a `mountinfo` (proc(5)).
fn cgroup_mounts(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (source.split(' ').next()? == "cgroup2").then_some(())?;
        let path = mount.split(' ').nth(4)?;
        Some(PathBuf::from(path.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_among_v1_mounts() {
        let mountinfo = "\
31 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
42 31 0:37 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
        assert_eq!(
            cgroup_mounts(mountinfo).collect::<Vec<_>>(),
            [PathBuf::from("/sys/fs/cgroup/unified")]
        );
        assert_eq!(cgroup_mounts("").count(), 0);
    }
}
