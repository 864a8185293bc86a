//! What becomes of connections when their endpoint goes, or is about to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_world::{
    PodSpec,
    peer::{Conversation, Exchange},
};

use crate::{
    service::{ready, terminating},
    town::{Family, both_towns, town},
};

/// Connections from pods at the socket and packet by packet, from the node itself, and from outside by both kinds of nodes.
fn connections(
    town: &crate::town::Town,
    service: &crate::service::Service<'_>,
) -> Result<Vec<(String, Conversation)>> {
    let mut connections = Vec::new();
    for family in Family::BOTH {
        for (client, to) in [
            ("one-client", service.at(family)),
            ("one-mesh", service.at(family)),
            ("node1", service.at(family)),
            ("two-mesh", service.at_node("node2", family)?),
            ("ann", service.at_node("node1", family)?),
            ("ann", service.at_node("node3", family)?),
        ] {
            let exchange = Exchange::tcp(to).timeout(Duration::from_secs(5));
            let (conversation, outcome) = town.peer(client)?.open(exchange)?;
            let conversation = conversation.with_context(|| format!("{client}: {outcome:?}"))?;
            connections.push((format!("{client} to {to}"), conversation));
        }
    }
    Ok(connections)
}

#[test]
fn connections_to_a_deleted_endpoint_are_reset_and_not_left_hanging() -> Result<()> {
    for town in both_towns()? {
        for node in ["node1", "node2"] {
            let name = format!("deleted-{node}");
            let pod = town.add_server(PodSpec::new(&name).on(node))?;
            let mut service = town.service("deleted").node_port().to(&[&name]);
            service.apply()?;
            let connections = connections(&town, &service)?;
            // The node of the pod has failed, say: nobody sends a farewell.
            pod.node().ip(&[&format!("link set {} down", pod.host_veth())])?;
            town.forget_pod(&name)?;
            service.move_to(vec![ready("three-b")])?;
            for (who, connection) in &connections {
                let outcome = connection.ask("still there?")?;
                let errno = outcome.errno().with_context(|| format!("{who}: answered"))?;
                ensure!(
                    ["ECONNRESET", "ECONNABORTED", "EPIPE"].contains(&errno),
                    "{who}: {outcome:?}"
                );
                ensure!(outcome.elapsed < Duration::from_secs(5), "{who}: {outcome:?}");
            }
            town.world.remove_pod(&name)?;
        }
    }
    Ok(())
}

#[test]
fn connections_to_a_terminating_endpoint_go_on() -> Result<()> {
    for town in both_towns()? {
        let mut service = town.service("terminating").node_port().to(&["two-a"]);
        service.apply()?;
        let connections = connections(&town, &service)?;
        service.move_to(vec![terminating("two-a"), ready("one-a")])?;
        for (who, connection) in &connections {
            let outcome = connection.ask("still there?")?;
            ensure!(outcome.ok(), "{who}: {outcome:?}");
        }
        // Nor does it matter to them that the service goes altogether, as long as the pod is there.
        service.object["spec"]["type"] = "ClusterIP".into();
        service.apply()?;
        for (who, connection) in &connections {
            let outcome = connection.ask("still there?")?;
            ensure!(outcome.ok(), "{who}: {outcome:?}");
        }
    }
    Ok(())
}

/// A rolling update: each server is replaced, terminates, and ends when nobody is connected any more.
#[test]
fn a_rolling_update_fails_no_connection() -> Result<()> {
    let town = town()?;
    for policy in ["Cluster", "Local"] {
        let mut service = town
            .service("rolling")
            .load_balancer()
            .with("externalTrafficPolicy", policy)
            .to(&["one-a", "one-b"]);
        service.apply()?;
        let mut loads = Vec::new();
        for (client, to) in [
            ("ann", service.at_balancer(Family::V4)),
            ("ann", service.at_node("node1", Family::V6)?),
            ("one-client", service.at_balancer(Family::V4)),
            ("two-mesh", service.at(Family::V4)),
        ] {
            let load = weir_world::peer::LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60))
                .workers(2)
                .pause(Duration::from_millis(1));
            loads.push((client, town.peer(client)?.load(load)?));
        }
        for round in 0..6 {
            let (old, new) = if round % 2 == 0 { ("one-a", "two-a") } else { ("two-a", "one-a") };
            for endpoints in [
                vec![ready("one-b"), ready(old), ready(new)],
                vec![ready("one-b"), terminating(old), ready(new)],
                vec![ready("one-b"), ready(new)],
            ] {
                service.move_to(endpoints)?;
                for (_, load) in &loads {
                    let before = load.report()?;
                    town.eventually("the load goes on", || {
                        let now = load.report()?;
                        Ok(now.ok + now.failures() >= before.ok + before.failures() + 8)
                    })?;
                }
            }
        }
        for (client, load) in loads {
            let report = load.stop()?;
            ensure!(report.failures() == 0, "{client}, {policy}: {report:?}");
        }
    }
    Ok(())
}
