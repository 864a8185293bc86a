//! Cgroups of nodes and pods, named as the kubelet names them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// How the kubelet and the container runtime name cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupDriver {
    /// `kubepods/besteffort/pod<uid>/<container id>`
    #[default]
    Cgroupfs,
    /// `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid>.slice/cri-containerd-<container id>.scope`
    Systemd,
}

/// Quality of service class of a pod, which is a level of its cgroup's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    /// Directly below the root of the pods.
    Guaranteed,
    /// In `burstable`.
    Burstable,
    /// In `besteffort`.
    #[default]
    BestEffort,
}

impl Qos {
    fn level(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

impl CgroupDriver {
    /// Path of a pod's cgroup, relative to its node's root.
    #[must_use]
    pub fn pod(self, qos: Qos, uid: &str) -> PathBuf {
        match self {
            Self::Cgroupfs => {
                let mut path = PathBuf::from("kubepods");
                path.extend(qos.level());
                path.join(format!("pod{uid}"))
            }
            Self::Systemd => {
                let mut path = PathBuf::from("kubepods.slice");
                let mut name = "kubepods".to_owned();
                if let Some(level) = qos.level() {
                    name = format!("{name}-{level}");
                    path.push(format!("{name}.slice"));
                }
                // systemd reads a dash in a slice's name as a level, so the kubelet turns those of the UID into underscores.
                path.join(format!("{name}-pod{}.slice", uid.replace('-', "_")))
            }
        }
    }

    /// Path of a container's cgroup, relative to its node's root.
    #[must_use]
    pub fn container(self, qos: Qos, uid: &str, container: &str) -> PathBuf {
        let leaf = match self {
            Self::Cgroupfs => container.to_owned(),
            Self::Systemd => format!("cri-containerd-{container}.scope"),
        };
        self.pod(qos, uid).join(leaf)
    }
}

/// Makes a cgroup and those above it.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing(|| format!("create the cgroup {}", path.display()))
}

/// Kills every process in a cgroup and below it. A cgroup that is gone has none.
pub(crate) fn kill(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("kill the processes in {}", path.display())),
    }
}

/// Kills what runs in a cgroup and below it, waits for the end of it, and removes the cgroups.
pub(crate) fn remove(path: &Path) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    kill(path)?;
    let deadline = Instant::now() + PATIENCE;
    // Killed processes leave their cgroup a moment after the signal.
    loop {
        match remove_once(path) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result.doing(|| format!("remove the cgroup {}", path.display())),
        }
    }
}

fn remove_once(path: &Path) -> io::Result<()> {
    let gone_is_fine = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return gone_is_fine(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_once(&entry.path())?;
        }
    }
    fs::remove_dir(path).or_else(gone_is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b2c-4d5e";

    #[test]
    fn paths_are_the_kubelets() {
        let cases = [
            (
                CgroupDriver::Cgroupfs,
                Qos::BestEffort,
                "kubepods/besteffort/pod0b2c-4d5e/c1",
            ),
            (
                CgroupDriver::Cgroupfs,
                Qos::Burstable,
                "kubepods/burstable/pod0b2c-4d5e/c1",
            ),
            (
                CgroupDriver::Cgroupfs,
                Qos::Guaranteed,
                "kubepods/pod0b2c-4d5e/c1",
            ),
            (
                CgroupDriver::Systemd,
                Qos::BestEffort,
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0b2c_4d5e.slice/cri-containerd-c1.scope",
            ),
            (
                CgroupDriver::Systemd,
                Qos::Guaranteed,
                "kubepods.slice/kubepods-pod0b2c_4d5e.slice/cri-containerd-c1.scope",
            ),
        ];
        for (driver, qos, path) in cases {
            assert_eq!(driver.container(qos, UID, "c1"), Path::new(path));
        }
    }
}
