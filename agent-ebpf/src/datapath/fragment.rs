//! Fragments: the ones after the first have no ports, and follow the first.

use weir_abi::{FragmentKey, FragmentPorts};

use crate::{
    maps::FRAGMENTS,
    packet::{Packet, Part},
};

/// Remembers the ports of a first fragment and fills in those of a later one. False for a later one whose first was not seen.
#[inline(always)]
pub(crate) fn ports(packet: &mut Packet) -> bool {
    if packet.part == Part::Whole {
        return true;
    }
    let key = FragmentKey {
        src: packet.key.src,
        dst: packet.key.dst,
        id_be: packet.fragment_id_be,
        proto: packet.key.proto,
        reserved: [0; 3],
    };
    if packet.part == Part::First {
        let ports = FragmentPorts {
            sport_be: packet.key.sport_be,
            dport_be: packet.key.dport_be,
        };
        // Without room, the later fragments are unknown: the datagram is lost, as any fragment may be.
        let _ = FRAGMENTS.insert(key, ports, 0);
        return true;
    }
    let Some(ports) = FRAGMENTS.get_ptr(key) else {
        return false;
    };
    // SAFETY: a live value; should it be reused meanwhile, the datagram does not reassemble.
    let ports = unsafe { ports.read_volatile() };
    packet.key.sport_be = ports.sport_be;
    packet.key.dport_be = ports.dport_be;
    true
}
