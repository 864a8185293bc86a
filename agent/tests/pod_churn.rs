//! Many pods in little time, and what is left afterwards. A binary of its own, since it counts what its process holds.

#[path = "pods/stage.rs"]
#[expect(dead_code, reason = "shared with the tests of single pods")]
mod stage;

use std::fs;

use anyhow::{Result, ensure};
use stage::{Stage, world};
use weir_world::{CgroupDriver, PodSpec, Qos, Wiring};

/// What this process holds: descriptors by what they are, and threads.
fn held() -> Result<(Vec<String>, usize)> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        // The directory's own has gone by now.
        if let Ok(target) = fs::read_link(entry?.path()) {
            let target = target.to_string_lossy().into_owned();
            // Sockets and pipes differ only in their numbers.
            descriptors.push(target.split(':').next().unwrap_or_default().to_owned());
        }
    }
    descriptors.sort();
    Ok((descriptors, fs::read_dir("/proc/self/task")?.count()))
}

#[test]
fn fifty_pods_come_and_go_and_nothing_is_left() -> Result<()> {
    let stage = Stage::following(
        world()
            .wiring(Wiring::Bridged)
            .cgroup_driver(CgroupDriver::Systemd),
    )?;
    stage.wait_until("there is nothing", |stage| {
        Ok(stage.view()?.listed && stage.view()?.devices.len() == 1)
    })?;
    // The world's thread that starts processes is made with the first pod.
    stage.wait_until_served(&stage.world.add_pod(PodSpec::new("first"))?)?;
    stage.world.remove_pod("first")?;
    stage.wait_until("the first has gone", |stage| {
        Ok(stage.endpoints()?.is_empty())
    })?;
    let before = (held()?, stage.links()?);

    let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
    let mut pods = Vec::new();
    for batch in 0..5 {
        let batch = (0..10).map(|n| PodSpec::new(format!("p{batch}-{n}")).qos(classes[n % 3]));
        pods.extend(stage.world.add_pods(batch)?);
    }
    for pod in &pods {
        stage.wait_until_served(pod)?;
    }
    ensure!(stage.endpoints()?.len() == 100);
    for (n, pod) in pods.iter().enumerate() {
        if n % 5 == 0 {
            pod.delete_netns()?;
        }
        stage.world.remove_pod(pod.name())?;
    }
    stage.wait_until("nothing of them is left", |stage| {
        Ok(stage.endpoints()?.is_empty() && stage.links()? == before.1)
    })?;
    drop(pods);
    stage.wait_until("descriptors and threads are as before", |_| {
        Ok(held()? == before.0)
    })?;
    stage.wait_until("nobody is waited for", |stage| {
        Ok(stage.view()?.waiting.is_empty())
    })?;
    ensure!(stage.view()?.failures.is_empty());
    Ok(())
}
