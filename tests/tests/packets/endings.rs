//! Backends that go, services that come: what is remembered is only followed as long as it holds.

use weir_abi::{Verdict, flow::kind};

use crate::{
    frame::{ACK, Body, Packet, RST, SCTP, SYN, TCP, UDP},
    place::Place,
    rig::{REDIRECT, Rig},
    service::Service,
};

fn rig(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    for (id, proto) in [(1, TCP), (2, UDP), (3, SCTP)] {
        rig.add_backend(id, (place.pod(2), 8080), proto);
        rig.add_backend(10 + id, (place.pod(3), 8080), proto);
        rig.serve(&Service::new(id, place.service(1), 80, proto).backends(&[id]));
    }
    rig
}

#[test]
fn datagrams_move_to_another_backend_at_once() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        for (id, proto) in [(2, UDP), (3, SCTP)] {
            let sent = Packet::new(proto, (place.pod(1), 5), (place.service(1), 80));
            rig.pod_sends(&sent)
                .redirected(&sent.clone().to((place.pod(2), 8080)));
            rig.serve(&Service::new(id, place.service(1), 80, proto).backends(&[10 + id]));
            // As long as the old backend is there, the flow is its.
            rig.pod_sends(&sent)
                .redirected(&sent.clone().to((place.pod(2), 8080)));
            rig.retire(id);
            rig.pod_sends(&sent)
                .redirected(&sent.clone().to((place.pod(3), 8080)));
            assert_eq!(rig.counters(id), (2, 0));
        }
        // The id in use again, for another endpoint: it is not the old backend.
        let sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
        rig.retire(12);
        rig.add_backend(12, (place.pod(4), 8080), UDP);
        rig.pod_sends(&sent)
            .redirected(&sent.clone().to((place.pod(4), 8080)));
        assert_eq!(
            rig.flows().len(),
            4,
            "of each conversation the last choice, both ways"
        );
    }
}

#[test]
fn connections_are_reset_and_may_be_made_anew() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let syn = Packet::new(TCP, (place.pod(1), 5), (place.service(1), 80));
        assert_eq!(rig.pod_sends(&syn).code, REDIRECT);
        let data = syn.clone().segment(ACK, b"hello");
        assert_eq!(rig.pod_sends(&data).code, REDIRECT);
        rig.serve(&Service::new(1, place.service(1), 80, TCP).backends(&[11]));
        rig.retire(1);
        let mut reset = data.clone().answer();
        reset.mac.swap(0, 1);
        reset.ttl = 64;
        let Body::Tcp {
            seq, ack, flags, ..
        } = &mut reset.body
        else {
            panic!("a segment")
        };
        (*seq, *ack, *flags) = (0x0a0b_0c0d, 0, RST);
        rig.pod_sends(&data).redirected(&reset);
        assert_eq!(
            (rig.count(Verdict::BackendGone), rig.counters(1)),
            (1, (1, 1))
        );
        assert_eq!(rig.flows().len(), 0, "neither direction is remembered");
        rig.pod_sends(&syn)
            .redirected(&syn.clone().to((place.pod(3), 8080)));
        // A SYN of the same ports may also be the first that hears of it.
        rig.add_backend(1, (place.pod(2), 8080), TCP);
        rig.serve(&Service::new(1, place.service(1), 80, TCP).backends(&[1]));
        rig.retire(11);
        rig.pod_sends(&syn)
            .redirected(&syn.clone().to((place.pod(2), 8080)));
        assert_eq!(rig.count(Verdict::BackendGone), 1);
    }
}

#[test]
fn a_service_that_comes_later_is_noticed() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let sent = Packet::new(UDP, (place.pod(1), 5), (place.service(7), 80));
        rig.pod_sends(&sent).passes(&sent);
        rig.serve(&Service::new(7, place.service(7), 80, UDP).backends(&[2]));
        rig.configure(|config| config.epoch += 1);
        rig.pod_sends(&sent)
            .redirected(&sent.clone().to((place.pod(2), 8080)));
        let answer = Packet::new(UDP, (place.pod(2), 8080), (place.pod(1), 5));
        rig.pod_sends(&answer)
            .redirected(&answer.clone().from((place.service(7), 80)));
    }
}

#[test]
fn a_flow_to_no_service_keeps_its_counts_across_epochs() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let sent = Packet::new(UDP, (place.pod(1), 5), (place.remote(7), 80));
        for _ in 0..3 {
            rig.pod_sends(&sent).passes(&sent);
            rig.configure(|config| config.epoch += 1);
        }
        let flow = rig.flow(UDP, (place.pod(1), 5), (place.remote(7), 80));
        assert_eq!(
            flow.map(|flow| (flow.kind, flow.packets)),
            Some((kind::DIRECT, 3))
        );
    }
}

