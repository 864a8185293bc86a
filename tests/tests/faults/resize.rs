//! Tables of another size, while everybody talks.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weir::{bpffs::Layout, dataplane::Object};
use weir_world::{Wiring, peer::Transport};

use crate::town::{Town, Who, goes_on, talks_on};

/// The size of a table.
fn capacity(town: &Town, table: &str) -> Result<u32> {
    let layout = Layout::new(&town.node().bpffs());
    Ok(Object::pinned_map(&layout, table)?.info()?.max_entries())
}

#[test]
fn conversations_outlive_tables_of_every_size() -> Result<()> {
    let town = Town::open(Wiring::Routed)?;
    let mut agent = town.agent(&[])?;
    let mut connections = Vec::new();
    let mut datagrams = Vec::new();
    for (who, v6) in [
        (Who::Pod, false),
        (Who::Mesh, true),
        (Who::Host, true),
        (Who::Outside, false),
    ] {
        connections.push((who, town.long_lived(who, Transport::Tcp, v6, 3)?));
        datagrams.push((who, town.long_lived(who, Transport::UdpConnected, !v6, 1)?));
    }
    // On the packet path, a flow is all that keeps a socket's datagrams together.
    datagrams.push((
        Who::Pod,
        town.long_lived(Who::Pod, Transport::Udp, false, 1)?,
    ));
    let loads = [
        town.load(Who::Pod, Transport::Tcp, true)?,
        town.load(Who::Mesh, Transport::Tcp, false)?,
        town.load(Who::Outside, Transport::Tcp, true)?,
        town.load(Who::Pod, Transport::Udp, true)?,
        town.load(Who::Outside, Transport::Udp, false)?,
    ];
    for (who, job) in connections.iter().chain(&datagrams) {
        talks_on(job, 10).with_context(|| format!("{who:?}"))?;
    }
    let sizes = [
        [1_000_000, 4_000_000, 1_000_000, 1_000_000],
        [2000, 5000, 4000, 100_000],
        [5000, 2000, 2000, 150_000],
    ];
    for (round, [frontends, slots, backends, flows]) in sizes.into_iter().enumerate() {
        if round % 2 == 0 {
            agent.terminate()?;
        } else {
            agent.kill();
        }
        agent = town.agent(&[
            &format!("--max-frontends={frontends}"),
            &format!("--max-slots={slots}"),
            &format!("--max-backends={backends}"),
            &format!("--max-flows={flows}"),
        ])?;
        for (table, size) in [
            ("SERVICES", frontends),
            ("SLOTS", slots),
            ("BACKENDS", backends),
            ("FLOWS", flows),
        ] {
            ensure!(capacity(&town, table)? == size, "{table} in round {round}");
        }
        for (who, job) in connections.iter().chain(&datagrams) {
            talks_on(job, 10).with_context(|| format!("{who:?} in round {round}"))?;
        }
        for job in &loads {
            goes_on(job, 20)?;
        }
    }
    for (who, job) in connections {
        let report = job.report()?;
        ensure!(
            report.breaks.is_empty() && report.open == 3,
            "{who:?}: {report:?}"
        );
    }
    for (who, job) in datagrams {
        let report = job.stop()?;
        ensure!(report.breaks.is_empty(), "{who:?}: {report:?}");
        ensure!(report.answered_by.len() == 1, "{who:?} moved: {report:?}");
    }
    for job in loads {
        let report = job.stop()?;
        ensure!(report.failures() == 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_table_that_is_too_small_is_refused_and_says_so() -> Result<()> {
    let town = Town::open(Wiring::Routed)?;
    let agent = town.agent(&["--max-backends=1000", "--max-frontends=1000"])?;
    agent.terminate()?;
    // Six endpoints of TCP and six of UDP.
    let agent = town.agent(&["--max-backends=3", "--max-frontends=900"])?;
    ensure!(capacity(&town, "BACKENDS")? == 1000);
    ensure!(capacity(&town, "SERVICES")? == 900);
    ensure!(
        agent.log().contains("the table cannot be made smaller"),
        "{}",
        agent.log()
    );
    let (client, to) = town.asker(Who::Pod, false)?;
    ensure!(client.connect(to)?.ok());
    // What does not fit is told, and leaves what is there as it was.
    let status = agent.status()?;
    ensure!(status["unprogrammed"] == json!([]), "{status}");
    Ok(())
}
