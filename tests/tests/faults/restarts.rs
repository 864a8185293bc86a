//! Agents that end, are killed and are replaced while everybody talks: nobody notices.

use anyhow::{Result, ensure};
use weir_tests::agent::Agent;
use weir_world::{Wiring, peer::Transport};

use crate::town::{Town, Who, goes_on, talks_on};

const EVERYBODY: [Who; 4] = [Who::Pod, Who::Mesh, Who::Host, Who::Outside];

/// How an agent gives way to the next one.
#[derive(Clone, Copy, Debug)]
enum Way {
    Terminated,
    Killed,
    /// The next one is already there and waits for it to end, as when a DaemonSet's pods overlap.
    Overtaken,
}

fn story(wiring: Wiring, ways: &[Way]) -> Result<()> {
    let town = Town::open(wiring)?;
    let mut agent = town.agent(&[])?;
    let mut connections = Vec::new();
    let mut datagrams = Vec::new();
    let mut loads = Vec::new();
    for (index, who) in EVERYBODY.into_iter().enumerate() {
        let v6 = index % 2 == 0;
        connections.push(town.long_lived(who, Transport::Tcp, v6, 2)?);
        datagrams.push(town.long_lived(who, Transport::UdpConnected, v6, 1)?);
        loads.push(town.load(who, Transport::Tcp, !v6)?);
        loads.push(town.load(who, Transport::Udp, v6)?);
    }
    for way in ways {
        match way {
            Way::Terminated => agent.terminate()?,
            Way::Killed => agent.kill(),
            Way::Overtaken => {
                let directory = town.manifests.path().as_os_str();
                let next = Agent::spawn(town.node(), &["--manifests".as_ref(), directory])?;
                let before = agent
                    .log()
                    .matches("another agent runs on this node")
                    .count();
                next.wait_until("the next one waits", |next| {
                    Ok(next
                        .log()
                        .matches("another agent runs on this node")
                        .count()
                        >= before.max(1))
                })?;
                agent.terminate()?;
                next.wait_until_synced()?;
                next.terminate()?;
            }
        }
        // Without one, everything goes on.
        for job in &loads {
            goes_on(job, 10)?;
        }
        agent = town.agent(&[])?;
        for job in &loads {
            goes_on(job, 10)?;
        }
    }
    for job in connections {
        talks_on(&job, 10)?;
        let report = job.report()?;
        ensure!(report.breaks.is_empty() && report.open == 2, "{report:?}");
    }
    for job in datagrams {
        let report = job.stop()?;
        ensure!(report.breaks.is_empty(), "{report:?}");
        ensure!(report.answered_by.len() == 1, "it moved: {report:?}");
    }
    for job in loads {
        let report = job.stop()?;
        ensure!(report.failures() == 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn restarts_lose_nothing_of_routed_pods() -> Result<()> {
    story(
        Wiring::Routed,
        &[Way::Terminated, Way::Killed, Way::Overtaken, Way::Killed],
    )
}

#[test]
fn restarts_lose_nothing_of_bridged_pods() -> Result<()> {
    story(Wiring::Bridged, &[Way::Killed, Way::Terminated])
}
