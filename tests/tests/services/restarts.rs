//! Agents that are killed, restarted, replaced and removed.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use weir_tests::agent::{self, Agent};
use weir_world::peer::Exchange;

use crate::shop::{Shop, V4, both, more};
#[test]
fn a_killed_agent_is_not_missed_and_its_successor_takes_over() -> Result<()> {
    let shop = Shop::open()?;
    shop.manifests
        .service("other", &["10.96.0.81"], &shop.endpoints(&["web-1"])?)?;
    let agent = shop.agent()?;
    let jobs = [shop.load(both()[0])?, shop.load(both()[1])?];
    for job in &jobs {
        more(job, 100)?;
    }
    agent.kill();
    for job in &jobs {
        more(job, 200)?;
    }
    // What changes while nobody looks is made up for: one service goes, one loses endpoints.
    shop.manifests.delete("other")?;
    shop.manifests.delete("other-endpoints")?;
    shop.manifests
        .endpoints("web", &shop.endpoints(&["web-3"])?)?;
    let outcome = shop.client.connect((Ipv4Addr::new(10, 96, 0, 81), 80))?;
    assert_eq!(
        outcome.answered_by.as_deref(),
        Some("web-1"),
        "the tables outlive the agent"
    );

    let agent = shop.agent()?;
    assert!(agent.log().contains("how=Replaced"), "{}", agent.log());
    let gone =
        Exchange::tcp((Ipv4Addr::new(10, 96, 0, 81), 80)).timeout(Duration::from_millis(300));
    assert!(!shop.client.exchange(gone)?.ok());
    for _ in 0..20 {
        let outcome = shop.client.connect((V4, 80))?;
        assert_eq!(outcome.answered_by.as_deref(), Some("web-3"));
    }
    // The counters went on counting for the service that stayed.
    let counted = agent.metric(
        r#"weir_service_connections_total{namespace="default",service="web",port="http",protocol="TCP",result="translated"}"#,
    )?;
    assert!(counted > 600.0, "{counted}");
    agent.terminate()?;
    for job in &jobs {
        more(job, 100)?;
    }
    for job in jobs {
        let report = job.stop()?;
        assert_eq!(report.failures(), 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn ten_restarts_under_load_fail_no_connection() -> Result<()> {
    let shop = Shop::open()?;
    let mut agent = shop.agent()?;
    let job = shop.load(both()[0])?;
    for round in 0..10 {
        if round % 2 == 0 {
            agent.kill();
        } else {
            agent.terminate()?;
        }
        agent = shop.agent()?;
        more(&job, 50)?;
    }
    let report = job.stop()?;
    assert_eq!(report.failures(), 0, "{report:?}");
    Ok(())
}

#[test]
fn a_second_agent_waits_for_the_first() -> Result<()> {
    let shop = Shop::open()?;
    let first = shop.agent()?;
    let second = Agent::spawn(
        shop.node(),
        &["--manifests".as_ref(), shop.manifests.path().as_os_str()],
    )?;
    second.wait_until("it says that it waits", |agent| {
        Ok(agent.log().contains("another agent runs on this node"))
    })?;
    assert!(shop.client.connect((V4, 80))?.ok());
    first.terminate()?;
    second.wait_until_synced()?;
    assert!(shop.client.connect((V4, 80))?.ok());
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_and_says_what_it_removed() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let refused = agent::cleanup(shop.node()).expect_err("an agent is running");
    assert!(
        refused.to_string().contains("an agent is running"),
        "{refused}"
    );
    assert!(
        shop.client.connect((V4, 80))?.ok(),
        "a refused cleanup removes nothing"
    );
    agent.terminate()?;

    let said = agent::cleanup(shop.node())?;
    for name in [
        "connect4",
        "connect6",
        "getpeername4",
        "getpeername6",
        "SERVICES",
        "BACKENDS",
    ] {
        assert!(said.contains(name), "{name} is not in:\n{said}");
    }
    let mut left = std::fs::read_dir(shop.node().bpffs())?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    // The kernel's own iterators, which every bpf file system has.
    left.retain(|name| name != "maps.debug" && name != "progs.debug");
    assert!(left.is_empty(), "{left:?}");
    let outcome = shop
        .client
        .exchange(Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300)))?;
    assert!(!outcome.ok(), "nothing balances any more: {outcome:?}");
    let again = agent::cleanup(shop.node())?;
    assert!(again.contains("nothing"), "{again}");
    Ok(())
}

#[test]
fn leftovers_of_another_version_go_once_everything_is_programmed() -> Result<()> {
    let shop = Shop::open()?;
    shop.agent()?.terminate()?;
    // What a Weir of other table layouts would have left.
    let weir = shop.node().bpffs().join("weir");
    std::fs::create_dir_all(weir.join("v0/maps"))?;
    std::fs::create_dir_all(weir.join("v0/links"))?;
    let agent = shop.agent()?;
    agent.wait_until("v0 is gone", |_| Ok(!weir.join("v0").exists()))?;
    assert!(weir.join(format!("v{}", weir_abi::VERSION)).exists());
    assert!(shop.client.connect((V4, 80))?.ok());
    Ok(())
}
