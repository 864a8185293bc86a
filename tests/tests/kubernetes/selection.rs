//! Which endpoints are chosen, as the API's fields and the controllers' slices say.

use anyhow::Result;
use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use weir_tests::control_plane::{self, Node, Service};

use crate::shop::{Shop, ZONE, web};

#[test]
fn slices_of_one_service_are_merged_and_duplicates_collapse() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "merged")?;
    // Without a selector nobody else makes slices for it.
    let service = Service::new("web")
        .port("http", 80, 8080)
        .port("admin", 81, 9090);
    let to = shop.create(&service)?;
    let agent = shop.agent()?;
    let slice = |name: &str, family: usize, servers: &[&str], ports: Value| -> Result<()> {
        let endpoints = servers.iter().map(|server| -> Result<Value> {
            Ok(json!({ "addresses": [shop.addresses(server)?[family]] }))
        });
        let endpoints: Vec<Value> = endpoints.collect::<Result<_>>()?;
        shop.namespace.create::<EndpointSlice>(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": (["IPv4", "IPv6"][family]),
            "ports": ports,
            "endpoints": endpoints,
        }))?;
        Ok(())
    };
    let http = || json!([{ "name": "http", "port": 8080 }]);
    slice("one", 0, &["web-1", "web-2"], http())?;
    slice("two", 0, &["web-2", "web-3"], http())?;
    slice("six", 1, &["web-1"], http())?;
    // A port that the service calls by another name is not its.
    slice(
        "else",
        0,
        &["web-1"],
        json!([{ "name": "other", "port": 9090 }]),
    )?;
    agent.wait_until("the slices of IPv4 are one list", |_| {
        shop.is_answered_by(to.v4, &["web-1", "web-2", "web-3"])
    })?;
    agent.wait_until("IPv6 has its own", |_| {
        shop.is_answered_by(to.v6, &["web-1"])
    })?;
    shop.wait_until_refused(&agent, &to.port(81))?;
    let seen = shop.seen(&agent, "web")?.unwrap_or_default();
    let backends = seen.ports[0]
        .frontends
        .iter()
        .map(|frontend| frontend.endpoints);
    // Of each family, for this node and for outside.
    assert_eq!(
        backends.collect::<Vec<_>>(),
        [3, 3, 1, 1],
        "web-2 counts once"
    );

    // One port of a slice more; one slice less: what both had stays.
    let both = json!([{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9090 }]);
    shop.namespace
        .patch::<EndpointSlice>("two", json!({ "ports": both }))?;
    agent.wait_until("the other port has endpoints", |_| {
        shop.is_answered_by(to.port(81).v4, &["web-2-admin", "web-3-admin"])
    })?;
    shop.namespace.delete::<EndpointSlice>("one")?;
    agent.wait_until("what only the deleted slice had is gone", |_| {
        shop.is_answered_by(to.v4, &["web-2", "web-3"])
    })?;
    // A slice may change hands.
    let given = json!({ "metadata": { "labels": { "kubernetes.io/service-name": "nobody" } } });
    shop.namespace.patch::<EndpointSlice>("two", given)?;
    agent.wait_until("no endpoint of IPv4 is left", |_| {
        Ok(shop.connect(to.v4)?.errno() == Some("ECONNREFUSED"))
    })?;
    assert!(shop.is_answered_by(to.v6, &["web-1"])?);
    Ok(())
}

#[test]
fn pods_that_are_not_ready_serve_if_the_service_says_so() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "not-ready")?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    shop.namespace.pod(&shop.pod("web-2")?.ready(false))?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    let publish = |publish: bool| {
        let patch = json!({ "spec": { "publishNotReadyAddresses": publish } });
        shop.namespace.patch::<core::Service>("web", patch)
    };
    publish(true)?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    publish(false)?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    Ok(())
}

#[test]
fn a_local_policy_keeps_to_the_node() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "local")?;
    let far = cluster.node(&Node::new(&format!("{}-far", shop.namespace.name())))?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    shop.namespace
        .pod(&shop.pod_of("web-2", "web", far.name())?)?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    let policy = |policy: &str| {
        let patch = json!({ "spec": { "internalTrafficPolicy": policy } });
        shop.namespace.patch::<core::Service>("web", patch)
    };
    policy("Local")?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    shop.namespace.delete::<core::Pod>("web-1")?;
    // As kube-proxy does it: dropped, not refused, for there is somebody, only not here.
    agent.wait_until("there is nobody on this node", |agent| {
        let seen = shop.seen(agent, "web")?.unwrap_or_default();
        let frontends = seen.ports.iter().flat_map(|port| &port.frontends);
        let mut internal = frontends.filter(|frontend| frontend.scope == "internal");
        Ok(internal.clone().count() == 2
            && internal.all(|frontend| frontend.verdict == "no_local_endpoints"))
    })?;
    agent.wait_until_synced()?;
    assert!(!shop.connect(to.v4)?.ok());
    policy("Cluster")?;
    shop.wait_for(&agent, &to, &["web-2"])?;
    Ok(())
}

#[test]
fn hints_follow_the_zone_of_the_node() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "zones")?;
    let elsewhere = |name: &str, zone: &str| {
        cluster.node(&Node::new(&format!("{}-{name}", shop.namespace.name())).zone(zone))
    };
    let (near, far) = (elsewhere("near", ZONE)?, elsewhere("far", "b")?);
    let to = shop.create(&web("web").spec("trafficDistribution", "PreferClose"))?;
    shop.namespace
        .pod(&shop.pod_of("web-1", "web", near.name())?)?;
    shop.namespace
        .pod(&shop.pod_of("web-2", "web", far.name())?)?;
    shop.namespace
        .wait_for_endpoints("web", "the controller gives hints", |endpoints| {
            let endpoints = endpoints.slices.iter().flat_map(|slice| &slice.endpoints);
            let hinted =
                endpoints.filter(|e| e.hints.as_ref().is_some_and(|h| h.for_zones.is_some()));
            hinted.count() == 4
        })?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;

    let label = |label: &str| {
        shop.cluster
            .kubectl(&["label", "--overwrite", "node", shop.node_name(), label])
    };
    label("topology.kubernetes.io/zone=b")?;
    shop.wait_for(&agent, &to, &["web-2"])?;
    label("topology.kubernetes.io/zone=c")?;
    // Nobody is meant for this zone: then everybody is.
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    label(&format!("topology.kubernetes.io/zone={ZONE}"))?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    label("topology.kubernetes.io/zone-")?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    Ok(())
}
