//! The API server goes away, comes back, and forgets.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1 as core;
use weir_tests::{agent, control_plane};

use crate::shop::{KINDS, Shop, failing, source, wait_until_cut_off, wait_until_watching};

#[test]
fn a_restart_of_the_api_server_costs_no_connection() -> Result<()> {
    let cluster = control_plane::exclusive()?;
    let shop = Shop::open(&cluster, "restart")?;
    let to = shop.service("web")?;
    shop.pods(&["web-1", "web-2"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    let loads = to.both().map(|to| shop.load(to));
    let loads: Vec<_> = loads.into_iter().collect::<Result<_>>()?;

    for kill in [false, true] {
        if kill {
            cluster.kill_api_server()?;
        } else {
            cluster.stop_api_server()?;
        }
        wait_until_cut_off(&agent)?;
        let status = agent.status()?;
        assert_eq!(status["healthy"], false);
        let said = status["attention"].to_string();
        ensure!(said.contains("watching Service fails: "), "{said}");
        assert_eq!(
            source(&status, "Service")?["synced"],
            true,
            "what was listed stays known"
        );
        loads.iter().try_for_each(|load| load.more(100))?;
        cluster.start_api_server()?;
        wait_until_watching(&agent)?;
        // And the watches are not only open.
        let (pod, servers) = if kill {
            ("web-3", ["web-1", "web-2", "web-3"].as_slice())
        } else {
            ("web-2", ["web-1"].as_slice())
        };
        shop.namespace.set_ready("web-2", kill)?;
        if kill {
            shop.pods(&[pod])?;
        }
        shop.wait_for(&agent, &to, servers)?;
    }
    assert_eq!(agent.status()?["healthy"], true);
    loads.into_iter().try_for_each(crate::shop::Load::stop)
}

#[test]
fn a_dropped_watch_is_taken_up_again() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "dropped")?;
    let to = shop.service("web")?;
    let gone = shop.service("gone")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    let load = shop.load(to.v4)?;

    // Cut off, while things change.
    shop.proxy.refuse();
    wait_until_cut_off(&agent)?;
    shop.namespace.delete::<core::Service>("gone")?;
    let new = shop.service("new")?;
    shop.namespace
        .pod(&shop.pod_of("web-3", "new", shop.node_name())?)?;
    shop.pods(&["web-2"])?;
    load.more(100)?;
    assert_eq!(
        shop.connect(gone.v4)?.errno(),
        Some("ECONNREFUSED"),
        "nobody told it yet"
    );
    shop.proxy.restore()?;
    wait_until_watching(&agent)?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    shop.wait_for(&agent, &new, &["web-3"])?;
    shop.wait_until_untouched(&agent, &gone)?;

    // Cut again and again, in the midst of changes.
    for round in 0..3 {
        let accepted = shop.proxy.accepted();
        shop.namespace.set_ready("web-2", round % 2 == 1)?;
        shop.proxy.cut();
        let servers = ["web-1", "web-2"];
        shop.wait_for(&agent, &to, &servers[..1 + round % 2])?;
        agent.wait_until("all watches came again", |_| {
            Ok(shop.proxy.accepted() >= accepted + KINDS.len())
        })?;
    }
    load.stop()
}

#[test]
fn what_happened_before_an_expired_resource_version_is_not_lost() -> Result<()> {
    let cluster = control_plane::exclusive()?;
    let shop = Shop::open(&cluster, "expired")?;
    let to = shop.service("web")?;
    let gone = shop.service("gone")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    shop.wait_until_refused(&agent, &gone)?;
    let load = shop.load(to.v4)?;

    shop.proxy.refuse();
    wait_until_cut_off(&agent)?;
    shop.namespace.delete::<core::Service>("gone")?;
    shop.namespace.delete::<core::Pod>("web-1")?;
    let new = shop.service("new")?;
    shop.namespace
        .pod(&shop.pod_of("web-3", "new", shop.node_name())?)?;
    shop.pods(&["web-2"])?;
    shop.namespace
        .wait_for_endpoints("web", "web-2 has taken over", |endpoints| {
            endpoints.ready().len() == 2
        })?;
    cluster.expire_resource_versions()?;
    shop.proxy.restore()?;
    // One that has tried another server meanwhile lists again without being told to.
    agent.wait_until("watches are too old, and begin anew", |agent| {
        let log = agent.log();
        Ok(["fell too far behind", "trying another API server"]
            .iter()
            .any(|what| log.contains(what)))
    })?;
    shop.wait_until_untouched(&agent, &gone)?;
    shop.wait_for(&agent, &to, &["web-2"])?;
    shop.wait_for(&agent, &new, &["web-3"])?;
    wait_until_watching(&agent)?;
    assert_eq!(shop.seen(&agent, "gone")?, None);
    load.stop()
}

#[test]
fn an_agent_may_start_before_the_api_server() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "early")?;
    let before = shop.service("before")?;
    shop.namespace
        .pod(&shop.pod_of("web-1", "before", shop.node_name())?)?;
    shop.proxy.refuse();
    let agent = shop.spawn_agent()?;
    wait_until_cut_off(&agent)?;

    let status = agent.status()?;
    assert_eq!(status["healthy"], false);
    let said = status["attention"].to_string();
    let expected = format!("nothing listens at {}", shop.proxy.url());
    for kind in KINDS {
        assert_eq!(source(&status, kind)?["synced"], false, "{kind}");
        assert!(
            said.contains(&format!("watching {kind} fails: {expected}")),
            "{said}"
        );
    }
    assert_eq!(status["sync"]["count"], 0);
    assert!(agent.log().contains(&expected), "{}", agent.log());
    // Said once, however long it lasts.
    agent.wait_until("some attempts have failed", |agent| {
        Ok(agent.metric(r#"weir_watch_failures_total{kind="Pod"}"#)? >= 4.0)
    })?;
    let log = agent.log();
    let warnings = log.lines().filter(|line| line.contains(" WARN "));
    let warnings: Vec<&str> = warnings.filter(|line| line.contains("watch")).collect();
    assert_eq!(warnings.len(), KINDS.len(), "{warnings:?}");
    // For people and scripts alike.
    let output = agent::weir(shop.node(), &["status"], &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("NOT HEALTHY") && text.contains(&expected),
        "{text}"
    );
    // But it lives: to restart it would help nobody.
    let livez = agent::http_get(shop.node(), ([127, 0, 0, 1], 10256), "/livez")?;
    assert_eq!(livez.0, 200, "{}", livez.1);
    let outcome = shop.connect(before.v4)?;
    ensure!(
        !outcome.ok() && outcome.errno() != Some("ECONNREFUSED"),
        "{outcome:?}"
    );

    let meanwhile = shop.service("meanwhile")?;
    shop.namespace
        .pod(&shop.pod_of("web-2", "meanwhile", shop.node_name())?)?;
    shop.proxy.restore()?;
    agent.wait_until_synced()?;
    shop.wait_for(&agent, &before, &["web-1"])?;
    shop.wait_for(&agent, &meanwhile, &["web-2"])?;
    wait_until_watching(&agent)?;
    assert_eq!(failing(&agent.status()?)?, [""; 0]);
    let output = agent::weir(shop.node(), &["status"], &[])?;
    output
        .status
        .code()
        .filter(|code| *code == 0)
        .context("status does not say that it is healthy")?;
    Ok(())
}
