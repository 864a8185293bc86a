//! Selection by Maglev: every node sends a flow to the same endpoint.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use weir_world::{PodSpec, peer::Exchange};

use crate::{
    service::{Service, ready},
    town::{Family, Town, town},
};

/// They serve nobody else, so that who leaves this service is gone.
const SERVERS: [&str; 4] = ["maglev-1", "maglev-2", "maglev-3", "maglev-4"];
const PORTS: std::ops::Range<u16> = 2000..2060;

/// The server of each of a client's ports, in a flow of its own.
fn servers(town: &Town, service: &Service<'_>, family: Family) -> Result<Vec<String>> {
    let ann = town.peer("ann")?;
    let own = family.of(town.addresses("ann")?);
    PORTS
        .map(|port| {
            let to = service.at_balancer(family);
            let outcome = ann.exchange(Exchange::udp(to).from((own, port)))?;
            outcome
                .answered_by
                .clone()
                .with_context(|| format!("{outcome:?}"))
        })
        .collect()
}

/// Ann's way to a service, by this node.
fn lead_by(town: &Town, service: &Service<'_>, node: &str) -> Result<()> {
    let via = town.addresses(node)?;
    town.world.client("ann")?.ip(&[
        &format!(
            "route replace {}/32 via {}",
            service.at_balancer(Family::V4).ip(),
            via.v4
        ),
        &format!(
            "route replace {}/128 via {}",
            service.at_balancer(Family::V6).ip(),
            via.v6
        ),
    ])?;
    Ok(())
}

#[test]
fn a_flow_that_comes_by_another_node_goes_to_the_same_endpoint() -> Result<()> {
    let town = town()?;
    for (server, node) in SERVERS
        .into_iter()
        .zip(["node1", "node2", "node3", "node3"])
    {
        town.add_server(PodSpec::new(server).on(node))?;
    }
    let mut by_chance = town.service("random").load_balancer().to(&SERVERS);
    by_chance.apply()?;
    let mut service = town
        .service("maglev")
        .load_balancer()
        .annotated("weir.dev/selection", "maglev")
        .to(&SERVERS);
    service.apply()?;
    for family in Family::BOTH {
        let before = servers(&town, &service, family)?;
        ensure!(
            before.iter().collect::<BTreeSet<_>>().len() == SERVERS.len(),
            "{before:?}"
        );
        for node in ["node2", "node3", "node1"] {
            lead_by(&town, &service, node)?;
            ensure!(servers(&town, &service, family)? == before, "by {node}");
        }
        // Without it, each node rolls its own dice.
        let before = servers(&town, &by_chance, family)?;
        lead_by(&town, &by_chance, "node3")?;
        ensure!(servers(&town, &by_chance, family)? != before);
        lead_by(&town, &by_chance, "node1")?;
    }
    // Nodes that have not seen the flows send only those elsewhere whose endpoint is gone, and few of the others.
    let [before, _] = Family::BOTH.map(|family| servers(&town, &service, family));
    let before = before?;
    town.remove_pod(SERVERS[0])?;
    let rest: Vec<_> = SERVERS[1..].iter().map(|server| ready(server)).collect();
    by_chance.move_to(rest.clone())?;
    service.move_to(rest)?;
    town.eventually("whoever was sent there is sent elsewhere", || {
        Ok(servers(&town, &service, Family::V4).is_ok())
    })?;
    let after = servers(&town, &service, Family::V4)?;
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after);
    let moved: Vec<_> = moved.filter(|(before, _)| *before != SERVERS[0]).collect();
    ensure!(!after.iter().any(|server| server == SERVERS[0]));
    ensure!(moved.len() <= PORTS.len() / 10, "{moved:?}");
    Ok(())
}
