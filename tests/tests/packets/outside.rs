//! From outside the cluster: node ports, load balancers, external IPs, and cluster IPs that somebody routes to us.

use weir_abi::{Verdict, service::scope};

use crate::{
    frame::{ACK, Body, FIN, Packet, RST, SYN, TCP, UDP, ports},
    place::Place,
    rig::{NEXT, PORTS, REDIRECT, Rig},
    service::Service,
};

/// Every address that a service may have: its cluster IP, one that is handled by nothing but us, and the node's own.
fn frontends(place: Place, proto: u8) -> [Service; 3] {
    [
        Service::new(1, place.service(1), 80, proto),
        Service::new(2, place.service(99), 80, proto).open(),
        Service::new(3, place.node(), 30080, proto).open(),
    ]
}

/// Every family, protocol and kind of frontend with one backend, on a rig of its own per family.
fn each(
    backend: impl Fn(Place) -> std::net::IpAddr,
    check: impl Fn(&Rig, [(std::net::IpAddr, u16); 3], u8),
) {
    for place in Place::BOTH {
        for proto in [TCP, UDP, crate::frame::SCTP] {
            let mut rig = Rig::new(place);
            rig.add_backend(1, (backend(place), 8080), proto);
            for service in frontends(place, proto) {
                rig.serve(&service.clone().backends(&[1]));
                let port = 50000 + u16::try_from(service.id).expect("small");
                let client = (place.client(1), port);
                check(
                    &rig,
                    [client, (service.addr, service.port), (backend(place), 8080)],
                    proto,
                );
                assert_eq!(rig.counters(service.id), (1, 0));
            }
        }
    }
}

#[test]
fn to_a_pod_of_the_node_the_source_is_kept() {
    each(
        |place| place.pod(2),
        |rig, [client, service, backend], proto| {
            let sent = Packet::new(proto, client, service);
            let answer = Packet::new(proto, backend, client);
            for _ in 0..2 {
                rig.arrives(&sent).redirected(&sent.clone().to(backend));
                // The stack would not send what comes from its own address.
                rig.pod_sends(&answer)
                    .redirected(&answer.clone().from(service).hop());
            }
        },
    );
}

#[test]
fn to_another_node_as_one_of_this_node() {
    each(
        |place| place.remote(1),
        |rig, [client, service, backend], proto| {
            let sent = Packet::new(proto, client, service);
            let out = rig.arrives(&sent);
            let seen = (rig.place.node(), ports(&out.frame)[0]);
            assert!(PORTS.contains(&seen.1), "{seen:?}");
            out.redirected(&sent.clone().from(seen).to(backend).hop());
            let answer = Packet::new(proto, backend, seen).segment(SYN | ACK, b"");
            rig.arrives(&answer)
                .redirected(&answer.clone().from(service).to(client).hop());
            let more = sent.segment(ACK, b"odd");
            rig.arrives(&more)
                .redirected(&more.clone().from(seen).to(backend).hop());
            rig.arrives(&answer)
                .redirected(&answer.clone().from(service).to(client).hop());
        },
    );
}

#[test]
fn to_the_nodes_own_server() {
    each(Place::node, |rig, [client, service, backend], proto| {
        let sent = Packet::new(proto, client, service);
        rig.arrives(&sent).passes(&sent.clone().to(backend));
        let answer = Packet::new(proto, backend, client);
        rig.node_sends_out(&answer)
            .passes(&answer.clone().from(service));
    });
}

#[test]
fn the_two_scopes_are_two_lists() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        rig.add_backend(1, (place.pod(2), 8080), UDP);
        rig.add_backend(2, (place.remote(2), 8080), UDP);
        let service = Service::new(1, place.service(9), 80, UDP).open();
        rig.serve(
            &Service {
                scopes: &[scope::INTERNAL],
                ..service.clone()
            }
            .backends(&[2]),
        );
        rig.serve(
            &Service {
                scopes: &[scope::EXTERNAL],
                ..service
            }
            .backends(&[1]),
        );
        let inside = Packet::new(UDP, (place.pod(1), 5), (place.service(9), 80));
        rig.pod_sends(&inside)
            .passes(&inside.clone().to((place.remote(2), 8080)));
        let outside = Packet::new(UDP, (place.client(1), 5), (place.service(9), 80));
        rig.arrives(&outside)
            .redirected(&outside.clone().to((place.pod(2), 8080)));
    }
}

