//! Fragments: only the first has ports, and the others follow it.

use weir_abi::Verdict;

use crate::{
    frame::{Body, Packet, TCP, UDP, ports},
    place::Place,
    rig::{NEXT, REDIRECT, Rig},
    service::Service,
};

/// A datagram of three fragments.
fn datagram(place: Place, from: (std::net::IpAddr, u16), to: (std::net::IpAddr, u16)) -> Packet {
    let mut packet = Packet::new(UDP, from, to);
    packet.id = 0x1234 + u16::from(place.is_v6());
    packet.body = Body::Udp {
        ports: [from.1, to.1],
        summed: true,
        data: (0..100).collect(),
    };
    packet
}

fn rig(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    rig.add_backend(1, (place.pod(2), 8080), UDP);
    rig.add_backend(2, (place.remote(2), 8080), UDP);
    rig.serve(&Service::new(1, place.service(1), 80, UDP).backends(&[1]));
    rig.serve(
        &Service::new(2, place.service(2), 80, UDP)
            .open()
            .backends(&[2]),
    );
    rig
}

#[test]
fn of_a_translated_datagram_follow_the_first_both_ways() {
    for place in Place::BOTH {
        let rig = rig(place);
        let (client, service, backend) = (
            (place.pod(1), 5),
            (place.service(1), 80),
            (place.pod(2), 8080),
        );
        let sent = datagram(place, client, service);
        let seen = sent.clone().to(backend).fragments(48);
        for (piece, expected) in sent.fragments(48).iter().zip(&seen) {
            rig.raw(0, piece).is(REDIRECT, expected);
        }
        let answer = datagram(place, backend, client);
        let seen = answer.clone().from(service).fragments(48);
        for (piece, expected) in answer.fragments(48).iter().zip(&seen) {
            rig.raw(0, piece).is(REDIRECT, expected);
        }
        assert_eq!(rig.counters(1), (1, 0));
        let flow = rig.flow(UDP, client, service).expect("it is remembered");
        assert_eq!(flow.packets, 3);
    }
}

#[test]
fn from_outside_and_from_the_stack_too() {
    for place in Place::BOTH {
        let rig = rig(place);
        let (client, service, backend) = (
            (place.client(1), 5),
            (place.service(2), 80),
            (place.remote(2), 8080),
        );
        let sent = datagram(place, client, service);
        let pieces = sent.fragments(48);
        let first = rig.raw(2, &pieces[0]);
        let port = if place.is_v6() { 14 + 40 + 8 } else { 14 + 20 };
        let seen = (
            place.node(),
            u16::from_be_bytes([first.frame[port], first.frame[port + 1]]),
        );
        let expected = sent.clone().from(seen).to(backend).hop().fragments(48);
        first.is(REDIRECT, &expected[0]);
        rig.raw(2, &pieces[1]).is(REDIRECT, &expected[1]);
        rig.raw(2, &pieces[2]).is(REDIRECT, &expected[2]);
        // From another node to a pod that asked for the service: translated on the way out of the stack.
        let pod = (place.pod(1), 6);
        let asked = Packet::new(UDP, pod, service);
        assert_eq!(ports(&rig.pod_sends(&asked).frame), [6, 8080]);
        let answer = datagram(place, backend, pod);
        let expected = answer.clone().from(service).fragments(48);
        for (piece, expected) in answer.fragments(48).iter().zip(&expected) {
            rig.raw(1, piece).is(NEXT, expected);
        }
    }
}

#[test]
fn before_the_first_they_belong_to_nobody() {
    for place in Place::BOTH {
        let rig = rig(place);
        let pieces = datagram(place, (place.pod(1), 5), (place.service(1), 80)).fragments(48);
        for _ in 0..2 {
            rig.raw(0, &pieces[1]).dropped();
        }
        assert_eq!(rig.count(Verdict::FragmentUnknown), 2);
        // At an address that is not only ours they may be anybody's.
        let pieces = datagram(place, (place.client(1), 5), (place.service(2), 80)).fragments(48);
        rig.raw(2, &pieces[1]).is(NEXT, &pieces[1]);
        assert_eq!(rig.count(Verdict::FragmentUnknown), 2);
        assert_eq!(rig.flows().len(), 0);
    }
}

#[test]
fn to_pods_are_left_alone_in_any_order() {
    for place in Place::BOTH {
        let rig = rig(place);
        let pieces = datagram(place, (place.pod(1), 5), (place.remote(9), 80)).fragments(48);
        for index in [1, 0, 2, 1] {
            for hook in 0..4 {
                rig.raw(hook, &pieces[index]).is(NEXT, &pieces[index]);
            }
        }
    }
}

#[test]
fn a_refusal_answers_the_first_only() {
    for place in Place::BOTH {
        let rig = rig(place);
        let pieces = datagram(place, (place.pod(1), 5), (place.service(1), 81)).fragments(48);
        let out = rig.raw(0, &pieces[0]);
        assert_eq!(out.code, REDIRECT);
        rig.raw(0, &pieces[1]).dropped();
        rig.raw(0, &pieces[2]).dropped();
        // A reset would be a fragment itself.
        let mut segment = Packet::new(TCP, (place.pod(1), 5), (place.service(1), 80));
        segment.id = 9;
        rig.raw(0, &segment.fragments(24)[0]).dropped();
    }
}

#[test]
fn a_first_fragment_without_a_whole_header_has_no_ports() {
    for place in Place::BOTH {
        let rig = rig(place);
        let segment = Packet::new(TCP, (place.pod(1), 5), (place.service(1), 80));
        rig.raw(0, &segment.fragments(16)[0]).dropped();
        assert_eq!(rig.count(Verdict::Malformed), 1);
        let elsewhere = segment.to((place.remote(1), 80)).fragments(16);
        rig.raw(0, &elsewhere[0]).is(NEXT, &elsewhere[0]);
    }
}
