//! IPv4 options and IPv6 extension headers: walked, kept, and covered by the checksums that cover them.

use crate::{
    frame::{Packet, SCTP, TCP, UDP, extension},
    place::Place,
    rig::Rig,
    service::Service,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

fn rig(place: Place) -> Rig {
    let mut rig = Rig::new(place);
    for (id, proto) in [(1, TCP), (2, UDP), (3, SCTP)] {
        rig.add_backend(id, (place.pod(2), 8080), proto);
        rig.serve(&Service::new(id, place.service(1), 80, proto).backends(&[id]));
    }
    rig
}

/// Goes to the backend, and its answer comes back from the service.
#[track_caller]
fn is_served(rig: &Rig, place: Place, sent: &Packet) {
    rig.pod_sends(sent)
        .redirected(&sent.clone().to((place.pod(2), 8080)));
    let answer = sent.clone().to((place.pod(2), 8080)).answer();
    rig.pod_sends(&answer)
        .redirected(&answer.clone().from((place.service(1), 80)));
}

#[test]
fn ipv4_options_of_every_length() {
    let place = Place::BOTH[0];
    let rig = rig(place);
    for proto in [TCP, UDP, SCTP] {
        for words in 0..=10 {
            let mut sent = Packet::new(proto, (place.pod(1), 5), (place.service(1), 80));
            sent.options = vec![1; 4 * words];
            is_served(&rig, place, &sent);
        }
    }
}

#[test]
fn ipv6_extension_headers_in_every_combination() {
    let place = Place::BOTH[1];
    let rig = rig(place);
    let known = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, AUTHENTICATION];
    for proto in [TCP, UDP, SCTP] {
        for set in 0..16 {
            let mut sent = Packet::new(proto, (place.pod(1), 5), (place.service(1), 80));
            let chosen = known
                .iter()
                .enumerate()
                .filter(|(bit, _)| set >> bit & 1 == 1);
            sent.extensions = chosen.map(|(_, number)| extension(*number)).collect();
            is_served(&rig, place, &sent);
        }
    }
}

#[test]
fn a_fragment_header_of_a_whole_packet_is_only_a_header() {
    let place = Place::BOTH[1];
    let rig = rig(place);
    let mut sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
    sent.extensions = vec![(44, vec![0, 0, 0, 1, 2, 3, 4])];
    is_served(&rig, place, &sent);
}

#[test]
fn a_packet_with_stops_still_to_make_is_not_at_its_destination() {
    let place = Place::BOTH[1];
    let rig = rig(place);
    let mut sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
    sent.extensions = vec![(ROUTING, vec![0, 4, 1, 0, 0, 0, 0])];
    rig.pod_sends(&sent).passes(&sent);
}

#[test]
fn more_headers_than_anybody_sends_are_the_stacks_business() {
    let place = Place::BOTH[1];
    let rig = rig(place);
    let mut sent = Packet::new(UDP, (place.pod(1), 5), (place.service(1), 80));
    sent.extensions = vec![extension(DESTINATION_OPTIONS); 7];
    is_served(&rig, place, &sent);
    sent.extensions = vec![extension(DESTINATION_OPTIONS); 20];
    rig.pod_sends(&sent).passes(&sent);
}