#[test]
fn local_policy_without_local_endpoints_is_silence() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        let service = Service::new(7, place.node(), 30080, TCP).open();
        rig.serve(&service.verdict(Verdict::NoLocalEndpoints));
        rig.arrives(&Packet::new(
            TCP,
            (place.client(1), 5),
            (place.node(), 30080),
        ))
        .dropped();
        assert_eq!(
            (rig.counters(7), rig.count(Verdict::NoLocalEndpoints)),
            ((0, 1), 1)
        );
    }
}

#[test]
fn source_ranges_let_in_whom_they_name() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        rig.add_backend(1, (place.pod(2), 8080), TCP);
        let long = if place.is_v6() { 128 } else { 32 };
        let service = Service {
            ranges: vec![(place.client(7), long), (place.pod(0), long - 8)],
            ..Service::new(1, place.service(9), 80, TCP)
                .open()
                .backends(&[1])
        };
        rig.serve(&service);
        // Another service's ranges are no business of this one's.
        rig.serve(&Service {
            ranges: vec![(place.client(8), long)],
            ..Service::new(2, place.service(10), 80, TCP)
                .open()
                .backends(&[1])
        });
        let to = (place.service(9), 80);
        assert_eq!(
            rig.arrives(&Packet::new(TCP, (place.client(7), 5), to))
                .code,
            REDIRECT
        );
        assert_eq!(
            rig.pod_sends(&Packet::new(TCP, (place.pod(3), 5), to)).code,
            REDIRECT
        );
        rig.arrives(&Packet::new(TCP, (place.client(8), 5), to))
            .dropped();
        rig.pod_sends(&Packet::new(TCP, (place.remote(8), 5), to))
            .dropped();
        assert_eq!(
            (rig.counters(1), rig.count(Verdict::SourceDenied)),
            ((2, 2), 2)
        );
        assert_eq!(rig.flows().len(), 4, "who was not let in is not remembered");
    }
}

#[test]
fn the_nodes_own_traffic_is_left_alone_and_not_remembered() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        rig.add_backend(1, (place.pod(2), 8080), TCP);
        rig.serve(
            &Service::new(1, place.node(), 30080, TCP)
                .open()
                .backends(&[1]),
        );
        for to in [
            (place.node(), 22),
            (place.service(5), 80),
            (place.client(9), 80),
        ] {
            for proto in [TCP, UDP] {
                let packet = Packet::new(proto, (place.client(1), 5), to);
                rig.arrives(&packet).passes(&packet);
                rig.node_sends_out(&packet.clone().answer())
                    .passes(&packet.answer());
            }
        }
        assert_eq!(rig.flows().len(), 0);
        // A pod's datagrams to the node are, like all that pods send; connections are not.
        for proto in [TCP, UDP] {
            let packet = Packet::new(proto, (place.pod(1), 5), (place.node(), 22));
            rig.pod_sends(&packet).passes(&packet);
        }
        assert_eq!(rig.flows().len(), 1);
    }
}

/// A service with one backend elsewhere, on a node that has so many masquerade ports.
fn few_ports(place: Place, proto: u8, ports: u16) -> Rig {
    let mut rig = Rig::new(place);
    rig.configure(|config| config.masquerade_port_last = config.masquerade_port_first + ports - 1);
    rig.add_backend(1, (place.remote(1), 8080), proto);
    rig.add_backend(2, (place.remote(2), 8080), proto);
    rig.serve(
        &Service::new(1, place.service(9), 80, proto)
            .open()
            .backends(&[1]),
    );
    rig.serve(
        &Service::new(2, place.service(9), 81, proto)
            .open()
            .backends(&[2]),
    );
    rig
}

