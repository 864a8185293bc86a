//! Who reaches whom, and as whom.

use std::net::{IpAddr, SocketAddr};

use weir_world::peer::{Exchange, Server};
use weir_world::{Place, PodSpec, Result, Wiring, World};

use crate::world;

const PORT: u16 = 8080;

/// Two nodes with two pods on the first and one on the second, and a client outside.
fn two_nodes(wiring: Wiring) -> Result<World> {
    world()
        .nodes(2)
        .wiring(wiring)
        .pod(PodSpec::new("a"))
        .pod(PodSpec::new("b"))
        .pod(PodSpec::new("c").on("node2"))
        .client("outside")
        .build()
}

/// `from` reaches `to` by both families and every transport, is told that it was `to`, and is seen as `seen_as`.
fn reaches(from: &Place, to: &Place, seen_as: [IpAddr; 2]) -> Result<()> {
    let server = to.peer()?;
    let servers = server.echo(PORT)?;
    let client = from.peer()?;
    for (address, seen_as) in to.addresses().both().into_iter().zip(seen_as) {
        let to_address = SocketAddr::new(address, PORT);
        for exchange in [
            Exchange::tcp(to_address),
            Exchange::udp(to_address),
            Exchange::udp_connected(to_address),
        ] {
            let transport = exchange.transport;
            let outcome = client.exchange(exchange)?;
            let case = format!("{} to {} by {transport:?}", from.name(), to.name());
            assert_eq!(outcome.failure, None, "{case} {address}");
            assert_eq!(outcome.answered_by.as_deref(), Some(to.name()), "{case}");
            let seen = outcome.seen_from.map(|seen| seen.ip());
            assert_eq!(seen, Some(seen_as), "{case}");
        }
    }
    servers.iter().try_for_each(Server::stop)
}

fn everybody_reaches_everybody(wiring: Wiring) -> Result<()> {
    let world = two_nodes(wiring)?;
    let [a, b, c] = [world.pod("a")?, world.pod("b")?, world.pod("c")?];
    let (node1, node2) = (world.node("node1")?, world.node("node2")?);
    let outside = world.client("outside")?;
    let own = |place: &Place| place.addresses().both();
    // The host has the gateway's address on the links to its pods.
    let gateway = ["10.244.1.1", "fd00:10:244:1::1"].map(|text| text.parse().expect("an address"));

    reaches(&a, &b, own(&a))?;
    reaches(&a, &c, own(&a))?;
    reaches(&c, &b, own(&c))?;
    reaches(node1, &a, gateway)?;
    reaches(node1, &c, own(node1))?;
    reaches(&a, node1, own(&a))?;
    reaches(&a, node2, own(&a))?;
    reaches(node1, node2, own(node1))?;
    reaches(outside, node1, own(outside))?;
    reaches(node2, outside, own(node2))
}

#[test]
fn routed_worlds_are_joined() -> Result<()> {
    everybody_reaches_everybody(Wiring::Routed)
}

#[test]
fn bridged_worlds_are_joined() -> Result<()> {
    everybody_reaches_everybody(Wiring::Bridged)
}

/// What the kernel says of a destination that a router, or a route, calls unreachable.
const NO_WAY: [Option<&str>; 2] = [Some("EHOSTUNREACH"), Some("ENETUNREACH")];

#[test]
fn clients_know_no_pods() -> Result<()> {
    let world = two_nodes(Wiring::Routed)?;
    let outside = world.client("outside")?.peer()?;
    for address in world.pod("a")?.addresses().both() {
        let to = SocketAddr::new(address, PORT);
        let outcome = outside.connect(to)?;
        assert!(NO_WAY.contains(&outcome.errno()), "{outcome:?}");
    }
    Ok(())
}

#[test]
fn an_address_that_nobody_has_is_refused() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let world = two_nodes(wiring)?;
        let client = world.pod("a")?.peer()?;
        // A service's address, which no node has.
        for address in ["10.96.0.10:80", "[fd00:10:96::a]:80"] {
            let to: SocketAddr = address.parse().expect("an address");
            let outcome = client.connect(to)?;
            assert!(NO_WAY.contains(&outcome.errno()), "{wiring:?} {outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn a_route_given_to_a_client_is_used() -> Result<()> {
    let world = two_nodes(Wiring::Routed)?;
    let outside = world.client("outside")?;
    outside.ip(&["route add 10.244.2.0/24 via 192.0.2.2"])?;
    let server = world.pod("c")?;
    let serving = server.peer()?;
    serving.echo(PORT)?;
    let outcome = outside.peer()?.connect((server.addresses().v4, PORT))?;
    assert_eq!(outcome.answered_by.as_deref(), Some("c"));
    Ok(())
}
