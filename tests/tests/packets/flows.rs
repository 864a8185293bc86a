//! The flow table under pressure: directions that are evicted, answers that two flows want, packets at once on two CPUs.

use std::{net::IpAddr, sync::Barrier, thread};

use weir_abi::flow::kind;

use crate::{
    frame::{ACK, FIN, Packet, TCP, UDP, ports},
    place::Place,
    rig::{PORTS, REDIRECT, Rig},
    service::Service,
};

fn rig(place: Place, proto: u8) -> Rig {
    let mut rig = Rig::new(place);
    rig.add_backend(1, (place.pod(2), 8080), proto);
    for n in 1..=2 {
        rig.serve(&Service::new(n.into(), place.service(n), 80, proto).backends(&[1]));
    }
    rig
}

#[test]
fn answers_are_expected_as_long_as_somebody_asks() {
    for place in Place::BOTH {
        let mut rig = rig(place, UDP);
        let (client, backend) = ((place.pod(1), 5), (place.pod(2), 8080));
        let sent = Packet::new(UDP, client, (place.service(1), 80));
        rig.pod_sends(&sent);
        // One-sided for long, its other direction is the first that a full table evicts.
        rig.evict(UDP, backend, client);
        for _ in 0..64 {
            rig.pod_sends(&sent).redirected(&sent.clone().to(backend));
        }
        let flow = rig.flow(UDP, backend, client).expect("it is back");
        assert_eq!((flow.kind, flow.packets), (kind::REVERSE, 0));
        let answer = Packet::new(UDP, backend, client);
        rig.pod_sends(&answer)
            .redirected(&answer.clone().from((place.service(1), 80)));
        assert_eq!(rig.counters(1), (1, 0), "still the same conversation");
        // After a pause of a second the next packet looks.
        rig.evict(UDP, backend, client);
        rig.change_flows(|flow| flow.last_seen = flow.last_seen.saturating_sub(2_000_000_000));
        rig.pod_sends(&sent).redirected(&sent.clone().to(backend));
        assert!(rig.flow(UDP, backend, client).is_some());
    }
}

#[test]
fn answers_of_a_lost_flow_are_never_given_to_another() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        rig.configure(|config| config.masquerade_port_last = config.masquerade_port_first);
        rig.add_backend(1, (place.remote(1), 8080), UDP);
        rig.serve(
            &Service::new(1, place.service(1), 80, UDP)
                .open()
                .backends(&[1]),
        );
        let sent = |n| Packet::new(UDP, (place.client(n), 5), (place.service(1), 80));
        let seen = (place.node(), *PORTS.start());
        assert_eq!(rig.arrives(&sent(1)).code, REDIRECT);
        // The one port there is goes to another client while the first one's answers are forgotten.
        rig.evict(UDP, (place.remote(1), 8080), seen);
        assert_eq!(rig.arrives(&sent(2)).code, REDIRECT);
        // Looked at again, the first client's flow is none any more.
        rig.change_flows(|flow| flow.last_seen = flow.last_seen.saturating_sub(2_000_000_000));
        rig.arrives(&sent(1)).dropped();
        let answer = Packet::new(UDP, (place.remote(1), 8080), seen);
        let expected = answer
            .clone()
            .from((place.service(1), 80))
            .to((place.client(2), 5))
            .hop();
        rig.arrives(&answer).redirected(&expected);
    }
}

/// The same client, by the same port, talks to the same backend in two ways.
fn both_are_answered(rig: &Rig, place: Place, proto: u8, to: [(IpAddr, u16); 2]) {
    let (client, backend) = ((place.pod(1), 5), (place.pod(2), 8080));
    let [first, second] = to.map(|to| Packet::new(proto, client, to));
    rig.pod_sends(&first).redirected(&first.clone().to(backend));
    let out = rig.pod_sends(&second);
    // Still from the client's address, but by another port.
    let seen = (client.0, ports(&out.frame)[0]);
    assert!(PORTS.contains(&seen.1), "{seen:?}");
    out.redirected(&second.clone().from(seen).to(backend));
    let answer = Packet::new(proto, backend, client);
    rig.pod_sends(&answer)
        .redirected(&answer.clone().from(to[0]));
    let answer = Packet::new(proto, backend, seen);
    rig.pod_sends(&answer)
        .redirected(&answer.clone().from(to[1]).to(client));
    rig.pod_sends(&second)
        .redirected(&second.clone().from(seen).to(backend));
}

