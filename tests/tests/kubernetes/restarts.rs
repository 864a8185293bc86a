//! A new agent takes over what the old one left, and removes nothing before it knows everything.

use anyhow::Result;
use k8s_openapi::api::core::v1 as core;
use weir_tests::control_plane::{self, Identity};

use crate::{
    rights::Rights,
    shop::{Shop, failing, wait_until_cut_off},
};

#[test]
fn leftovers_are_removed_only_when_every_kind_is_listed() -> Result<()> {
    let cluster = control_plane::shared()?;
    let rights = Rights::new(&cluster, "leftovers")?;
    rights.grant(&[])?;
    let shop = Shop::open_as(&cluster, "leftovers", &Identity::User(rights.user()))?;
    let (kept, gone) = (shop.service("kept")?, shop.service("gone")?);
    shop.namespace
        .pod(&shop.pod_of("web-1", "kept", shop.node_name())?)?;
    shop.namespace
        .pod(&shop.pod_of("web-2", "gone", shop.node_name())?)?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &kept, &["web-1"])?;
    shop.wait_for(&agent, &gone, &["web-2"])?;
    agent.kill();
    shop.namespace.delete::<core::Service>("gone")?;

    // The server is away: everything stays as it was.
    shop.proxy.refuse();
    let agent = shop.spawn_agent()?;
    wait_until_cut_off(&agent)?;
    assert!(agent.log().contains("how=Replaced"), "{}", agent.log());
    shop.wait_for(&agent, &kept, &["web-1"])?;
    shop.wait_for(&agent, &gone, &["web-2"])?;

    // It is back, but one kind cannot be listed: what is missing may still be explained by it.
    rights.grant(&[("namespaces", "list")])?;
    rights.wait_until_denied("list", "namespaces")?;
    shop.proxy.restore()?;
    agent.wait_until("all but one kind are listed", |agent| {
        let status = agent.status()?;
        let sources = status["sources"].as_array().map_or(0, |sources| {
            sources
                .iter()
                .filter(|source| source["synced"] == true)
                .count()
        });
        Ok(sources == 4 && failing(&status)? == ["Namespace"])
    })?;
    shop.wait_for(&agent, &kept, &["web-1"])?;
    shop.wait_for(&agent, &gone, &["web-2"])?;
    assert_eq!(agent.status()?["sync"]["count"], 0);

    rights.grant(&[])?;
    shop.wait_until_untouched(&agent, &gone)?;
    shop.wait_for(&agent, &kept, &["web-1"])?;
    Ok(())
}
