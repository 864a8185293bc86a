//! From a pod to a service's address, and back.

use weir_abi::{Verdict, flow::kind};

use crate::{
    frame::{ACK, FIN, Packet, SCTP, SYN, TCP, UDP, ports},
    place::Place,
    rig::{NEXT, PORTS, REDIRECT, Rig},
    service::Service,
};

const CLIENT_PORT: u16 = 40000;

/// The service's port, and its backends': the same for SCTP.
const PORT: [(u8, u16); 3] = [(TCP, 8080), (UDP, 5353), (SCTP, 80)];

fn rig(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    for (id, (proto, port)) in (1..).zip(PORT) {
        rig.add_backend(id, (place.pod(2), port), proto);
        rig.add_backend(10 + id, (place.remote(1), port), proto);
        rig.add_backend(20 + id, (place.pod(1), port), proto);
        rig.add_backend(30 + id, (place.node(), port), proto);
        for (n, backend) in [(1, id), (2, 10 + id), (3, 20 + id), (4, 30 + id)] {
            let service = Service::new(10 * u32::from(n) + id, place.service(n), 80, proto);
            rig.serve(&service.backends(&[backend]));
        }
    }
    rig
}

#[test]
fn to_a_pod_of_the_node_and_back() {
    for place in Place::BOTH {
        let rig = rig(place);
        for (id, (proto, port)) in (1..).zip(PORT) {
            let (client, service) = ((place.pod(1), CLIENT_PORT), (place.service(1), 80));
            let backend = (place.pod(2), port);
            let sent = Packet::new(proto, client, service);
            rig.pod_sends(&sent).redirected(&sent.clone().to(backend));
            let answer = Packet::new(proto, backend, client);
            rig.pod_sends(&answer)
                .redirected(&answer.clone().from(service));
            // Again: now by what is remembered.
            let sent = sent.segment(ACK, b"once more");
            rig.pod_sends(&sent).redirected(&sent.clone().to(backend));
            let answer = answer.segment(ACK | FIN, b"odd");
            rig.pod_sends(&answer)
                .redirected(&answer.clone().from(service));

            assert_eq!(rig.counters(10 + id), (1, 0), "one connection each");
            let flow = rig.flow(proto, client, service).expect("it is remembered");
            assert_eq!(
                (flow.kind, flow.packets, flow.ifindex),
                (kind::FORWARD, 2, 102)
            );
            let flow = rig
                .flow(proto, backend, client)
                .expect("so are its answers");
            assert_eq!(
                (flow.kind, flow.packets, flow.ifindex),
                (kind::REVERSE, 2, 101)
            );
        }
        assert_eq!(rig.count(Verdict::Translate), 3);
        assert_eq!(rig.flows().len(), 6);
    }
}

#[test]
fn through_the_stack_where_packets_are_not_handed_over() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        rig.configure(|config| config.flags = 0);
        for (proto, port) in PORT {
            let (client, service) = ((place.pod(1), CLIENT_PORT), (place.service(1), 80));
            let backend = (place.pod(2), port);
            let sent = Packet::new(proto, client, service);
            rig.pod_sends(&sent).passes(&sent.clone().to(backend));
            let answer = Packet::new(proto, backend, client);
            rig.pod_sends(&answer).passes(&answer.clone().from(service));
            // The stack sends the translated packets to the pods: they are left alone.
            rig.node_sends_pod(&sent.clone().to(backend))
                .passes(&sent.clone().to(backend));
            rig.node_sends_pod(&answer.clone().from(service))
                .passes(&answer.clone().from(service));
        }
    }
}

#[test]
fn to_another_node_and_back() {
    for place in Place::BOTH {
        let rig = rig(place);
        for (proto, port) in PORT {
            let (client, service) = ((place.pod(1), CLIENT_PORT), (place.service(2), 80));
            let backend = (place.remote(1), port);
            let sent = Packet::new(proto, client, service);
            rig.pod_sends(&sent).passes(&sent.clone().to(backend));
            rig.node_sends_out(&sent.clone().to(backend))
                .passes(&sent.clone().to(backend));
            let answer = Packet::new(proto, backend, client);
            rig.arrives(&answer).passes(&answer);
            rig.node_sends_pod(&answer)
                .passes(&answer.clone().from(service));
        }
    }
}

