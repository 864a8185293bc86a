//! Refusals: the sender is told at once, in the words of its protocol.

use weir_abi::Verdict;

use crate::{
    frame::{ACK, Body, FIN, Packet, RST, SCTP, SYN, TCP, UDP},
    place::Place,
    rig::{REDIRECT, Rig},
    service::Service,
};

fn rig(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    for proto in [TCP, UDP, SCTP] {
        let service = Service::new(1, place.service(1), 80, proto);
        rig.serve(&service.verdict(Verdict::NoEndpoints));
    }
    rig
}

/// The reset of a segment.
fn reset(of: &Packet, seq: u32, ack: u32, flags: u8) -> Packet {
    let mut reset = of.clone().answer();
    reset.mac.swap(0, 1);
    reset.ttl = 64;
    let Body::Tcp {
        seq: s,
        ack: a,
        flags: f,
        ..
    } = &mut reset.body
    else {
        panic!("a segment")
    };
    (*s, *a, *f) = (seq, ack, flags);
    reset
}

/// The ICMP error that says that nobody listens.
fn unreachable(of: &Packet, quoted: usize) -> Packet {
    Packet {
        mac: [of.mac[1], of.mac[0]],
        src: of.dst,
        dst: of.src,
        ttl: 64,
        id: 0,
        options: Vec::new(),
        extensions: Vec::new(),
        body: Body::Icmp {
            kind: if of.dst.is_ipv6() { [1, 4] } else { [3, 3] },
            word: 0,
            quote: of.quoted(quoted),
        },
    }
}

#[test]
fn connections_are_reset() {
    for place in Place::BOTH {
        let rig = rig(place);
        for (port, reason) in [(80, Verdict::NoEndpoints), (81, Verdict::UnknownPort)] {
            let syn = Packet::new(TCP, (place.pod(1), 5), (place.service(1), port));
            let refused = reset(&syn, 0, 0x0102_0305, RST | ACK);
            rig.pod_sends(&syn).redirected(&refused);
            rig.arrives(&syn).redirected(&refused);
            // Data with an acknowledgement, odd in length; and without one, with an end.
            let data = syn.clone().segment(ACK, b"hello");
            rig.pod_sends(&data)
                .redirected(&reset(&data, 0x0a0b_0c0d, 0, RST));
            let end = syn.clone().segment(FIN, b"hello");
            rig.pod_sends(&end)
                .redirected(&reset(&end, 0, 0x0102_0304 + 6, RST | ACK));
            // Resets are not answered.
            rig.pod_sends(&syn.segment(RST, b"")).dropped();
            assert_eq!(rig.count(reason), 5);
        }
        assert_eq!(rig.counters(1), (0, 5));
        assert_eq!(rig.flows().len(), 0);
    }
}

#[test]
fn padding_of_short_frames_is_no_data() {
    for place in Place::BOTH {
        let rig = rig(place);
        let syn = Packet::new(TCP, (place.pod(1), 5), (place.service(1), 80)).segment(SYN, b"");
        let padded = |packet: &Packet| [packet.frame(), vec![0; 6]].concat();
        let expected = padded(&reset(&syn, 0, 0x0102_0305, RST | ACK));
        rig.raw(0, &padded(&syn)).is(REDIRECT, &expected);
    }
}

#[test]
fn datagrams_are_answered_with_port_unreachable() {
    for place in Place::BOTH {
        let rig = rig(place);
        // SCTP's header is 12 bytes, all of which are quoted.
        for (proto, quoted) in [(UDP, 8), (SCTP, 12)] {
            for port in [80, 81] {
                let sent = Packet::new(proto, (place.pod(1), 5), (place.service(1), port));
                rig.pod_sends(&sent).redirected(&unreachable(&sent, quoted));
                rig.arrives(&sent).redirected(&unreachable(&sent, quoted));
            }
        }
        // An empty datagram is shorter than what it is answered with.
        let mut sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
        sent.body = Body::Udp {
            ports: [5, 80],
            summed: true,
            data: Vec::new(),
        };
        rig.pod_sends(&sent).redirected(&unreachable(&sent, 8));
        assert_eq!(rig.counters(1), (0, 5));
    }
}

#[test]
fn options_and_extension_headers_are_quoted_too() {
    for place in Place::BOTH {
        let rig = rig(place);
        let mut sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
        sent.options = vec![1; 40];
        sent.extensions = vec![crate::frame::extension(0), crate::frame::extension(60)];
        rig.pod_sends(&sent).redirected(&unreachable(&sent, 8));
        let mut syn = Packet::new(TCP, (place.pod(1), 5), (place.service(1), 80));
        (syn.options, syn.extensions) = (sent.options, sent.extensions);
        rig.pod_sends(&syn)
            .redirected(&reset(&syn, 0, 0x0102_0305, RST | ACK));
    }
}

#[test]
fn other_ports_of_shared_addresses_are_let_pass() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        let service = Service::new(1, place.service(1), 80, TCP).open();
        rig.serve(&service.verdict(Verdict::NoEndpoints));
        for proto in [TCP, UDP, SCTP] {
            let sent = Packet::new(proto, (place.pod(1), 5), (place.service(1), 81));
            rig.pod_sends(&sent).passes(&sent);
            rig.arrives(&sent).passes(&sent);
        }
        assert_eq!(rig.count(Verdict::UnknownPort), 0);
    }
}

#[test]
fn tables_that_do_not_fit_together_translate_nothing() {
    for place in Place::BOTH {
        let mut rig = Rig::new(place);
        rig.add_backend(1, (place.pod(2), 8080), UDP);
        let service = Service::new(1, place.service(1), 80, UDP).backends(&[1]);
        rig.serve(&service);
        // The slot leads to a backend that is not in use.
        rig.retire(1);
        rig.pod_sends(&Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80)))
            .dropped();
        assert_eq!(rig.count(Verdict::InconsistentTables), 1);
        assert_eq!(rig.flows().len(), 0);
    }
}
