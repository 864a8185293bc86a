//! Addresses of load balancers and external IPs: on none of the nodes, and served by all of them.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_world::peer::Transport;

use crate::{
    talk::{TOLD, TRANSPORTS, ask, is_refused, reaches},
    town::{Family, balancer_ip, both_towns, town},
};

#[test]
fn a_load_balancers_and_an_external_ip_are_served_to_everybody() -> Result<()> {
    for town in both_towns()? {
        let service = town
            .service("shop")
            .load_balancer()
            .external()
            .to(&["one-a", "two-a"]);
        service.apply()?;
        for client in ["ann", "ben", "one-client", "two-mesh", "node3"] {
            let peer = town.peer(client)?;
            for family in Family::BOTH {
                for transport in TRANSPORTS {
                    for to in [service.at_balancer(family), service.at_external(family)] {
                        reaches(&peer, transport, to, &["one-a", "two-a"])
                            .with_context(|| client.to_owned())?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_is_seen_as_itself_where_its_node_has_the_endpoint() -> Result<()> {
    let town = town()?;
    let service = town
        .service("seen")
        .load_balancer()
        .external()
        .to(&["one-a"]);
    service.apply()?;
    for family in Family::BOTH {
        for transport in TRANSPORTS {
            for to in [service.at_balancer(family), service.at_external(family)] {
                let (_, seen) = ask(&town.peer("ann")?, transport, to)?;
                ensure!(seen == family.of(town.addresses("ann")?), "ann as {seen}");
                let (_, seen) = ask(&town.peer("ben")?, transport, to)?;
                ensure!(seen == family.of(town.addresses("node2")?), "ben as {seen}");
                let (_, seen) = ask(&town.peer("two-client")?, transport, to)?;
                ensure!(seen == family.of(town.addresses("two-client")?), "{seen}");
            }
        }
    }
    Ok(())
}

/// `ipMode: Proxy`: the balancer hands traffic to the nodes by itself, and wants what is sent to its address.
#[test]
fn the_address_of_a_balancer_that_proxies_is_left_to_it() -> Result<()> {
    let town = town()?;
    let mut service = town.service("proxied").load_balancer().to(&["one-a"]);
    let number = service.number;
    let set = |service: &mut crate::service::Service<'_>, mode: &str| {
        let ingress =
            Family::BOTH.map(|family| json!({"ip": balancer_ip(number, family), "ipMode": mode}));
        service.object["status"]["loadBalancer"]["ingress"] = json!(ingress);
        service.apply()
    };
    let (ann, pod) = (town.peer("ann")?, town.peer("one-client")?);
    for (mode, ours) in [("Proxy", false), ("VIP", true), ("Proxy", false)] {
        set(&mut service, mode)?;
        for family in Family::BOTH {
            let to = service.at_balancer(family);
            for peer in [&ann, &pod] {
                if ours {
                    reaches(peer, Transport::Tcp, to, &["one-a"])?;
                } else {
                    // The router knows no such address.
                    let outcome = peer.connect(to)?;
                    ensure!(!outcome.ok(), "{outcome:?}");
                    ensure!(outcome.errno() != Some("ECONNREFUSED"), "{outcome:?}");
                }
            }
            reaches(
                &ann,
                Transport::Tcp,
                service.at_node("node2", family)?,
                &["one-a"],
            )?;
        }
    }
    Ok(())
}

#[test]
fn addresses_come_and_go_and_the_others_stay() -> Result<()> {
    let town = town()?;
    let mut service = town
        .service("moving")
        .load_balancer()
        .external()
        .to(&["two-a"]);
    service.apply()?;
    let ann = town.peer("ann")?;
    let ports: Vec<_> = Family::BOTH
        .map(|family| (family, service.at_external(family)))
        .into();
    for (_, to) in &ports {
        reaches(&ann, Transport::Udp, *to, &["two-a"])?;
    }
    service.object["spec"]["externalIPs"] = json!([]);
    service.apply()?;
    for (family, to) in &ports {
        let outcome = ann.exchange(weir_world::peer::Exchange::udp_connected(*to))?;
        ensure!(!outcome.ok(), "{outcome:?}");
        reaches(
            &ann,
            Transport::Udp,
            service.at_balancer(*family),
            &["two-a"],
        )?;
    }
    // Another port: the old one is refused by nobody but whoever has the address, which is nobody.
    service.ports[0].port = 8000;
    service.apply()?;
    for family in Family::BOTH {
        let to = (balancer_ip(service.number, family), 8000).into();
        reaches(&ann, Transport::Tcp, to, &["two-a"])?;
        ensure!(!ann.connect(service.at_balancer(family))?.ok());
    }
    Ok(())
}

#[test]
fn without_node_ports_a_balancers_address_is_served_all_the_same() -> Result<()> {
    let town = town()?;
    let service = town
        .service("bare")
        .load_balancer()
        .with("allocateLoadBalancerNodePorts", false)
        .to(&["one-a"]);
    service.write_without_node_ports()?;
    town.settle()?;
    let ann = town.peer("ann")?;
    for family in Family::BOTH {
        for transport in TOLD {
            reaches(&ann, transport, service.at_balancer(family), &["one-a"])?;
            is_refused(&ann, transport, service.at_node("node1", family)?)?;
        }
    }
    Ok(())
}
