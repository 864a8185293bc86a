//! Agents that find nonsense, and interfaces that vanish under their hands.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use weir::{bpffs::Layout, dataplane::Object};
use weir_abi::table;
use weir_tests::agent::Agent;
use weir_world::{PodSpec, Wiring, peer::Transport};

use crate::town::{Town, Who, goes_on, talks_on};

#[test]
fn an_agent_makes_sense_of_a_bpffs_full_of_nonsense() -> Result<()> {
    let town = Town::open(Wiring::Routed)?;
    town.agent(&[])?.kill();
    let layout = Layout::new(&town.node().bpffs());
    let map = |name: &str| layout.map(name);
    // Tables of another kind, of no kind, and of no meaning.
    fs::remove_file(map(table::SERVICES))?;
    Object::pinned_map(&layout, table::SLOTS)?.pin(map(table::SERVICES))?;
    fs::remove_file(map(table::FLOWS))?;
    fs::create_dir_all(map(table::FLOWS).join("deep/er"))?;
    fs::remove_file(map(table::AFFINITY))?;
    std::os::unix::fs::symlink("/nowhere", map(table::AFFINITY))?;
    Object::pinned_map(&layout, table::SLOTS)?.pin(map("WHATEVER"))?;
    // Links that are none, or of interfaces that are none, and one in another one's place.
    let slots = |name: &str| -> Result<()> {
        Ok(Object::pinned_map(&layout, table::SLOTS)?.pin(layout.link(name))?)
    };
    fs::remove_file(layout.link("connect4"))?;
    slots("connect4")?;
    slots("from_pod-99999")?;
    slots("whatever")?;
    let ifindex = town.world.pod("client")?.host_ifindex();
    let client = format!("from_pod-{ifindex}");
    fs::remove_file(layout.link(&client))?;
    fs::create_dir(layout.link(&client))?;
    let server = town.world.pod("web-1")?.host_ifindex();
    fs::rename(
        layout.link(&format!("to_pod-{server}")),
        layout.link(&format!("to_pod-{ifindex}")),
    )?;
    // Half a resize, other versions, things of nobody.
    fs::create_dir(layout.resize_dir())?;
    slots("to_net-x")?;
    fs::create_dir_all(layout.root().join("v0/maps/odd"))?;
    fs::create_dir_all(layout.root().join("else/where"))?;

    let agent = town.agent(&[])?;
    for who in [Who::Pod, Who::Mesh, Who::Host, Who::Outside] {
        for v6 in [false, true] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let (peer, to) = town.asker(who, v6)?;
                let outcome = peer.exchange(crate::town::exchange(transport, to))?;
                ensure!(
                    outcome.ok(),
                    "{who:?} {transport:?} {v6}: {outcome:?}\n{}",
                    agent.log()
                );
            }
        }
    }
    // Nothing of it is left that could do harm.
    agent.wait_until("it has cleared up", |_| {
        Ok(!layout.link("from_pod-99999").exists() && !layout.root().join("v0").exists())
    })?;
    ensure!(!layout.resize_dir().exists());
    Ok(())
}

#[test]
fn interfaces_that_vanish_while_they_are_attached_leave_nothing_behind() -> Result<()> {
    const PODS: usize = 40;
    let town = Town::open(Wiring::Routed)?;
    let agent = town.agent(&[])?;
    let load = town.load(Who::Pod, Transport::Udp, false)?;
    goes_on(&load, 10)?;
    // Interfaces come and go at any time, also while the agent that looks at them is a new one.
    let over = AtomicBool::new(false);
    let agent = thread::scope(|scope| -> Result<Agent> {
        let (world, over) = (&town.world, &over);
        let churn = scope.spawn(move || -> Result<()> {
            for number in 0..PODS {
                let name = format!("brief-{number}");
                let pod = world.add_pod(PodSpec::new(&name))?;
                thread::sleep(Duration::from_millis(number as u64 % 8 * 4));
                if number % 2 == 0 {
                    // Under the feet of its processes.
                    pod.delete_netns()?;
                }
                world.remove_pod(&name)?;
            }
            over.store(true, Ordering::Relaxed);
            Ok(())
        });
        let mut agent = Some(agent);
        while !over.load(Ordering::Relaxed) && !churn.is_finished() {
            if let Some(agent) = agent.take() {
                agent.kill();
            }
            let next = Agent::start(town.node(), town.manifests.path())?;
            thread::sleep(Duration::from_millis(100));
            agent = Some(next);
        }
        let ended = churn.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        match agent {
            Some(agent) => Ok(agent),
            None => town.agent(&[]),
        }
    })?;
    let links = Layout::new(&town.node().bpffs()).links();
    let expected: Vec<String> = {
        let mut expected = Vec::new();
        for pod in town.world.pods() {
            for hook in ["from_pod", "to_pod"] {
                expected.push(format!("{hook}-{}", pod.host_ifindex()));
            }
        }
        expected.sort();
        expected
    };
    agent.wait_until("only the pods' own links are left", |_| {
        let mut found = Vec::new();
        for entry in fs::read_dir(&links)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            if name.contains("_pod-") {
                found.push(name);
            }
        }
        found.sort();
        Ok(found == expected)
    })?;
    goes_on(&load, 10)?;
    let report = load.stop()?;
    ensure!(report.failures() == 0, "{report:?}");
    // A pod that comes now is served.
    let pod = town.world.add_pod(PodSpec::new("late"))?;
    let late = pod.peer()?;
    let (_, to) = town.asker(Who::Pod, true)?;
    agent.wait_until("it is served", |_| Ok(late.datagram(to)?.ok()))?;
    let job = town.long_lived(Who::Mesh, Transport::Tcp, false, 1)?;
    talks_on(&job, 3)
}
