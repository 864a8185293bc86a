//! ICMP errors about translated packets: who gets one finds the packet in it that it has sent.

use std::net::IpAddr;

use crate::{
    frame::{Body, Packet, SCTP, TCP, UDP, ports},
    place::Place,
    rig::{REDIRECT, Rig},
    service::Service,
};

/// "Too big" from `src` to `dst`, about a packet of which it quotes so much.
fn too_big(src: IpAddr, dst: IpAddr, about: &Packet, quoted: usize) -> Packet {
    let mut packet = Packet::new(UDP, (src, 0), (dst, 0));
    packet.body = Body::Icmp {
        kind: if dst.is_ipv6() { [2, 0] } else { [3, 4] },
        word: 1300,
        quote: about.quoted(quoted),
    };
    packet
}

/// How much routers quote: eight bytes of transport header, or more.
const QUOTED: [usize; 2] = [8, 20];

fn rig(place: Place, proto: u8) -> Rig {
    let mut rig = Rig::new(place);
    rig.add_backend(1, (place.pod(2), 8080), proto);
    rig.add_backend(2, (place.remote(2), 8080), proto);
    rig.add_backend(3, (place.pod(1), 8080), proto);
    for id in 1..=3 {
        let addr = place.service(u8::try_from(id).expect("small"));
        rig.serve(&Service::new(id, addr, 80, proto).open().backends(&[id]));
    }
    rig
}

fn each(check: impl Fn(&Rig, Place, u8, usize)) {
    for place in Place::BOTH {
        for proto in [TCP, UDP, SCTP] {
            let rig = rig(place, proto);
            for quoted in QUOTED {
                // SCTP's checksum in a quote, which nobody can verify, stays as it was on the wire.
                check(&rig, place, proto, if proto == SCTP { 8 } else { quoted });
            }
        }
    }
}

#[test]
fn from_beyond_to_a_pod_that_asked_a_service() {
    each(|rig, place, proto, quoted| {
        let router = place.client(99);
        let sent = Packet::new(proto, (place.pod(1), 5), (place.service(2), 80));
        let seen = sent.clone().to((place.remote(2), 8080));
        rig.pod_sends(&sent).passes(&seen);
        let error = too_big(router, place.pod(1), &seen, quoted);
        let expected = too_big(router, place.pod(1), &sent, quoted);
        rig.arrives(&error).passes(&expected);
        // Translated once, it is left alone; and one of the node's own is translated on its way to the pod.
        rig.node_sends_pod(&expected).passes(&expected);
        rig.node_sends_pod(&error).passes(&expected);
        // The backend itself speaks as the service.
        let error = too_big(place.remote(2), place.pod(1), &seen, quoted);
        rig.arrives(&error)
            .passes(&too_big(place.service(2), place.pod(1), &sent, quoted));
    });
}

#[test]
fn from_a_backend_of_this_node_to_a_pod() {
    each(|rig, place, proto, quoted| {
        let sent = Packet::new(proto, (place.pod(1), 5), (place.service(1), 80));
        let seen = sent.clone().to((place.pod(2), 8080));
        rig.pod_sends(&sent).redirected(&seen);
        let error = too_big(place.pod(2), place.pod(1), &seen, quoted);
        rig.pod_sends(&error)
            .passes(&too_big(place.service(1), place.pod(1), &sent, quoted));
        // And the other way: about an answer.
        let answer = sent.clone().answer();
        let given = seen.clone().answer();
        let error = too_big(place.pod(1), place.service(1), &answer, quoted);
        rig.pod_sends(&error)
            .passes(&too_big(place.pod(1), place.pod(2), &given, quoted));
    });
}

#[test]
fn about_masqueraded_packets() {
    each(|rig, place, proto, quoted| {
        let (client, service) = ((place.client(1), 5), (place.service(2), 80));
        let sent = Packet::new(proto, client, service);
        let out = rig.arrives(&sent);
        let seen = (place.node(), ports(&out.frame)[0]);
        let seen = sent.clone().from(seen).to((place.remote(2), 8080));
        // From a router behind us to the client, and from the backend.
        let router = place.client(99);
        let error = too_big(router, place.node(), &seen, quoted);
        rig.arrives(&error)
            .redirected(&too_big(router, client.0, &sent, quoted).hop());
        let error = too_big(place.remote(2), place.node(), &seen, quoted);
        rig.arrives(&error)
            .redirected(&too_big(service.0, client.0, &sent, quoted).hop());
        // From a router before us, and from the client: to the backend, to which we are the client.
        let (answer, given) = (sent.clone().answer(), seen.clone().answer());
        for speaker in [router, client.0] {
            let error = too_big(speaker, service.0, &answer, quoted);
            let expected = too_big(place.node(), place.remote(2), &given, quoted).hop();
            rig.arrives(&error).redirected(&expected);
        }
    });
}

