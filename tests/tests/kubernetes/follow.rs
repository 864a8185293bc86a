//! The agent follows what users and controllers do.

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    jiff::Timestamp,
};
use serde_json::json;
use weir_tests::{
    agent::Agent,
    control_plane::{self, eventually},
};

use crate::shop::{Shop, web};

#[test]
fn services_and_pods_are_followed() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "follow")?;
    let agent = shop.agent()?;

    let to = shop.service("web")?;
    shop.wait_until_refused(&agent, &to)?;
    shop.pods(&["web-1"])?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    shop.pods(&["web-2", "web-3"])?;
    shop.wait_for(&agent, &to, &["web-1", "web-2", "web-3"])?;

    // Readiness and the end of a pod.
    shop.namespace.set_ready("web-2", false)?;
    shop.wait_for(&agent, &to, &["web-1", "web-3"])?;
    shop.namespace.terminate("web-3")?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    shop.namespace.set_ready("web-1", false)?;
    // Nobody is ready any more: what is being terminated and still serves takes over.
    shop.wait_for(&agent, &to, &["web-3"])?;
    shop.namespace.delete::<core::Pod>("web-3")?;
    shop.wait_until_refused(&agent, &to)?;
    shop.namespace.set_ready("web-2", true)?;
    shop.wait_for(&agent, &to, &["web-2"])?;

    // The service itself: another target port, by number and by name, another port, and its selector.
    let patch = |patch| shop.namespace.patch::<core::Service>("web", patch);
    let port = |port: u16, target: serde_json::Value| json!({ "spec": { "ports": [{ "name": "http", "port": port, "targetPort": target }] } });
    patch(port(80, 9090.into()))?;
    shop.wait_for(&agent, &to, &["web-2-admin"])?;
    patch(port(80, "http".into()))?;
    shop.wait_for(&agent, &to, &["web-2"])?;
    patch(port(81, "admin".into()))?;
    shop.wait_for(&agent, &to.port(81), &["web-2-admin"])?;
    shop.wait_until_refused(&agent, &to)?;
    shop.namespace
        .pod(&shop.pod_of("web-3", "other", shop.node_name())?)?;
    patch(json!({ "spec": { "selector": { "app": "other" } } }))?;
    shop.wait_for(&agent, &to.port(81), &["web-3-admin"])?;

    let seen = shop
        .seen(&agent, "web")?
        .context("the agent does not show it")?;
    assert_eq!((seen.kind.as_str(), seen.ports.len()), ("ClusterIP", 1));
    assert_eq!(
        (seen.ports[0].name.as_str(), seen.ports[0].port),
        ("http", 81)
    );
    assert_eq!(
        shop.endpoints(&agent, "web")?,
        shop.sockets(&["web-3"], 9090)?
    );
    let on = seen.ports[0]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.node.as_deref());
    assert_eq!(on.collect::<Vec<_>>(), [Some(shop.node_name()); 2]);

    shop.namespace.delete::<core::Service>("web")?;
    shop.wait_until_untouched(&agent, &to.port(81))?;
    assert_eq!(shop.seen(&agent, "web")?, None);
    Ok(())
}

#[test]
fn labels_that_give_a_service_away_are_followed() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "labels")?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        let set = |value: serde_json::Value| {
            let patch = json!({ "metadata": { "labels": { label: value } } });
            shop.namespace.patch::<core::Service>("web", patch)
        };
        set("somebody".into())?;
        shop.wait_until_untouched(&agent, &to)?;
        assert_eq!(shop.seen(&agent, "web")?, None, "{label}");
        set(json!(null))?;
        shop.wait_for(&agent, &to, &["web-1"])?;
    }
    Ok(())
}

