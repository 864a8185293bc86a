//! Packets that are none: cut short anywhere, with any bytes anywhere. A program gives one of its verdicts, and changes
//! nothing that it has not understood.

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

use crate::{
    frame::{Body, ETHERNET, Packet, SCTP, TCP, UDP, extension},
    place::Place,
    rig::{DROP, NEXT, REDIRECT, Rig},
    service::Service,
};

const CODES: [i32; 3] = [NEXT, DROP, REDIRECT];

/// Packets of every kind, to a service and to none.
fn samples(place: Place) -> Vec<Packet> {
    let mut samples = Vec::new();
    for to in [
        (place.service(1), 80),
        (place.pod(2), 80),
        (place.remote(1), 80),
        (place.node(), 80),
    ] {
        for proto in [TCP, UDP, SCTP] {
            let plain = Packet::new(proto, (place.pod(1), 5), to);
            let mut more = plain.clone();
            more.options = vec![1; 12];
            more.extensions = [0, 60, 43, 51].map(extension).to_vec();
            let mut error = Packet::new(UDP, (place.client(1), 0), (place.pod(1), 0));
            error.body = Body::Icmp {
                kind: if place.is_v6() { [1, 0] } else { [3, 1] },
                word: 0,
                quote: plain.quoted(8),
            };
            samples.extend([plain, more, error]);
        }
    }
    samples
}

/// The samples' frames, and some of their fragments.
fn frames(place: Place) -> Vec<Vec<u8>> {
    let samples = samples(place);
    let fragments = samples
        .iter()
        .step_by(3)
        .flat_map(|packet| packet.fragments(16));
    samples.iter().map(Packet::frame).chain(fragments).collect()
}

fn serving(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    for (id, proto) in [(1, TCP), (2, UDP), (3, SCTP)] {
        rig.add_backend(id, (place.pod(2), 8080), proto);
        rig.serve(&Service::new(id, place.service(1), 80, proto).backends(&[id]));
    }
    rig
}

#[test]
fn cut_short_at_any_byte() {
    for place in Place::BOTH {
        let rig = serving(place);
        for packet in samples(place) {
            let whole = packet.frame();
            let translated = rig.raw(0, &whole).frame;
            for length in ETHERNET..whole.len() {
                let cut = &whole[..length];
                for hook in 0..4 {
                    let Some(out) = rig.any(hook, cut) else {
                        continue;
                    };
                    assert!(CODES.contains(&out.code), "{packet:?} at {length}: {out:?}");
                    // Either it is not understood, or with its headers complete what it would be as a whole.
                    let right = out.frame == cut
                        || out.frame[..] == translated[..length.min(translated.len())];
                    assert!(right || out.code == DROP, "{packet:?} at {length}: {out:?}");
                }
            }
        }
    }
}

#[test]
fn cut_short_to_a_service_without_ports() {
    for place in Place::BOTH {
        let rig = serving(place);
        for proto in [TCP, UDP, SCTP] {
            let packet = Packet::new(proto, (place.pod(1), 5), (place.service(1), 80)).frame();
            let headers = ETHERNET + if place.is_v6() { 40 } else { 20 };
            let transport = match proto {
                TCP => 20,
                UDP => 8,
                _ => 12,
            };
            for length in headers + 1..headers + transport {
                rig.raw(0, &packet[..length]).dropped();
            }
            assert_eq!(rig.raw(0, &packet[..headers + transport]).code, REDIRECT);
        }
    }
}

/// A frame, where it is cut, and which bytes are others.
fn mutations() -> impl Strategy<Value = (Index, Index, Vec<(Index, u8)>, usize)> {
    (
        any::<Index>(),
        any::<Index>(),
        vec((any::<Index>(), any::<u8>()), 0..6),
        0..4_usize,
    )
}

fn mutated(
    frames: &[Vec<u8>],
    (which, cut, bytes, _): &(Index, Index, Vec<(Index, u8)>, usize),
) -> Vec<u8> {
    let mut frame = which.get(frames).clone();
    for (at, byte) in bytes {
        // The Ethernet header says what the rest is; the other headers come first.
        let at = ETHERNET + at.index((frame.len() - ETHERNET).min(80));
        frame[at] = *byte;
    }
    // Most are left whole.
    let length = ETHERNET + cut.index(4 * (frame.len() - ETHERNET));
    frame.truncate(length.max(ETHERNET + 1));
    frame
}

fn runner(cases: u32) -> TestRunner {
    // No file of earlier failures: the case is printed, and is one byte string.
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn without_services_nothing_is_ever_changed() {
    for place in Place::BOTH {
        let rig = Rig::new(place);
        let frames = frames(place);
        let check = |mutation: (Index, Index, Vec<(Index, u8)>, usize)| {
            let frame = mutated(&frames, &mutation);
            if let Some(out) = rig.any(mutation.3, &frame) {
                prop_assert!(
                    [NEXT, REDIRECT].contains(&out.code),
                    "{frame:02x?} became {out:?}"
                );
                prop_assert_eq!(&out.frame, &frame);
            }
            Ok(())
        };
        runner(3000)
            .run(&mutations(), check)
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn with_services_every_verdict_is_one_of_ours() {
    for place in Place::BOTH {
        let rig = serving(place);
        let frames = frames(place);
        let addresses = [place.service(1), place.pod(2), place.node()].map(crate::checksum::octets);
        let check = |mutation: (Index, Index, Vec<(Index, u8)>, usize)| {
            let frame = mutated(&frames, &mutation);
            let Some(out) = rig.any(mutation.3, &frame) else {
                return Ok(());
            };
            prop_assert!(CODES.contains(&out.code), "{frame:02x?} became {out:?}");
            // What names no address of ours is nothing of ours.
            let named = |addr: &Vec<u8>| frame.windows(addr.len()).any(|bytes| bytes == addr);
            if !addresses.iter().any(named) {
                prop_assert_eq!(&out.frame, &frame);
            }
            // What goes on through the stack keeps its length.
            prop_assert!(out.code != NEXT || out.frame.len() == frame.len());
            Ok(())
        };
        runner(3000)
            .run(&mutations(), check)
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}
