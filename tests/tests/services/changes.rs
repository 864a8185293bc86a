//! What changes in the cluster, and that connections follow it.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use weir_tests::manifests;
use weir_world::peer::{Exchange, LoadReport};

use crate::shop::{ADDRESSES, SERVERS, Shop, V4, both, more};
#[test]
fn a_service_that_gets_endpoints_is_no_longer_refused() -> Result<()> {
    let shop = Shop::open()?;
    shop.manifests.endpoints("web", &[])?;
    let agent = shop.agent()?;
    assert_eq!(shop.client.connect((V4, 80))?.errno(), Some("ECONNREFUSED"));

    shop.manifests
        .endpoints("web", &shop.endpoints(&["web-2"])?)?;
    agent.wait_until("web-2 answers", |_| {
        Ok(shop.client.connect((V4, 80))?.answered_by.as_deref() == Some("web-2"))
    })?;
    shop.manifests.delete("web")?;
    agent.wait_until("the service is gone", |_| {
        let to = Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300));
        let outcome = shop.client.exchange(to)?;
        Ok(!outcome.ok() && outcome.errno() != Some("ECONNREFUSED"))
    })?;
    Ok(())
}

#[test]
fn endpoints_come_and_go_under_load_without_a_failed_connection() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let jobs = [shop.load(both()[0])?, shop.load(both()[1])?];
    let sets: [&[&str]; 6] = [
        &["web-1"],
        &["web-2", "web-3"],
        &["web-3"],
        &["web-1", "web-2", "web-3"],
        &["web-2"],
        &["web-1", "web-3"],
    ];
    for round in 0..30 {
        shop.manifests
            .endpoints("web", &shop.endpoints(sets[round % sets.len()])?)?;
        for job in &jobs {
            more(job, 20)?;
        }
    }
    // The last set is in force: whatever is answered from here on is answered by it.
    agent.wait_until("only web-1 and web-3 are programmed", |agent| {
        let services = agent.services()?;
        let endpoints = services[0]["ports"][0]["endpoints"].as_array();
        Ok(endpoints.is_some_and(|endpoints| endpoints.len() == 4))
    })?;
    agent.wait_until_synced()?;
    let before = jobs[0].report()?;
    more(&jobs[0], 200)?;
    let after = jobs[0].report()?;
    let two = |report: &LoadReport| report.answered_by.get("web-2").copied();
    // Exchanges that had begun before may still be answered: four workers at most.
    assert!(
        two(&after).unwrap_or(0) <= two(&before).unwrap_or(0) + 4,
        "{after:?}"
    );

    for job in jobs {
        let report = job.stop()?;
        assert_eq!(report.failures(), 0, "{report:?}");
        for server in SERVERS {
            assert!(
                report.answered_by.contains_key(server),
                "{server} never answered: {report:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn services_that_are_not_ours_are_left_alone_also_when_the_label_toggles() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        let mut labelled = manifests::service("web", &ADDRESSES);
        labelled["metadata"]["labels"] = serde_json::json!({label: "somebody"});
        shop.manifests.apply("web", &labelled)?;
        agent.wait_until(&format!("{label} takes it away"), |agent| {
            Ok(agent.services()?.as_array().is_some_and(Vec::is_empty))
        })?;
        let outcome = shop
            .client
            .exchange(Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300)))?;
        assert!(
            !outcome.ok() && outcome.errno() != Some("ECONNREFUSED"),
            "{outcome:?}"
        );
        shop.manifests
            .apply("web", &manifests::service("web", &ADDRESSES))?;
        agent.wait_until("it is ours again", |_| {
            Ok(shop.client.connect((V4, 80))?.ok())
        })?;
    }
    Ok(())
}

#[test]
fn thirty_changes_a_moment_are_coalesced_and_none_is_lost() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    for n in 0..30 {
        let address = format!("10.96.1.{n}");
        shop.manifests
            .service(&format!("s{n}"), &[&address], &shop.endpoints(&["web-2"])?)?;
    }
    agent.wait_until("all are there", |agent| {
        Ok(agent
            .services()?
            .as_array()
            .is_some_and(|services| services.len() == 31))
    })?;
    agent.wait_until_synced()?;
    for n in 0..30 {
        let outcome = shop.client.connect((Ipv4Addr::new(10, 96, 1, n), 80))?;
        assert_eq!(
            outcome.answered_by.as_deref(),
            Some("web-2"),
            "s{n}: {outcome:?}"
        );
    }
    Ok(())
}
#[test]
fn a_broken_manifest_is_named_and_changes_nothing() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    shop.manifests.write(
        "web",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: [web\n",
    )?;
    agent.wait_until("the broken file is reported", |agent| {
        Ok(agent.status()?["skipped"]
            .as_array()
            .is_some_and(|skipped| !skipped.is_empty()))
    })?;
    let status = agent.status()?;
    let skipped = status["skipped"][0].to_string();
    assert!(skipped.contains("web.yaml"), "{skipped}");
    assert!(skipped.contains("line "), "{skipped}");
    assert!(
        shop.client.connect((V4, 80))?.ok(),
        "the last good state stays"
    );

    // Valid YAML, but no valid Service: reported as an object, with the field.
    let mut bad = manifests::service("web", &ADDRESSES);
    bad["spec"]["ports"][0]["port"] = 70000.into();
    shop.manifests.apply("web", &bad)?;
    agent.wait_until("the bad port is reported", |agent| {
        Ok(agent.status()?["skipped"]
            .to_string()
            .contains("spec.ports[0].port"))
    })?;
    assert!(
        shop.client.connect((V4, 80))?.ok(),
        "the last good state stays"
    );
    assert_eq!(
        agent.metric(r#"weir_objects_skipped{kind="Service"}"#)?,
        1.0
    );

    shop.manifests
        .apply("web", &manifests::service("web", &ADDRESSES))?;
    agent.wait_until("nothing is skipped", |agent| {
        Ok(agent.status()?["skipped"]
            .as_array()
            .is_some_and(Vec::is_empty))
    })?;
    Ok(())
}