#[test]
fn the_type_of_a_service_may_change() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "types")?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    let patch = |spec: serde_json::Value| {
        shop.namespace
            .patch::<core::Service>("web", json!({ "spec": spec }))
    };

    patch(json!({
        "type": "ExternalName", "externalName": "shop.example.com",
        "clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
    }))?;
    shop.wait_until_untouched(&agent, &to)?;
    assert_eq!(shop.seen(&agent, "web")?, None);

    patch(
        json!({ "type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "PreferDualStack" }),
    )?;
    let again = shop.frontends("web")?;
    shop.wait_for(&agent, &again, &["web-1"])?;

    patch(json!({ "type": "NodePort" }))?;
    agent.wait_until("it is a NodePort service", |agent| {
        Ok(shop
            .seen(agent, "web")?
            .is_some_and(|seen| seen.kind == "NodePort"))
    })?;
    shop.wait_for(&agent, &again, &["web-1"])?;

    // Headless from its birth: never ours.
    let headless = web("headless").spec("clusterIP", "None");
    shop.namespace.service(&headless)?;
    shop.namespace
        .pod(&shop.pod_of("web-2", "headless", shop.node_name())?)?;
    let later = shop.service("later")?;
    shop.wait_until_refused(&agent, &later)?;
    assert_eq!(shop.seen(&agent, "headless")?, None);
    Ok(())
}

#[test]
fn an_object_that_weir_cannot_use_stops_nothing_else() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "malformed")?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;

    // The API server takes multicast addresses of all scopes but link-local; no connection can go there.
    let name = format!("{}/odd", shop.namespace.name());
    let slice = |address: &str| {
        json!({
            "metadata": { "name": "odd", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [{ "addresses": [address] }],
        })
    };
    let skipped = |agent: &Agent| -> Result<Option<String>> {
        let status = agent.status()?;
        let skipped = status["skipped"]
            .as_array()
            .context("no list of what is skipped")?;
        let skipped = skipped.iter().find(|object| object["name"] == name);
        Ok(skipped.map(|object| format!("{} {}", object["kind"], object["reason"])))
    };
    shop.namespace.create::<EndpointSlice>(slice("239.1.2.3"))?;
    agent.wait_until("the odd slice is reported", |agent| {
        Ok(skipped(agent)?.is_some())
    })?;
    let said = skipped(&agent)?.unwrap_or_default();
    for part in [
        "EndpointSlice",
        "endpoints[0].addresses[0]",
        "239.1.2.3",
        "multicast",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(agent.log().contains(&name), "{}", agent.log());
    // Other stories may have others.
    assert!(agent.metric(r#"weir_objects_skipped{kind="EndpointSlice"}"#)? >= 1.0);
    assert_eq!(
        agent.status()?["healthy"],
        true,
        "one odd object is no reason to be ill"
    );

    // The watch goes on, for this service and for others, also after a new list with the odd object in it.
    shop.pods(&["web-2"])?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    agent.terminate()?;
    let agent = shop.agent()?;
    agent.wait_until("the odd slice is reported again", |agent| {
        Ok(skipped(agent)?.is_some())
    })?;
    shop.namespace.delete::<core::Pod>("web-2")?;
    shop.wait_for(&agent, &to, &["web-1"])?;

    // Mended, it counts.
    let [v4, _] = shop.addresses("web-3")?;
    let mended = json!({ "endpoints": [{ "addresses": [v4] }] });
    shop.namespace.patch::<EndpointSlice>("odd", mended)?;
    agent.wait_until("the mended slice counts", |_| {
        shop.is_answered_by(to.v4, &["web-1", "web-3"])
    })?;
    ensure!(
        skipped(&agent)?.is_none(),
        "a mended slice is still reported"
    );
    // Spoilt again, its last good version stays; deleted, it is neither used nor reported.
    let spoilt = json!({ "endpoints": [{ "addresses": ["239.1.2.3"] }] });
    shop.namespace.patch::<EndpointSlice>("odd", spoilt)?;
    agent.wait_until("the odd slice is reported again", |agent| {
        Ok(skipped(agent)?.is_some())
    })?;
    assert!(shop.is_answered_by(to.v4, &["web-1", "web-3"])?);
    shop.namespace.delete::<EndpointSlice>("odd")?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    ensure!(
        skipped(&agent)?.is_none(),
        "a deleted slice is still reported"
    );
    Ok(())
}

#[test]
fn programming_latency_is_measured_from_the_change_of_the_pod() -> Result<()> {
    const COUNT: &str = "kubeproxy_network_programming_duration_seconds_count";
    const SUM: &str = "kubeproxy_network_programming_duration_seconds_sum";
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "latency")?;
    let to = shop.service("web")?;
    shop.namespace.pod(&shop.pod("web-1")?.ready(false))?;
    shop.namespace
        .wait_for_endpoints("web", "the pod is known", |endpoints| {
            endpoints.all().len() == 2
        })?;
    // Other stories' slices change at the same time, and count; so only what must have been counted is compared.
    let agent = shop.agent()?;
    let second = || Timestamp::now().as_second();
    let started = second();
    // A condition's time has no fractions: within the agent's first second it would lie before its start.
    eventually("the agent's first second is over", || {
        Ok((second() > started).then_some(()))
    })?;
    let before = (agent.metric(COUNT)?, agent.metric(SUM)?);
    let now = Timestamp::from_second(second())?.to_string();
    let patch = json!({ "status": { "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": now },
    ] } });
    shop.namespace.kubectl(&[
        "patch",
        "pod",
        "web-1",
        "--subresource=status",
        "--type=strategic",
        "-p",
        &patch.to_string(),
    ])?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    let slices = shop.namespace.endpoints("web")?.slices;
    for slice in &slices {
        let annotations = slice.metadata.annotations.clone().unwrap_or_default();
        let trigger = annotations.get("endpoints.kubernetes.io/last-change-trigger-time");
        assert_eq!(trigger, Some(&now));
    }
    agent.wait_until("both slices are counted", |agent| {
        Ok(agent.metric(COUNT)? >= before.0 + 2.0)
    })?;
    assert!(agent.metric(SUM)? > before.1, "programming takes time");
    Ok(())
}
