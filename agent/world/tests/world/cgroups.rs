//! Where processes are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use weir_world::{CgroupDriver, Peer, PodSpec, Qos, Result, cgroup2};

use crate::world;

/// The cgroup of a process, as a path in the file system.
fn cgroup_of(pid: u32) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process lives");
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .expect("it is in the unified hierarchy");
    Ok(cgroup2()?.join(path))
}

fn netns_of(peer: &Peer) -> u64 {
    let file = fs::metadata(format!("/proc/{}/ns/net", peer.id())).expect("the process lives");
    file.ino()
}

#[test]
fn peers_are_in_the_cgroup_the_kubelet_would_name() -> Result<()> {
    let uid = "6f1c2d3e-0001-4a5b-8c9d-000000000001";
    let cases = [
        (
            CgroupDriver::Cgroupfs,
            Qos::BestEffort,
            "kubepods/besteffort/pod6f1c2d3e-0001-4a5b-8c9d-000000000001/ID",
        ),
        (
            CgroupDriver::Cgroupfs,
            Qos::Guaranteed,
            "kubepods/pod6f1c2d3e-0001-4a5b-8c9d-000000000001/ID",
        ),
        (
            CgroupDriver::Systemd,
            Qos::Burstable,
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6f1c2d3e_0001_4a5b_8c9d_000000000001.slice/cri-containerd-ID.scope",
        ),
        (
            CgroupDriver::Systemd,
            Qos::Guaranteed,
            "kubepods.slice/kubepods-pod6f1c2d3e_0001_4a5b_8c9d_000000000001.slice/cri-containerd-ID.scope",
        ),
    ];
    for (driver, qos, path) in cases {
        let pod = PodSpec::new("pod").qos(qos).uid(uid);
        let world = world().cgroup_driver(driver).pod(pod).build()?;
        let pod = world.pod("pod")?;
        let peer = pod.peer()?;
        let expected = path.replace("ID", pod.container_id());
        assert_eq!(
            cgroup_of(peer.id())?,
            pod.node().cgroup_root().join(expected)
        );
        assert_eq!(netns_of(&peer), pod.netns().inode()?);
    }
    Ok(())
}

#[test]
fn a_pod_has_a_pause_process_in_a_cgroup_of_its_own_unless_told() -> Result<()> {
    let world = world()
        .pod(PodSpec::new("usual"))
        .pod(PodSpec::new("empty").without_pause())
        .build()?;
    let processes = |pod: &str| -> Result<Vec<PathBuf>> {
        let pod = world.pod(pod)?;
        let mut cgroups = Vec::new();
        for container in subdirectories(pod.pod_cgroup()) {
            let pids = fs::read_to_string(container.join("cgroup.procs")).expect("a cgroup");
            cgroups.extend(pids.lines().map(|_| container.clone()));
        }
        Ok(cgroups)
    };
    let usual = world.pod("usual")?;
    let [sandbox] = &processes("usual")?[..] else {
        panic!("a pod without peers has one process");
    };
    assert_ne!(sandbox, usual.cgroup());
    assert!(processes("empty")?.is_empty());
    usual.kill_processes()?;
    assert!(processes("usual")?.is_empty());
    Ok(())
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .expect("a cgroup")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect()
}

#[test]
fn hosts_and_clients_have_cgroups_of_their_own() -> Result<()> {
    let world = world().nodes(2).client("outside").build()?;
    let host = world.node("node2")?.peer()?;
    let root = world.node("node2")?.cgroup_root();
    assert_eq!(cgroup_of(host.id())?, root.join("system.slice/host"));

    let outside = world.client("outside")?.peer()?;
    let cgroup = cgroup_of(outside.id())?;
    for node in world.nodes() {
        assert!(!cgroup.starts_with(node.cgroup_root()), "{cgroup:?}");
    }
    Ok(())
}