#[test]
fn a_pod_that_comes_back_elsewhere_is_followed() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let (client, service) = ((place.pod(1), 5), (place.service(1), 80));
        let sent = Packet::new(UDP, client, service);
        let answer = Packet::new(UDP, (place.pod(2), 8080), client);
        let direct = Packet::new(UDP, client, (place.pod(2), 1));
        let ifindexes = |rig: &Rig| {
            rig.pod_sends(&sent);
            rig.pod_sends(&answer);
            rig.pod_sends(&direct);
            let of = |src, dst| rig.flow(UDP, src, dst).expect("it is remembered").ifindex;
            let backend = (place.pod(2), 8080);
            [
                of(client, service),
                of(backend, client),
                of(client, (place.pod(2), 1)),
            ]
        };
        assert_eq!(ifindexes(&rig), [102, 101, 102]);
        rig.set_pod(place.pod(2), 202);
        rig.set_pod(place.pod(1), 201);
        rig.configure(|config| config.epoch += 1);
        assert_eq!(ifindexes(&rig), [202, 201, 202]);
        rig.remove_pod(place.pod(2));
        rig.configure(|config| config.epoch += 1);
        assert_eq!(ifindexes(&rig), [0, 201, 0]);
        rig.pod_sends(&sent)
            .passes(&sent.clone().to((place.pod(2), 8080)));
    }
}

#[test]
fn an_idle_conversation_is_begun_anew() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
        assert_eq!(rig.pod_sends(&sent).code, REDIRECT);
        let established = Packet::new(TCP, (place.pod(1), 5), (place.service(1), 80));
        assert_eq!(rig.pod_sends(&established).code, REDIRECT);
        rig.serve(&Service::new(2, place.service(1), 80, UDP).backends(&[12]));
        rig.serve(&Service::new(1, place.service(1), 80, TCP).backends(&[11]));
        rig.change_flows(|flow| flow.last_seen = flow.last_seen.saturating_sub(150_000_000_000));
        rig.pod_sends(&sent)
            .redirected(&sent.clone().to((place.pod(3), 8080)));
        // A connection may be silent for hours; only a new one is a new choice.
        let data = established.clone().segment(ACK, b"still here");
        rig.pod_sends(&data)
            .redirected(&data.clone().to((place.pod(2), 8080)));
        rig.change_flows(|flow| flow.last_seen = flow.last_seen.saturating_sub(150_000_000_000));
        rig.pod_sends(&established)
            .redirected(&established.clone().to((place.pod(3), 8080)));
        let answer =
            Packet::new(TCP, (place.pod(3), 8080), (place.pod(1), 5)).segment(SYN | ACK, b"");
        rig.pod_sends(&answer)
            .redirected(&answer.clone().from((place.service(1), 80)));
    }
}

#[test]
fn a_service_that_goes_takes_no_new_connections() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let service = Service::new(1, place.service(8), 80, TCP).backends(&[1]);
        rig.serve(&service);
        let sent = Packet::new(TCP, (place.pod(1), 5), (place.service(8), 80));
        assert_eq!(rig.pod_sends(&sent).code, REDIRECT);
        rig.withdraw(&service);
        rig.configure(|config| config.epoch += 1);
        let data = sent.clone().segment(ACK, b"still here");
        rig.pod_sends(&data)
            .redirected(&data.clone().to((place.pod(2), 8080)));
        let other = sent.from((place.pod(1), 6));
        rig.pod_sends(&other).passes(&other);
    }
}

#[test]
fn a_service_that_goes_takes_its_datagrams_with_it() {
    for place in Place::BOTH {
        let mut rig = rig(place);
        let service = Service::new(2, place.service(8), 80, UDP).backends(&[2]);
        rig.serve(&service);
        let sent = Packet::new(UDP, (place.pod(1), 5), (place.service(8), 80));
        assert_eq!(rig.pod_sends(&sent).code, REDIRECT);
        // A pod that comes changes nothing.
        rig.configure(|config| config.epoch += 1);
        rig.pod_sends(&sent)
            .redirected(&sent.clone().to((place.pod(2), 8080)));
        assert_eq!(rig.counters(2), (1, 0));
        // Its backend is another service's too, and stays.
        rig.withdraw(&service);
        rig.configure(|config| config.epoch += 1);
        rig.pod_sends(&sent).passes(&sent);
    }
}
