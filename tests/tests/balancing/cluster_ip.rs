//! Cluster IPs: from pods and nodes, to pods anywhere.

use anyhow::{Context, Result, ensure};
use weir_world::peer::Transport;

use crate::{
    talk::{TRANSPORTS, ask, reaches},
    town::{Family, both_towns},
};

#[test]
fn a_basic_service_is_served_by_pods_anywhere_to_everybody() -> Result<()> {
    for town in both_towns()? {
        let service = town.service("basic").to(&["one-a", "two-a"]);
        service.apply()?;
        for client in [
            "one-client",
            "one-mesh",
            "node1",
            "three-client",
            "node3",
            "ann",
        ] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    reaches(&peer, transport, service.at(family), &["one-a", "two-a"])
                        .with_context(|| client.to_owned())?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_servers_see_the_pods_own_address() -> Result<()> {
    for town in both_towns()? {
        for server in ["one-a", "two-a"] {
            let service = town.service("source").to(&[server]);
            service.apply()?;
            for client in ["one-client", "one-mesh"] {
                let peer = town.peer(client)?;
                for family in Family::BOTH {
                    let own = family.of(town.addresses(client)?);
                    for transport in TRANSPORTS {
                        let (by, seen) = ask(&peer, transport, service.at(family))?;
                        ensure!(
                            (by.as_str(), seen) == (server, own),
                            "{client}: {by} {seen}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}