#[test]
fn masquerade_ports_are_used_up_and_counted() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let mut rig = few_ports(place, proto, 16);
            let sent =
                |n: u8, port| Packet::new(proto, (place.client(n), 5), (place.service(9), port));
            let mut used: Vec<u16> = (1..=16)
                .map(|n| ports(&rig.arrives(&sent(n, 80)).frame)[0])
                .collect();
            used.sort_unstable();
            let all: Vec<u16> = (*PORTS.start()..).take(16).collect();
            assert_eq!(used, all, "every port once");
            rig.arrives(&sent(17, 80)).dropped();
            assert_eq!(rig.count(Verdict::MasqueradeExhausted), 1);
            assert_eq!(rig.counters(1), (16, 1));
            // Towards another backend all of them are free.
            assert_eq!(rig.arrives(&sent(17, 81)).code, REDIRECT);
            // What has been silent for minutes gives way.
            rig.change_flows(|flow| {
                flow.last_seen = flow.last_seen.saturating_sub(150_000_000_000);
            });
            assert_eq!(rig.arrives(&sent(18, 80)).code, REDIRECT);
        }
    }
}

#[test]
fn a_quiet_connection_keeps_its_masquerade_port_until_it_ends() {
    for place in Place::BOTH {
        let mut rig = few_ports(place, TCP, 1);
        let (client, service) = ((place.client(1), 5), (place.service(9), 80));
        let sent = Packet::new(TCP, client, service);
        let seen = (place.node(), ports(&rig.arrives(&sent).frame)[0]);
        let answer = Packet::new(TCP, (place.remote(1), 8080), seen);
        assert_eq!(
            rig.arrives(&answer.clone().segment(SYN | ACK, b"")).code,
            REDIRECT
        );
        let quiet = |flow: &mut weir_abi::Flow| {
            flow.last_seen = flow.last_seen.saturating_sub(150_000_000_000);
        };
        rig.change_flows(quiet);
        let other = Packet::new(TCP, (place.client(2), 5), service);
        rig.arrives(&other).dropped();
        // Either side may end it.
        assert_eq!(rig.arrives(&sent.segment(FIN | ACK, b"")).code, REDIRECT);
        rig.arrives(&other).dropped();
        rig.change_flows(quiet);
        assert_eq!(rig.arrives(&other).code, REDIRECT);
    }
}

/// A connection of a client through the only masquerade port. What follows tells the hook of packets either way.
fn masqueraded(rig: &Rig, place: Place) -> [Packet; 2] {
    let sent = Packet::new(TCP, (place.client(1), 5), (place.service(9), 80));
    let seen = (place.node(), ports(&rig.arrives(&sent).frame)[0]);
    let answer = Packet::new(TCP, (place.remote(1), 8080), seen);
    assert_eq!(
        rig.arrives(&answer.clone().segment(SYN | ACK, b"")).code,
        REDIRECT
    );
    [sent, answer]
}

#[test]
fn a_reset_connection_gives_its_masquerade_port_back_at_once() {
    for place in Place::BOTH {
        let rig = few_ports(place, TCP, 1);
        let [sent, answer] = masqueraded(&rig, place);
        let other = Packet::new(TCP, (place.client(2), 5), (place.service(9), 80));
        rig.arrives(&other).dropped();
        rig.arrives(&sent.clone().segment(RST, b""));
        // The backend goes on: it has not taken the reset for one.
        rig.arrives(&answer.clone().segment(ACK, b"more"));
        rig.arrives(&other).dropped();
        rig.arrives(&sent.clone().segment(RST, b""));
        assert_eq!(rig.arrives(&other).code, REDIRECT);
        // What the first client still sends is not the other one's.
        rig.arrives(&sent.segment(RST, b"")).dropped();
        let expected = answer
            .clone()
            .segment(SYN | ACK, b"")
            .from((place.service(9), 80))
            .to((place.client(2), 5))
            .hop();
        rig.arrives(&answer.segment(SYN | ACK, b""))
            .redirected(&expected);
        rig.arrives(&Packet::new(
            TCP,
            (place.client(3), 5),
            (place.service(9), 80),
        ))
        .dropped();
    }
}

