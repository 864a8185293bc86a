//! What the agent tells about itself.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use weir::attach::HOOKS;
use weir_tests::agent;

use crate::shop::Shop;
#[test]
fn health_metrics_and_status_tell_of_a_working_agent() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for path in ["/healthz", "/livez"] {
        let (status, body) = agent::http_get(shop.node(), local(10256), path)?;
        assert_eq!(status, 200, "{path}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body)?;
        assert!(
            body["lastUpdated"].is_string() && body["currentTime"].is_string(),
            "{body}"
        );
    }
    // Deleting its Node makes the node ineligible, but the agent lives.
    shop.manifests.delete("node1")?;
    agent.wait_until("healthz says 503", |_| {
        Ok(agent::http_get(shop.node(), local(10256), "/healthz")?.0 == 503)
    })?;
    assert_eq!(agent::http_get(shop.node(), local(10256), "/livez")?.0, 200);

    // Each frontend and each address, once for this node and once for outside.
    for (map, entries) in [("SERVICES", 8.0), ("BACKENDS", 6.0), ("SLOTS", 6.0)] {
        assert_eq!(
            agent.metric(&format!("weir_map_entries{{map=\"{map}\"}}"))?,
            entries,
            "{map}"
        );
        assert!(agent.metric(&format!("weir_map_capacity{{map=\"{map}\"}}"))? > 1000.0);
    }
    assert!(agent.metric("kubeproxy_sync_proxy_rules_duration_seconds_count")? >= 1.0);
    assert_eq!(
        agent.metric("kubeproxy_sync_proxy_rules_service_changes_pending")?,
        0.0
    );
    assert!(agent.metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds")? > 1e9);
    assert!(agent.metric(r#"weir_watch_events_total{kind="EndpointSlice"}"#)? >= 2.0);

    agent.wait_until("the pods are served", |agent| {
        let pods = &agent.status()?["pods"];
        Ok(pods["interfaces"].as_array().map(Vec::len) == Some(4))
    })?;
    let status = agent.status()?;
    assert_eq!(status["node"], "node1");
    let hooks = status["attachments"].as_array().context("no attachments")?;
    // At sockets, at the pods' interfaces together, and at the external device.
    assert_eq!(hooks.len(), HOOKS.len() + 4, "{hooks:?}");
    assert!(
        hooks.iter().all(|hook| hook["pinned"].is_string()),
        "{hooks:?}"
    );
    let text = agent::weir(shop.node(), &["services"], &[])?;
    let text = String::from_utf8(text.stdout)?;
    assert!(
        text.contains("web") && text.contains("10.96.0.80"),
        "{text}"
    );
    Ok(())
}
