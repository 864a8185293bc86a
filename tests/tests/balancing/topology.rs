//! Topology hints: what `trafficDistribution` comes to by the time it reaches a node.

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    service::{Endpoint, ready},
    talk::{TRANSPORTS, reaches},
    town::{Family, Town, ZONES, town},
};

const NUMBERS: [(&str, &str); 3] = [("node1", "one"), ("node2", "two"), ("node3", "three")];

fn zone(node: &str) -> &'static str {
    ZONES.iter().find(|(name, _)| *name == node).map_or("", |(_, zone)| zone)
}

/// An endpoint that is hinted for some zones.
fn for_zones(place: &str, zones: &[&str]) -> Endpoint {
    let zones: Vec<_> = zones.iter().map(|zone| json!({"name": zone})).collect();
    Endpoint {
        hints: Some(json!({"forZones": zones})),
        ..ready(place)
    }
}

/// Every client of every node reaches what its node is to reach, many times over.
fn each_node_reaches(
    town: &Town,
    service: &crate::service::Service<'_>,
    servers: [&[&str]; 3],
) -> Result<()> {
    for ((node, number), servers) in NUMBERS.into_iter().zip(servers) {
        for client in [format!("{number}-client"), format!("{number}-mesh"), node.to_owned()] {
            let peer = town.peer(&client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    // More than ten in a row, even where there is one to reach.
                    for _ in 0..6 {
                        reaches(&peer, transport, service.at(family), servers)
                            .with_context(|| client.clone())?;
                        if servers.len() > 1 {
                            break;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn clients_are_kept_in_their_zone_as_long_as_it_has_endpoints() -> Result<()> {
    let town = town()?;
    let mut service = town.service("zones").with("trafficDistribution", "PreferSameZone");
    let [west, east, north] = ["node1", "node2", "node3"].map(zone);
    service.endpoints = vec![
        for_zones("one-a", &[west]),
        for_zones("two-a", &[east]),
        for_zones("three-a", &[north]),
        for_zones("three-b", &[north]),
    ];
    service.apply()?;
    each_node_reaches(&town, &service, [&["one-a"], &["two-a"], &["three-a", "three-b"]])?;

    // No endpoint is hinted for the north: its clients go anywhere, the others stay.
    service.move_to(vec![for_zones("one-a", &[west]), for_zones("two-a", &[east])])?;
    each_node_reaches(&town, &service, [&["one-a"], &["two-a"], &["one-a", "two-a"]])?;

    // One without a hint, and nobody's hints count.
    service.move_to(vec![for_zones("one-a", &[west]), ready("two-a")])?;
    let both: &[&str] = &["one-a", "two-a"];
    each_node_reaches(&town, &service, [both, both, both])
}

#[test]
fn clients_are_kept_on_their_node_as_long_as_it_has_endpoints() -> Result<()> {
    let town = town()?;
    let mut service = town.service("nodes").with("trafficDistribution", "PreferSameNode");
    let hinted = |place: &str, node: &str| Endpoint {
        hints: Some(json!({"forNodes": [{"name": node}], "forZones": [{"name": zone(node)}]})),
        ..ready(place)
    };
    service.endpoints = vec![hinted("one-a", "node1"), hinted("two-a", "node2")];
    service.apply()?;
    each_node_reaches(&town, &service, [&["one-a"], &["two-a"], &["one-a", "two-a"]])
}

#[test]
fn external_traffic_is_kept_in_the_zone_of_the_node_it_comes_to() -> Result<()> {
    let town = town()?;
    let mut service = town.service("outside").node_port();
    service.endpoints = NUMBERS
        .map(|(node, number)| for_zones(&format!("{number}-a"), &[zone(node)]))
        .into();
    service.apply()?;
    let ann = town.peer("ann")?;
    for (node, number) in NUMBERS {
        for family in Family::BOTH {
            let server = format!("{number}-a");
            for _ in 0..6 {
                let to = service.at_node(node, family)?;
                reaches(&ann, weir_world::peer::Transport::Tcp, to, &[&server])?;
            }
        }
    }
    Ok(())
}
