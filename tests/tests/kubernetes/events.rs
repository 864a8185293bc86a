//! What the agent tells through the API: Events on objects that are not served as they ask.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use weir_tests::{
    agent::Agent,
    control_plane::{self, Identity, Service, eventually},
};

use crate::{rights::Rights, shop::Shop};

/// What `kubectl describe` says of an object's Events.
fn described(shop: &Shop<'_>, kind: &str, name: &str) -> Result<String> {
    let namespace = shop.namespace.name();
    let text = shop
        .cluster
        .kubectl(&["describe", "-n", namespace, kind, name])?;
    let events = text.split_once("Events:").map(|(_, events)| events);
    Ok(events.unwrap_or_default().to_owned())
}

/// How many backends an agent has programmed: those of other stories as well.
fn backends(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let mut tables = status["tables"].as_array().into_iter().flatten();
    let backends = tables.find(|table| table["name"] == "BACKENDS");
    let entries = backends.and_then(|table| table["entries"].as_u64());
    entries.context("no BACKENDS")
}

/// A slice of the service `large` with so many endpoints, one of which there is.
fn large(shop: &Shop<'_>, endpoints: usize) -> Result<Value> {
    let there = shop.addresses("web-1")?[0].to_string();
    let others = (1..endpoints).map(|host| format!("10.250.0.{host}"));
    let endpoints = std::iter::once(there).chain(others);
    let endpoints: Vec<Value> = endpoints.map(|at| json!({"addresses": [at]})).collect();
    let ports = (0..4).map(|n| json!({"name": format!("p{n}"), "port": 8080 + n}));
    Ok(json!({
        "metadata": {"name": "large", "labels": {"kubernetes.io/service-name": "large"}},
        "addressType": "IPv4",
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints,
    }))
}

#[test]
fn a_service_that_does_not_fit_has_an_event_and_keeps_what_it_had() -> Result<()> {
    let cluster = control_plane::shared()?;
    let shop = Shop::open(&cluster, "unfit")?;
    let service = (0..4).fold(Service::new("large"), |service, n| {
        service.port(&format!("p{n}"), 80 + n, 8080 + n)
    });
    let to = shop.create(&service)?;
    shop.namespace.create::<EndpointSlice>(large(&shop, 1)?)?;
    let agent = shop.agent()?;
    let room = backends(&agent)? + 100;
    agent.terminate()?;
    let agent = shop.agent_with(&[&format!("--max-backends={room}")])?;
    agent.wait_until("it is served", |_| shop.is_answered_by(to.v4, &["web-1"]))?;
    let larger = json!({"endpoints": large(&shop, 100)?["endpoints"]});
    shop.namespace.patch::<EndpointSlice>("large", larger)?;
    let events = eventually("its Event is there", || {
        let events = described(&shop, "service", "large")?;
        Ok(events.contains("DoesNotFit").then_some(events))
    })?;
    for part in ["Warning", "more entries in BACKENDS", shop.node_name()] {
        ensure!(events.contains(part), "{part} is not in {events}");
    }
    let name = format!("{}/large", shop.namespace.name());
    let unprogrammed = |agent: &Agent| -> Result<bool> {
        let status = agent.status()?;
        let mut unprogrammed = status["unprogrammed"].as_array().into_iter().flatten();
        Ok(unprogrammed.any(|service| service["name"] == name))
    };
    ensure!(unprogrammed(&agent)?);
    ensure!(agent.metric("weir_services_unprogrammed")? >= 1.0);
    ensure!(
        agent
            .log()
            .contains("a service is not programmed as it should be"),
        "{}",
        agent.log()
    );
    for _ in 0..10 {
        ensure!(
            shop.is_answered_by(to.v4, &["web-1"])?,
            "its old state is whole"
        );
    }
    agent.terminate()?;
    let agent = shop.agent()?;
    agent.wait_until("there is room", |agent| Ok(!unprogrammed(agent)?))?;
    Ok(())
}

#[test]
fn an_object_that_cannot_be_read_has_an_event_and_nothing_else_needs_the_right() -> Result<()> {
    let cluster = control_plane::shared()?;
    let rights = Rights::new(&cluster, "events")?;
    rights.grant(&[("events", "create")])?;
    let shop = Shop::open_as(&cluster, "events", &Identity::User(rights.user()))?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    // The API server takes multicast addresses of all scopes but link-local; no connection can go there.
    let odd = |name: &str| {
        shop.namespace.create::<EndpointSlice>(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["239.1.2.3"]}],
        }))
    };
    odd("odd")?;
    agent.wait_until("the missing right is named, once", |agent| {
        let log = agent.log();
        Ok(log.matches("cannot make Events").count() == 1
            && log.contains("grant the verb create on \"events\" in API group \"events.k8s.io\""))
    })?;
    ensure!(shop.is_answered_by(to.v4, &["web-1"])?, "all else goes on");

    rights.grant(&[])?;
    odd("odder")?;
    let events = eventually("its Event is there", || {
        let events = described(&shop, "endpointslice", "odder")?;
        Ok(events.contains("Malformed").then_some(events))
    })?;
    ensure!(events.contains("multicast"), "{events}");
    // Whoever says the same again, in another life or on another node, makes no other.
    agent.terminate()?;
    let agent = shop.agent()?;
    odd("oddest")?;
    eventually("the next one's Event is there", || {
        let events = described(&shop, "endpointslice", "oddest")?;
        Ok(events.contains("Malformed").then_some(()))
    })?;
    let events = described(&shop, "endpointslice", "odder")?;
    ensure!(events.matches("Malformed").count() == 1, "{events}");
    ensure!(agent.status()?["skipped"].to_string().contains("odder"));
    Ok(())
}
