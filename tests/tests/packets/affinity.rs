//! Clients that stay with their backend, and backends that are found by the flow's hash.

use std::collections::HashMap;

use crate::{
    frame::{Packet, TCP, UDP},
    place::Place,
    rig::Rig,
    service::Service,
};

const BACKENDS: [u32; 4] = [1, 2, 3, 4];

fn rig(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    for id in BACKENDS {
        rig.add_backend(
            id,
            (place.remote(u8::try_from(id).expect("small")), 8080),
            TCP,
        );
    }
    rig
}

fn sticky(place: Place) -> Service {
    let service = Service::new(1, place.service(1), 80, TCP).backends(&BACKENDS);
    Service {
        affinity: 10,
        ..service
    }
}

/// The backend that a packet got, by its address's last byte.
fn chosen(rig: &Rig, place: Place, from: (u8, u16), to: u8) -> u8 {
    let sent = Packet::new(TCP, (place.pod(from.0), from.1), (place.service(to), 80));
    let out = rig.pod_sends(&sent).frame;
    out[if place.is_v6() { 14 + 39 } else { 14 + 19 }]
}

#[test]
fn a_client_stays_whichever_address_it_uses() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        rig.serve(&sticky(place));
        rig.serve(&Service {
            addr: place.service(2),
            ..sticky(place)
        });
        let mut clients = Vec::new();
        for client in 1..=40 {
            let first = chosen(&rig, place, (client, 1000), 1);
            for port in 1001..1010 {
                assert_eq!(
                    chosen(&rig, place, (client, port), 1 + u8::from(port % 2 == 0)),
                    first
                );
            }
            clients.push(first);
        }
        clients.sort_unstable();
        clients.dedup();
        assert_eq!(
            clients,
            [1, 2, 3, 4],
            "forty clients have every backend among them"
        );
        // From outside as from within: the client is an address.
        assert_eq!(rig.affinity.iter().count(), 40);
    }
}

/// Out of so many connections from new ports, which backends a client got.
fn backends_of(rig: &Rig, place: Place, ports: std::ops::Range<u16>) -> Vec<u8> {
    let mut backends: Vec<u8> = ports.map(|port| chosen(rig, place, (1, port), 1)).collect();
    backends.dedup();
    backends
}

#[test]
fn until_it_has_not_connected_for_the_timeout() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        rig.serve(&sticky(place));
        let age = |rig: &mut Rig, seconds: u64| {
            for (key, mut value) in rig.affinity.iter().map(Result::unwrap).collect::<Vec<_>>() {
                value.last_used -= seconds * 1_000_000_000;
                rig.affinity
                    .insert(key, value, 0)
                    .expect("AFFINITY is written");
            }
        };
        let first = chosen(&rig, place, (1, 999), 1);
        for port in 1000..1040 {
            // Each connection begins the timeout anew.
            age(&mut rig, 8);
            assert_eq!(chosen(&rig, place, (1, port), 1), first);
        }
        let mut seen = Vec::new();
        for port in 2000..2060 {
            age(&mut rig, 12);
            seen.push(chosen(&rig, place, (1, port), 1));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [1, 2, 3, 4], "each was a choice of its own");
    }
}

#[test]
fn a_backend_that_is_gone_or_not_the_services_any_more_is_left() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        rig.serve(&sticky(place));
        let first = chosen(&rig, place, (1, 1000), 1);
        // Gone from the service, not from the world.
        let rest: Vec<u32> = BACKENDS
            .into_iter()
            .filter(|id| *id != u32::from(first))
            .collect();
        let key = weir_abi::MemberKey {
            list: 2,
            backend_id: first.into(),
        };
        rig.members.remove(&key).expect("MEMBERS is written");
        rig.serve(&Service {
            backends: rest.clone(),
            ..sticky(place)
        });
        let second = backends_of(&rig, place, 2000..2010);
        assert_eq!(second.len(), 1);
        assert_ne!(second[0], first);
        // Gone from the world.
        let rest: Vec<u32> = rest
            .into_iter()
            .filter(|id| *id != u32::from(second[0]))
            .collect();
        rig.serve(&Service {
            backends: rest,
            ..sticky(place)
        });
        rig.retire(second[0].into());
        let third = backends_of(&rig, place, 3000..3010);
        assert_eq!(third.len(), 1);
        assert!(![first, second[0]].contains(&third[0]));
    }
}

#[test]
fn switched_off_it_is_off() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        rig.serve(&sticky(place));
        let first = chosen(&rig, place, (1, 1000), 1);
        assert_eq!(backends_of(&rig, place, 1001..1010), [first]);
        rig.serve(&Service {
            affinity: 0,
            ..sticky(place)
        });
        assert!(backends_of(&rig, place, 2000..2060).len() > 1);
    }
}

#[test]
fn by_hash_every_node_chooses_the_same() {
    for place in Place::BOTH {
        let service = Service::new(1, place.service(1), 80, TCP).backends(&BACKENDS);
        // A table of 1021 entries, which user space would fill by Maglev's rules.
        let backends: Vec<u32> = (0..1021).map(|n| BACKENDS[n * 7 % 4]).collect();
        let service = Service {
            maglev: true,
            backends,
            ..service
        };
        let [one, other] = [(); 2].map(|()| {
            let mut rig = rig(place);
            // The table lies elsewhere in another node's array.
            rig.next_slot += 17;
            rig.serve(&service);
            (1000..1400)
                .map(|port| chosen(&rig, place, (1, port), 1))
                .collect::<Vec<_>>()
        });
        assert_eq!(one, other);
        let mut shares = HashMap::new();
        for backend in one {
            *shares.entry(backend).or_insert(0) += 1;
        }
        assert!(
            shares.len() == 4 && shares.values().all(|n| (48..=152).contains(n)),
            "{shares:?}"
        );
    }
}

#[test]
fn datagrams_too() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        for id in BACKENDS {
            rig.add_backend(
                id,
                (place.remote(u8::try_from(id).expect("small")), 53),
                UDP,
            );
        }
        rig.serve(&Service {
            proto: UDP,
            port: 53,
            ..sticky(place)
        });
        let mut frames: Vec<Vec<u8>> = (1000..1020)
            .map(|port| Packet::new(UDP, (place.pod(1), port), (place.service(1), 53)))
            .map(|sent| rig.pod_sends(&sent).frame)
            .map(|frame| frame[14 + if place.is_v6() { 36 } else { 16 }..][..4].to_vec())
            .collect();
        frames.dedup();
        assert_eq!(frames.len(), 1, "every flow went to the same backend");
    }
}