#[test]
fn a_connection_ended_by_both_sides_gives_its_masquerade_port_back_soon() {
    for place in Place::BOTH {
        let mut rig = few_ports(place, TCP, 1);
        let [sent, answer] = masqueraded(&rig, place);
        let other = Packet::new(TCP, (place.client(2), 5), (place.service(9), 80));
        let later = |flow: &mut weir_abi::Flow| {
            flow.last_seen = flow.last_seen.saturating_sub(1_500_000_000);
        };
        rig.arrives(&answer.clone().segment(FIN | ACK, b""));
        rig.change_flows(later);
        // One side may go on for long.
        rig.arrives(&other).dropped();
        rig.arrives(&sent.clone().segment(FIN | ACK, b""));
        rig.arrives(&answer.segment(ACK, b""));
        rig.arrives(&other).dropped();
        rig.change_flows(later);
        assert_eq!(rig.arrives(&other).code, REDIRECT);
    }
}

#[test]
fn without_an_address_of_the_family_nothing_is_masqueraded() {
    for place in Place::BOTH {
        let mut rig = few_ports(place, UDP, 16);
        rig.configure(|config| {
            config.masquerade_v4.0 = [0; 16];
            config.masquerade_v6.0 = [0; 16];
        });
        rig.arrives(&Packet::new(
            UDP,
            (place.client(1), 5),
            (place.service(9), 80),
        ))
        .dropped();
        assert_eq!(rig.count(Verdict::MasqueradeExhausted), 1);
        assert_eq!(rig.flows().len(), 0);
    }
}

/// What the node tells the sender of a packet.
fn told(
    place: Place,
    about: &Packet,
    v4: [u8; 2],
    v6: [u8; 2],
    word: u32,
    quoted: usize,
) -> Packet {
    Packet {
        mac: [about.mac[1], about.mac[0]],
        src: place.node(),
        dst: about.src,
        ttl: 64,
        id: 0,
        options: Vec::new(),
        extensions: Vec::new(),
        body: Body::Icmp {
            kind: if place.is_v6() { v6 } else { v4 },
            word,
            quote: about.quoted(quoted),
        },
    }
}

#[test]
fn a_packet_too_big_for_the_way_is_answered_as_it_was_sent() {
    for place in Place::BOTH {
        let rig = few_ports(place, TCP, 16);
        let sent = Packet::new(TCP, (place.client(1), 5), (place.service(9), 80));
        assert_eq!(rig.arrives(&sent).code, REDIRECT);
        let headers = if place.is_v6() { 60 } else { 40 };
        // The way to the backend takes 1400 bytes.
        let fits = sent.clone().segment(ACK, &vec![0; 1400 - headers]);
        assert_eq!(rig.arrives(&fits).code, REDIRECT);
        let big = sent.segment(ACK, &vec![0; 1401 - headers]);
        rig.arrives(&big)
            .redirected(&told(place, &big, [3, 4], [2, 0], 1400, 20));
        // What was put together on the way is cut again.
        let segment = u32::try_from(1400 - headers).expect("small");
        assert_eq!(
            rig.arrives_in_segments(&big, segment).frame.len(),
            big.frame().len()
        );
        let out = rig.arrives_in_segments(&big, segment + 1);
        assert_ne!(
            out.frame.len(),
            big.frame().len(),
            "its segments are too big"
        );
    }
}

#[test]
fn a_packet_whose_time_is_over_is_answered_as_it_was_sent() {
    for place in Place::BOTH {
        let rig = few_ports(place, UDP, 16);
        let mut sent = Packet::new(UDP, (place.client(1), 5), (place.service(9), 80));
        sent.ttl = 1;
        rig.arrives(&sent)
            .redirected(&told(place, &sent, [11, 0], [3, 0], 0, 8));
    }
}

#[test]
fn without_a_route_the_stack_has_the_say() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        rig.ip([
            "route",
            "add",
            "unreachable",
            &format!("{}", place.remote(9)),
        ]);
        rig.add_backend(1, (place.remote(9), 8080), UDP);
        rig.serve(&Service::new(1, place.service(9), 80, UDP).backends(&[1]));
        let out = rig.arrives(&Packet::new(
            UDP,
            (place.client(1), 5),
            (place.service(9), 80),
        ));
        assert_eq!(out.code, NEXT);
    }
}