#[test]
fn two_services_with_one_backend_are_told_apart() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let to = [1, 2].map(|n| (place.service(n), 80));
            both_are_answered(&rig(place, proto), place, proto, to);
        }
    }
}

#[test]
fn a_service_and_its_backend_itself_are_told_apart() {
    for place in Place::BOTH {
        for proto in [TCP, UDP] {
            let rig = rig(place, proto);
            let (client, backend) = ((place.pod(1), 5), (place.pod(2), 8080));
            // Most pods' connections are translated at the socket; of this one's it must be known that they are not.
            rig.pod_sends(&Packet::new(proto, (client.0, 4), (place.service(1), 80)));
            let answer = Packet::new(proto, backend, client);
            // Without this the table knows only what the client says.
            let sent = Packet::new(proto, client, backend);
            rig.pod_sends(&sent).redirected(&sent);
            rig.pod_sends(&answer).redirected(&answer);
            both_are_answered(&rig, place, proto, [backend, (place.service(1), 80)]);
        }
    }
}

#[test]
fn an_ended_connection_gives_its_ports_back() {
    for place in Place::BOTH {
        let mut rig = rig(place, TCP);
        let (client, backend) = ((place.pod(1), 5), (place.pod(2), 8080));
        let [one, two] = [1, 2].map(|n| Packet::new(TCP, client, (place.service(n), 80)));
        rig.pod_sends(&one).redirected(&one.clone().to(backend));
        rig.pod_sends(&one.clone().segment(FIN | ACK, b""));
        rig.change_flows(|flow| flow.last_seen = flow.last_seen.saturating_sub(150_000_000_000));
        rig.pod_sends(&two).redirected(&two.clone().to(backend));
        let answer = Packet::new(TCP, backend, client);
        rig.pod_sends(&answer)
            .redirected(&answer.clone().from((place.service(2), 80)));
    }
}

#[test]
fn of_two_first_packets_at_once_one_decides() {
    const FLOWS: u16 = 200;
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        for n in 1..=4 {
            rig.add_backend(n, (place.remote(u8::try_from(n).expect("small")), 53), UDP);
        }
        rig.serve(
            &Service::new(1, place.service(1), 53, UDP)
                .open()
                .backends(&[1, 2, 3, 4]),
        );
        let barrier = Barrier::new(2);
        let work = || {
            let send = |port| {
                let sent = Packet::new(UDP, (place.client(1), port), (place.service(1), 53));
                barrier.wait();
                rig.arrives(&sent).frame
            };
            (1..=FLOWS).map(send).collect::<Vec<_>>()
        };
        // Threads of this one are in its network namespace.
        let [one, other] = thread::scope(|scope| {
            [scope.spawn(work), scope.spawn(work)].map(|thread| thread.join().expect("no panic"))
        });
        assert_eq!(one, other);
        assert_eq!(rig.counters(1), (u64::from(FLOWS), 0), "each counts once");
        // No direction is left behind, no masquerade port taken for nothing.
        let flows = rig.flows();
        assert_eq!(flows.len(), 2 * usize::from(FLOWS));
        for (key, flow) in flows {
            if flow.kind == kind::FORWARD {
                let [src, dst] = [
                    (flow.to.dst, flow.to.dport_be),
                    (flow.to.src, flow.to.sport_be),
                ]
                .map(|(addr, port_be)| (IpAddr::from(addr), u16::from_be(port_be)));
                let answers = rig.flow(UDP, src, dst).expect("its answers are expected");
                assert_eq!(answers.to, key.reversed());
            }
        }
    }
}
