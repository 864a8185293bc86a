//! Backends that disappear without a word, and backends that take their time.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir_world::{
    Wiring,
    peer::{Exchange, Job, LongLivedReport, Transport},
};

use crate::town::{Condition, SERVERS, Town, Who, eventually, exchange, talks_on};

const EVERYBODY: [Who; 4] = [Who::Pod, Who::Mesh, Who::Host, Who::Outside];

/// Sockets of everybody, of both families, to the service's only endpoint for now.
fn sockets(town: &Town, transport: Transport) -> Result<Vec<(Who, Job<LongLivedReport>)>> {
    let mut jobs = Vec::new();
    for who in EVERYBODY {
        for v6 in [false, true] {
            let job = town.long_lived(who, transport, v6, 2)?;
            talks_on(&job, 4)?;
            jobs.push((who, job));
        }
    }
    Ok(jobs)
}

#[test]
fn connections_to_a_deleted_backend_end_and_datagrams_move_on() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let town = Town::open(wiring)?;
        let agent = town.agent(&[])?;
        town.endpoints(&[("web-1", Condition::Ready)])?;
        town.settle(&agent)?;
        let connections = sockets(&town, Transport::Tcp)?;
        let datagrams = sockets(&town, Transport::Udp)?;
        let (host, to) = town.asker(Who::Host, false)?;
        let (connected, outcome) = host.open(exchange(Transport::UdpConnected, to))?;
        let connected = connected.with_context(|| format!("{outcome:?}"))?;
        ensure!(connected.ask("before")?.answered_by.as_deref() == Some("web-1"));
        town.endpoints(&[("web-1", Condition::Ready), ("web-2", Condition::Ready)])?;
        town.settle(&agent)?;
        // Those of before stay where they are.
        for (who, job) in connections.iter().chain(&datagrams) {
            talks_on(job, 4)?;
            let report = job.report()?;
            // The node's own datagrams each ask anew.
            let moves = *who == Who::Host;
            ensure!(
                report.breaks.is_empty() && (moves || report.answered_by.len() == 1),
                "{who:?}: {report:?}"
            );
        }

        // The server still answers: it is Weir that ends what leads there.
        town.manifests.delete("pod-web-1")?;
        town.endpoints(&[("web-2", Condition::Ready)])?;
        for (who, job) in &connections {
            eventually("its connections have ended", || Ok(job.report()?.open == 0))
                .with_context(|| format!("{who:?}: {:?}\n{}", job.report(), agent.log()))?;
            let report = job.stop()?;
            ensure!(report.breaks.len() == 2, "{who:?}: {report:?}");
            let expected = match who {
                Who::Pod | Who::Host => "ECONNABORTED",
                Who::Mesh | Who::Outside => "ECONNRESET",
            };
            for broken in &report.breaks {
                ensure!(broken.failure.errno == expected, "{who:?}: {broken:?}");
            }
        }
        for (who, job) in &datagrams {
            eventually("its datagrams have moved", || {
                Ok(job.report()?.open_to.get("web-2") == Some(&2))
            })
            .with_context(|| format!("{who:?}: {:?}", job.report()))?;
            let report = job.stop()?;
            ensure!(report.breaks.is_empty(), "{who:?}: {report:?}");
        }
        let told = connected.ask("after")?;
        ensure!(
            ["ECONNABORTED", "EDESTADDRREQ"].contains(&told.errno().unwrap_or_default()),
            "{told:?}"
        );
        for who in EVERYBODY {
            let (peer, to) = town.asker(who, true)?;
            let outcome = peer.connect(to)?;
            ensure!(
                outcome.answered_by.as_deref() == Some("web-2"),
                "{who:?}: {outcome:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn what_was_deleted_while_no_agent_ran_ends_with_the_next_one() -> Result<()> {
    let town = Town::open(Wiring::Routed)?;
    let agent = town.agent(&[])?;
    town.endpoints(&[("web-1", Condition::Ready)])?;
    town.settle(&agent)?;
    let connections = sockets(&town, Transport::Tcp)?;
    agent.kill();
    town.manifests.delete("pod-web-1")?;
    town.endpoints(&[("web-2", Condition::Ready)])?;
    for (who, job) in &connections {
        talks_on(job, 4)?;
        ensure!(job.report()?.breaks.is_empty(), "{who:?}");
    }
    let agent = town.agent(&[])?;
    for (who, job) in &connections {
        eventually("its connections have ended", || Ok(job.report()?.open == 0))
            .with_context(|| format!("{who:?}: {:?}\n{}", job.report(), agent.log()))?;
    }
    Ok(())
}

#[test]
fn a_terminating_backend_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    let town = Town::open(Wiring::Routed)?;
    let agent = town.agent(&[])?;
    town.endpoints(&[("web-1", Condition::Ready)])?;
    town.settle(&agent)?;
    let connections = sockets(&town, Transport::Tcp)?;
    town.endpoints(&[
        ("web-1", Condition::Terminating),
        ("web-2", Condition::Ready),
    ])?;
    town.settle(&agent)?;
    for who in EVERYBODY {
        for v6 in [false, true] {
            let (peer, to) = town.asker(who, v6)?;
            for _ in 0..8 {
                let outcome = peer.connect(to)?;
                ensure!(
                    outcome.answered_by.as_deref() == Some("web-2"),
                    "{who:?}: {outcome:?}"
                );
            }
        }
    }
    // Longer than anything that ends connections would wait.
    thread::sleep(Duration::from_millis(300));
    for (who, job) in &connections {
        talks_on(job, 10)?;
        let report = job.report()?;
        ensure!(
            report.breaks.is_empty() && report.open == 2,
            "{who:?}: {report:?}"
        );
    }
    // When it is the last, new ones go there as well rather than nowhere.
    town.endpoints(&[("web-1", Condition::Terminating)])?;
    town.settle(&agent)?;
    for who in EVERYBODY {
        let (peer, to) = town.asker(who, false)?;
        let outcome = peer.connect(to)?;
        ensure!(
            outcome.answered_by.as_deref() == Some("web-1"),
            "{who:?}: {outcome:?}"
        );
    }
    // Then it is gone.
    town.manifests.delete("pod-web-1")?;
    town.endpoints(&[("web-3", Condition::Ready)])?;
    for (who, job) in &connections {
        eventually("its connections have ended", || Ok(job.report()?.open == 0))
            .with_context(|| format!("{who:?}: {:?}", job.report()))?;
    }
    Ok(())
}

#[test]
fn a_backend_that_only_leaves_the_service_keeps_its_connections() -> Result<()> {
    let town = Town::open(Wiring::Routed)?;
    let agent = town.agent(&[])?;
    town.endpoints(&[("web-1", Condition::Ready)])?;
    town.settle(&agent)?;
    let connections = sockets(&town, Transport::Tcp)?;
    // It is not ready any more, or was given other labels: its pod is still there.
    town.endpoints(&[("web-2", Condition::Ready)])?;
    town.settle(&agent)?;
    thread::sleep(Duration::from_millis(300));
    for (who, job) in &connections {
        talks_on(job, 10)?;
        let report = job.report()?;
        ensure!(report.breaks.is_empty(), "{who:?}: {report:?}");
    }
    // Connections past the service are nobody's business but their own.
    let direct = (
        town.world.pod(SERVERS[0])?.addresses().v4,
        crate::town::TARGET,
    );
    ensure!(town.peer("client")?.exchange(Exchange::tcp(direct))?.ok());
    Ok(())
}
