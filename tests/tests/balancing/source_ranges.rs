//! `loadBalancerSourceRanges`: who may come by the load balancer's address.

use anyhow::{Context, Result};
use serde_json::json;
use weir_world::peer::Transport;

use crate::{
    talk::{TRANSPORTS, is_met_by_silence, is_refused, reaches},
    town::{Family, Town, town},
};

/// The ranges of these places' own addresses, with the spaces that people leave in.
fn ranges(town: &Town, places: &[&str]) -> Result<Vec<String>> {
    let mut ranges = Vec::new();
    for place in places {
        let addresses = town.addresses(place)?;
        ranges.push(format!(" {}/32", addresses.v4));
        ranges.push(format!("{}/128 ", addresses.v6));
    }
    Ok(ranges)
}

#[test]
fn only_those_in_the_ranges_come_by_the_balancers_address() -> Result<()> {
    let town = town()?;
    let mut service = town
        .service("guarded")
        .load_balancer()
        .external()
        .to(&["one-a"]);
    let everybody = [
        "ann",
        "ben",
        "one-client",
        "one-mesh",
        "two-client",
        "two-mesh",
    ];
    for inside in [
        &["ann", "one-client"][..],
        &["ben", "one-mesh", "two-client"],
        &["two-mesh", "ann"],
    ] {
        service = service.with("loadBalancerSourceRanges", json!(ranges(&town, inside)?));
        service.apply()?;
        // Ranges that are no longer wanted go a moment later than new ones come.
        for client in everybody {
            if !inside.contains(&client) {
                let peer = town.peer(client)?;
                town.eventually("those outside are kept out", || {
                    let to = service.at_balancer(Family::V6);
                    Ok(is_met_by_silence(&peer, Transport::Tcp, to).is_ok())
                })?;
            }
        }
        for client in everybody {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in [Transport::Tcp, Transport::UdpConnected] {
                    let to = service.at_balancer(family);
                    if inside.contains(&client) {
                        reaches(&peer, transport, to, &["one-a"])
                    } else {
                        is_met_by_silence(&peer, transport, to)
                    }
                    .with_context(|| format!("{client}, of those inside: {inside:?}"))?;
                }
            }
        }
    }
    // The other addresses have no guard.
    for client in everybody {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            for to in [
                service.at(family),
                service.at_external(family),
                service.at_node("node1", family)?,
            ] {
                reaches(&peer, Transport::Tcp, to, &["one-a"]).context(client)?;
            }
        }
    }
    // Ranges that are taken away guard nobody.
    service.object["spec"]["loadBalancerSourceRanges"] = json!([]);
    service.apply()?;
    for client in everybody {
        let peer = town.peer(client)?;
        for family in Family::BOTH {
            reaches(
                &peer,
                Transport::Tcp,
                service.at_balancer(family),
                &["one-a"],
            )
            .context(client)?;
        }
    }
    Ok(())
}

#[test]
fn a_node_is_judged_by_its_own_address() -> Result<()> {
    let town = town()?;
    let service = town
        .service("nodes")
        .load_balancer()
        .with(
            "loadBalancerSourceRanges",
            json!(ranges(&town, &["node1"])?),
        )
        .to(&["one-a", "three-a"]);
    service.apply()?;
    let [inside, outside] = [town.peer("node1")?, town.peer("node2")?];
    for family in Family::BOTH {
        let to = service.at_balancer(family);
        for transport in TRANSPORTS {
            reaches(&inside, transport, to, &["one-a", "three-a"])?;
            // At the socket, there is nobody to keep silent to.
            is_refused(&outside, transport, to)?;
        }
    }
    Ok(())
}

#[test]
fn ranges_of_one_family_guard_that_family() -> Result<()> {
    let town = town()?;
    let service = town
        .service("one-family")
        .load_balancer()
        .with("loadBalancerSourceRanges", json!(["192.0.2.102/32"]))
        .to(&["one-a"]);
    service.apply()?;
    for client in ["ann", "one-client", "one-mesh"] {
        let peer = town.peer(client)?;
        is_met_by_silence(&peer, Transport::Tcp, service.at_balancer(Family::V4))?;
        reaches(
            &peer,
            Transport::Tcp,
            service.at_balancer(Family::V6),
            &["one-a"],
        )?;
    }
    reaches(
        &town.peer("ben")?,
        Transport::Tcp,
        service.at_balancer(Family::V4),
        &["one-a"],
    )
}
