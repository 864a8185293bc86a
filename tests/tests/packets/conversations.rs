//! Conversations between the same ports: one through a service, the other straight to its endpoint. Whichever is the latest
//! has the answers.

use crate::{
    frame::{ACK, Packet, RST, SYN, TCP, UDP, ports},
    place::Place,
    rig::{PORTS, Rig},
    service::Service,
};

/// A service of a node port and one of a cluster IP, both with that backend.
fn rig(place: Place, proto: u8, backend: std::net::IpAddr) -> Rig {
    let mut rig = Rig::new(place);
    rig.add_backend(1, (backend, 8080), proto);
    rig.serve(
        &Service::new(1, place.node(), 30080, proto)
            .open()
            .backends(&[1]),
    );
    rig.serve(&Service::new(2, place.service(2), 80, proto).backends(&[1]));
    rig
}

/// What a server says first.
fn answer(proto: u8, from: (std::net::IpAddr, u16), to: (std::net::IpAddr, u16)) -> Packet {
    Packet::new(proto, from, to).segment(SYN | ACK, b"")
}

#[test]
fn who_comes_from_outside_to_a_pod_itself_is_answered_by_the_pod() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let rig = rig(place, proto, place.pod(2));
            let (client, pod) = ((place.remote(7), 5), (place.pod(2), 8080));
            let service = (place.node(), 30080);
            let sent = Packet::new(proto, client, service);
            let answer = answer(proto, pod, client);
            rig.arrives(&sent).redirected(&sent.clone().to(pod));
            rig.pod_sends(&answer)
                .redirected(&answer.clone().from(service).hop());
            // The same ports, by another node's service or none: its stack has brought the packet to the pod.
            let straight = Packet::new(proto, client, pod);
            rig.node_sends_pod(&straight).passes(&straight);
            rig.pod_sends(&answer).passes(&answer);
            // Should both go on, the one through the service is given another port from here on.
            let moved = rig.arrives(&sent).frame;
            assert!(PORTS.contains(&ports(&moved)[0]), "{moved:?}");
        }
    }
}

#[test]
fn a_pod_that_asks_an_endpoint_itself_is_answered_by_it() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let rig = rig(place, proto, place.remote(2));
            let (client, endpoint) = ((place.pod(1), 5), (place.remote(2), 8080));
            let sent = Packet::new(proto, client, (place.service(2), 80));
            let straight = Packet::new(proto, client, endpoint);
            let answer = answer(proto, endpoint, client);
            rig.pod_sends(&sent).passes(&straight);
            rig.node_sends_pod(&answer)
                .passes(&answer.clone().from((place.service(2), 80)));
            for _ in 0..2 {
                rig.pod_sends(&straight).passes(&straight);
                rig.node_sends_pod(&answer).passes(&answer);
                if proto == UDP {
                    let moved = rig.pod_sends(&sent).frame;
                    assert!(PORTS.contains(&ports(&moved)[0]), "{moved:?}");
                } else {
                    // That connection is over; the next one may be through the service, and the one after it not.
                    rig.pod_sends(&straight.clone().segment(RST, b""));
                    rig.pod_sends(&sent).passes(&straight);
                    rig.node_sends_pod(&answer)
                        .passes(&answer.clone().from((place.service(2), 80)));
                }
            }
        }
    }
}

#[test]
fn who_asks_the_nodes_own_server_itself_is_answered_by_it() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let rig = rig(place, proto, place.node());
            let (client, server) = ((place.client(1), 5), (place.node(), 8080));
            let sent = Packet::new(proto, client, (place.node(), 30080));
            let straight = Packet::new(proto, client, server);
            let answer = answer(proto, server, client);
            rig.arrives(&sent).passes(&straight);
            rig.node_sends_out(&answer)
                .passes(&answer.clone().from((place.node(), 30080)));
            rig.arrives(&straight).passes(&straight);
            rig.node_sends_out(&answer).passes(&answer);
        }
    }
}

/// What a connection leaves in flight says nothing about a new one.
#[test]
fn only_the_start_of_a_tcp_connection_takes_the_answers() {
    for place in Place::BOTH {
        let rig = rig(place, TCP, place.pod(2));
        let (client, pod) = ((place.remote(7), 5), (place.pod(2), 8080));
        let service = (place.node(), 30080);
        let sent = Packet::new(TCP, client, service);
        rig.arrives(&sent).redirected(&sent.clone().to(pod));
        let late = Packet::new(TCP, client, pod).segment(ACK, b"late");
        rig.node_sends_pod(&late).passes(&late);
        let answer = answer(TCP, pod, client);
        rig.pod_sends(&answer)
            .redirected(&answer.clone().from(service).hop());
    }
}
