//! Which interfaces are whose.

use std::{fs, io::Write as _, process::Command};

use anyhow::{Result, ensure};
use weir::bpf::Direction;
use weir_world::{CgroupDriver, PodSpec, Qos, Wiring};

use crate::stage::{Stage, world};

fn every_class(wiring: Wiring, driver: CgroupDriver) -> Result<()> {
    let classes = [
        ("guaranteed", Qos::Guaranteed),
        ("burstable", Qos::Burstable),
        ("besteffort", Qos::BestEffort),
    ];
    let pods = classes.map(|(name, qos)| PodSpec::new(name).qos(qos));
    let elsewhere = PodSpec::new("elsewhere").on("node2");
    let world = world().nodes(2).wiring(wiring).cgroup_driver(driver);
    let stage = Stage::following(world.pods(pods).pod(elsewhere))?;
    for (name, _) in classes {
        stage.wait_until_served(&stage.world.pod(name)?)?;
    }
    // Nobody else is taken for a pod: neither a pod of another node, nor what joins the nodes.
    let view = stage.view()?;
    ensure!(view.interfaces.len() == 3, "{view:?}");
    ensure!(stage.endpoints()?.len() == 6);
    ensure!(
        view.waiting.is_empty() && view.failures.is_empty(),
        "{view:?}"
    );
    let all = |direction| stage.programs("cni0", direction);
    ensure!(wiring == Wiring::Routed || all(Direction::Ingress)?.is_empty());
    Ok(())
}

#[test]
fn routed_pods_of_the_cgroupfs_driver() -> Result<()> {
    every_class(Wiring::Routed, CgroupDriver::Cgroupfs)
}

#[test]
fn bridged_pods_of_the_systemd_driver() -> Result<()> {
    every_class(Wiring::Bridged, CgroupDriver::Systemd)
}

#[test]
fn a_pod_with_two_interfaces_has_the_addresses_of_both() -> Result<()> {
    let stage = Stage::following(world().pod(PodSpec::new("two")))?;
    let pod = stage.world.pod("two")?;
    stage.wait_until_served(&pod)?;
    let netns = pod.netns().name();
    stage.node()?.ip(&[
        &format!("link add second type veth peer name net1 netns {netns}"),
        "link set second up",
    ])?;
    pod.ip(&["addr add 10.99.0.2/24 dev net1", "link set net1 up"])?;
    let second = stage.node()?.ifindex("second")?;
    stage.wait_until("the second interface is served", |stage| {
        let programs = stage.programs("second", Direction::Ingress)?;
        let address = "10.99.0.2".parse()?;
        Ok(programs.len() == 1 && stage.endpoints()?.get(&address) == Some(&second))
    })?;
    ensure!(stage.serves(&pod)?);
    stage.node()?.ip(&["link del second"])?;
    stage.wait_until("only the first interface is served", |stage| {
        Ok(stage.serves(&pod)? && stage.endpoints()?.len() == 2)
    })
}

#[test]
fn a_pod_on_the_nodes_network_is_none() -> Result<()> {
    let stage = Stage::following(world().pod(PodSpec::new("pod")))?;
    let node = stage.node()?;
    let cgroup = node
        .cgroup_root()
        .join("kubepods/besteffort/podfeed-0001/c1");
    fs::create_dir_all(&cgroup)?;
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let sleep = node.spawn(sleep)?;
    let procs = fs::OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"));
    write!(procs?, "{}", sleep.id())?;
    stage.wait_until_served(&stage.world.pod("pod")?)?;
    // A process of this pod that enters another pod's namespace does not make that its own.
    let pod = stage.world.pod("pod")?;
    let mut debugger = Command::new("sleep");
    debugger.arg("1000");
    let debugger = pod.spawn(debugger)?;
    let procs = fs::OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"));
    write!(procs?, "{}", debugger.id())?;
    let later = stage.world.add_pod(PodSpec::new("later"))?;
    stage.wait_until_served(&later)?;
    let view = stage.view()?;
    ensure!(view.interfaces.len() == 2, "{view:?}");
    let owner = view.interfaces.iter().find(|i| i.device == pod.host_veth());
    ensure!(owner.is_some_and(|i| i.pod.contains(pod.uid())), "{view:?}");
    ensure!(
        !view.waiting.iter().any(|pod| pod.contains("feed-0001")),
        "{view:?}"
    );
    Ok(())
}

#[test]
fn a_sandbox_that_took_the_addresses_has_those_of_its_object() -> Result<()> {
    let stage = Stage::following(world().pod(PodSpec::new("sandbox")))?;
    let pod = stage.world.pod("sandbox")?;
    stage.wait_until_served(&pod)?;
    pod.ip(&["addr flush dev eth0"])?;
    stage.wait_until("it has no address", |stage| {
        Ok(stage.endpoints()?.is_empty())
    })?;
    stage.tell_pod(&pod, |_| {})?;
    stage.wait_until_served(&pod)
}