#[test]
fn to_the_nodes_own_server_and_back() {
    for place in Place::BOTH {
        let rig = rig(place);
        for (proto, port) in PORT {
            let (client, service) = ((place.pod(1), CLIENT_PORT), (place.service(4), 80));
            let backend = (place.node(), port);
            let sent = Packet::new(proto, client, service);
            rig.pod_sends(&sent).passes(&sent.clone().to(backend));
            let answer = Packet::new(proto, backend, client);
            rig.node_sends_pod(&answer)
                .passes(&answer.clone().from(service));
        }
    }
}

#[test]
fn to_oneself_and_back() {
    for (place, redirects) in [(0, 1), (0, 0), (1, 1), (1, 0)] {
        let place = Place::BOTH[place];
        let mut rig = rig(place);
        // A pod's packets to itself are handed over in any case.
        rig.configure(|config| config.flags = redirects);
        for (proto, port) in PORT.into_iter().take(2) {
            let (client, service) = ((place.pod(1), CLIENT_PORT), (place.service(3), 80));
            let backend = (place.pod(1), port);
            let sent = Packet::new(proto, client, service);
            let out = rig.pod_sends(&sent);
            let seen = (place.node(), ports(&out.frame)[0]);
            assert!(PORTS.contains(&seen.1), "{seen:?}");
            out.redirected(&sent.clone().from(seen).to(backend));
            let answer = Packet::new(proto, backend, seen);
            rig.pod_sends(&answer)
                .redirected(&answer.clone().from(service).to(client));
            // Also when pods have come and gone.
            rig.configure(|config| config.epoch += 1);
            let more = sent.segment(ACK, b"more");
            rig.pod_sends(&more)
                .redirected(&more.clone().from(seen).to(backend));
            rig.pod_sends(&answer)
                .redirected(&answer.clone().from(service).to(client));
        }
    }
}

#[test]
fn packets_to_pods_are_handed_over_untouched() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        for (proto, port) in PORT {
            let local = Packet::new(proto, (place.pod(1), 7), (place.pod(3), port));
            let away = Packet::new(proto, (place.pod(1), 7), (place.remote(3), port));
            for _ in 0..3 {
                rig.pod_sends(&local).redirected(&local);
                rig.pod_sends(&away).passes(&away);
            }
            let flow = rig.flow(proto, (place.pod(1), 7), (place.pod(3), port));
            let bytes = 3 * (local.frame().len() as u64 - 14);
            let remembered = flow.map(|flow| (flow.kind, flow.packets, flow.bytes));
            // Of TCP there is nothing to be remembered.
            let expected = (proto != TCP).then_some((kind::DIRECT, 3, bytes));
            assert_eq!(remembered, expected);
            // What comes in for pods is not looked at any further.
            rig.arrives(&away).passes(&away);
        }
        assert_eq!(rig.flows().len(), 4);
        assert_eq!(rig.count(Verdict::Translate), 0);
        rig.configure(|config| config.flags = 0);
        for proto in [TCP, UDP] {
            let local = Packet::new(proto, (place.pod(1), 8), (place.pod(3), 8));
            rig.pod_sends(&local).passes(&local);
        }
    }
}

#[test]
fn answers_are_found_by_who_was_translated_before() {
    for place in Place::BOTH {
        let rig = rig(place);
        let (client, service, backend) = (
            (place.pod(1), CLIENT_PORT),
            (place.service(1), 80),
            (place.pod(2), 8080),
        );
        let answer = Packet::new(TCP, backend, client).segment(ACK, b"hello");
        // Nobody has been translated yet: these are what they look like.
        rig.pod_sends(&answer).redirected(&answer);
        rig.node_sends_pod(&answer).passes(&answer);
        let sent = Packet::new(TCP, client, service);
        rig.pod_sends(&sent).redirected(&sent.clone().to(backend));
        let expected = answer.clone().from(service);
        rig.pod_sends(&answer).redirected(&expected);
        rig.node_sends_pod(&answer).passes(&expected);
        // Others are still left alone, and not remembered unless they talk to one that was.
        let (other, server) = ((place.pod(3), 7), (place.pod(4), 80));
        let known = rig.flows().len();
        for (from, to) in [(other, server), (server, other)] {
            let packet = Packet::new(TCP, from, to);
            rig.pod_sends(&packet).redirected(&packet);
        }
        assert_eq!(rig.flows().len(), known);
        let packet = Packet::new(TCP, other, (backend.0, 9));
        rig.pod_sends(&packet).redirected(&packet);
        assert_eq!(rig.flows().len(), known + 1);
    }
}