#[test]
fn about_packets_from_outside_to_a_pod_of_the_node() {
    each(|rig, place, proto, quoted| {
        let (client, service) = ((place.client(1), 5), (place.service(1), 80));
        let sent = Packet::new(proto, client, service);
        let seen = sent.clone().to((place.pod(2), 8080));
        rig.arrives(&sent).redirected(&seen);
        let error = too_big(place.pod(2), client.0, &seen, quoted);
        rig.pod_sends(&error)
            .redirected(&too_big(service.0, client.0, &sent, quoted).hop());
        // By the node's own stack.
        let error = too_big(place.node(), client.0, &seen, quoted);
        rig.node_sends_out(&error)
            .passes(&too_big(place.node(), client.0, &sent, quoted));
        let error = too_big(place.client(99), service.0, &sent.clone().answer(), quoted);
        let expected = too_big(
            place.client(99),
            place.pod(2),
            &seen.clone().answer(),
            quoted,
        );
        rig.arrives(&error).passes(&expected);
    });
}

#[test]
fn from_a_pod_to_itself() {
    each(|rig, place, proto, quoted| {
        let (client, service) = ((place.pod(1), 5), (place.service(3), 80));
        let sent = Packet::new(proto, client, service);
        let out = rig.pod_sends(&sent);
        let seen = (place.node(), ports(&out.frame)[0]);
        let seen = sent.clone().from(seen).to((place.pod(1), 8080));
        out.redirected(&seen);
        let error = too_big(place.pod(1), place.node(), &seen, quoted);
        rig.pod_sends(&error)
            .redirected(&too_big(service.0, client.0, &sent, quoted));
    });
}

#[test]
fn about_anything_else_are_left_alone() {
    for place in Place::BOTH {
        let rig = rig(place, UDP);
        // What passed a pod's device is remembered, and not translated.
        let direct = Packet::new(UDP, (place.pod(1), 5), (place.remote(2), 8080));
        rig.pod_sends(&direct).passes(&direct);
        let other = Packet::new(UDP, (place.pod(1), 6), (place.service(2), 80));
        for about in [&direct, &other] {
            let error = too_big(place.client(99), place.pod(1), about, 8);
            for hook in 0..4 {
                let frame = error.frame();
                rig.raw(hook, &frame).is(crate::rig::NEXT, &frame);
            }
        }
        // Neither is what is no error: an echo that happens to carry a packet.
        let asked = Packet::new(UDP, (place.pod(1), 7), (place.service(1), 80));
        assert_eq!(rig.pod_sends(&asked).code, REDIRECT);
        let mut echo = too_big(
            place.client(99),
            place.pod(1),
            &asked.to((place.pod(2), 8080)),
            8,
        );
        let Body::Icmp { kind, .. } = &mut echo.body else {
            panic!("an ICMP message")
        };
        *kind = if place.is_v6() { [128, 0] } else { [8, 0] };
        rig.node_sends_pod(&echo).passes(&echo);
    }
}

/// The stack would not forward what has its own address for a source: that is translated once it is past it.
#[test]
fn from_an_endpoint_elsewhere_to_a_pod_that_asked_a_node_port() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let mut rig = rig(place, proto);
            let node_port = (place.node(), 30080);
            let service = Service::new(4, node_port.0, node_port.1, proto).open();
            rig.serve(&service.backends(&[2]));
            let sent = Packet::new(proto, (place.pod(1), 5), node_port);
            let seen = sent.clone().to((place.remote(2), 8080));
            rig.pod_sends(&sent).passes(&seen);
            let error = too_big(place.remote(2), place.pod(1), &seen, 8);
            rig.arrives(&error).passes(&error);
            rig.node_sends_pod(&error)
                .passes(&too_big(place.node(), place.pod(1), &sent, 8));
        }
    }
}