#[test]
fn addressed_to_another_port_of_the_bridge_it_is_handed_over_too() {
    for place in Place::BOTH {
        let rig = rig(place);
        let mut packet = Packet::new(UDP, (place.pod(1), 7), (place.pod(3), 9));
        packet.mac[0] = [2, 0, 0, 0, 0, 0x77];
        rig.pod_sends(&packet).redirected(&packet);
        // To everybody on the bridge: that is the bridge's business.
        packet.mac[0] = [0xff; 6];
        rig.pod_sends(&packet).passes(&packet);
    }
}

#[test]
fn datagrams_without_a_checksum_stay_without() {
    let place = Place::BOTH[0];
    let rig = rig(place);
    let mut sent = Packet::new(UDP, (place.pod(1), CLIENT_PORT), (place.service(1), 80));
    let crate::frame::Body::Udp { summed, .. } = &mut sent.body else {
        panic!("a datagram")
    };
    *summed = false;
    rig.pod_sends(&sent)
        .redirected(&sent.clone().to((place.pod(2), 5353)));
}

#[test]
fn every_backend_gets_its_share() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        for n in 1..=4 {
            rig.add_backend(n, (place.remote(u8::try_from(n).expect("small")), 53), UDP);
        }
        rig.serve(&Service::new(1, place.service(1), 53, UDP).backends(&[1, 2, 3, 4]));
        let mut chosen = [0; 5];
        for port in 1000..1400 {
            let sent = Packet::new(UDP, (place.pod(1), port), (place.service(1), 53));
            let out = rig.pod_sends(&sent);
            assert_eq!(out.code, NEXT);
            let n =
                (1..=4_u8).find(|n| out.frame == sent.clone().to((place.remote(*n), 53)).frame());
            chosen[usize::from(n.expect("a backend"))] += 1;
            // And keeps it.
            assert_eq!(rig.pod_sends(&sent).frame, out.frame);
        }
        // A binomial count of 400 at one quarter has a deviation of 8.7; six of them are never met by chance.
        assert!(
            chosen[1..].iter().all(|n| (48..=152).contains(n)),
            "{chosen:?}"
        );
        assert_eq!(rig.counters(1), (400, 0));
    }
}

#[test]
fn a_new_connection_by_old_ports_is_a_new_choice() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let (client, service) = ((place.pod(1), CLIENT_PORT), (place.service(1), 80));
        let sent = Packet::new(TCP, client, service);
        rig.pod_sends(&sent)
            .redirected(&sent.clone().to((place.pod(2), 8080)));
        let answer = Packet::new(TCP, (place.pod(2), 8080), client).segment(SYN | ACK, b"");
        rig.pod_sends(&answer)
            .redirected(&answer.clone().from(service));
        // The service has another backend now; the connection stays, and a SYN that is sent again is part of it.
        rig.serve(&Service::new(11, place.service(1), 80, TCP).backends(&[11]));
        rig.pod_sends(&sent)
            .redirected(&sent.clone().to((place.pod(2), 8080)));
        let end = answer.segment(FIN | ACK, b"");
        assert_eq!(rig.pod_sends(&end).code, REDIRECT);
        let last = sent.clone().segment(FIN | ACK, b"");
        rig.pod_sends(&last)
            .redirected(&last.clone().to((place.pod(2), 8080)));
        rig.pod_sends(&sent)
            .passes(&sent.clone().to((place.remote(1), 8080)));
        assert_eq!(rig.counters(11), (2, 0));
    }
}

#[test]
fn a_connection_that_others_translate_stays_theirs_and_one_that_begins_is_ours() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        rig.others_translate(true);
        let opening = Packet::new(TCP, (place.pod(1), CLIENT_PORT), (place.service(1), 80));
        let amid = opening.clone().segment(ACK, b"more");
        rig.pod_sends(&amid).passes(&amid);
        // Not even refused: who translates it may know of endpoints.
        rig.serve(&Service::new(1, place.service(1), 80, TCP));
        rig.pod_sends(&amid).passes(&amid);
        rig.serve(&Service::new(1, place.service(1), 80, TCP).backends(&[1]));
        rig.pod_sends(&opening)
            .redirected(&opening.clone().to((place.pod(2), 8080)));
        rig.pod_sends(&amid)
            .redirected(&amid.clone().to((place.pod(2), 8080)));

        // Where nobody else does, a connection whose flow is forgotten is balanced anew.
        rig.others_translate(false);
        let amid = Packet::new(TCP, (place.pod(1), CLIENT_PORT + 1), (place.service(1), 80))
            .segment(ACK, b"more");
        rig.pod_sends(&amid)
            .redirected(&amid.clone().to((place.pod(2), 8080)));
    }
}
