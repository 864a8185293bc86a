//! Who gets the first packet of a flow, and what it becomes.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use weir_abi::{
    Address, NodeConfig, ServiceEntry, SourceRangeKey, Verdict,
    flow::{flags, kind},
    service::{self, scope},
};

use crate::{
    flow::{adopt, begin, expect_answers, local_ifindex},
    maps::{ENDPOINTS, SOURCE_RANGES},
    select, verdict,
    work::Work,
};

/// How many masquerade ports are tried for a flow. With ports half taken, one flow in 65,000 finds none of sixteen free.
const PORT_ATTEMPTS: u32 = 16;

/// Decides about the first packet to a service: when this returns [`Verdict::Translate`], both directions of the flow are in
/// the table, and `work.flow` and `work.to` are to be followed.
#[inline(never)]
pub(crate) fn to_service(work: &mut Work, from: u8, config: &NodeConfig) -> Verdict {
    let entry = &work.entry;
    if entry.flags & service::flags::SOURCE_RANGES != 0 && !source_allowed(entry, &work.packet.key.src) {
        return Verdict::SourceDenied;
    }
    let hash = select::hash(&work.packet.key);
    let Some(chosen) = select::backend(&work.entry, &work.packet.key.src, hash) else {
        return Verdict::InconsistentTables;
    };
    forward(work, &chosen, from, config);
    // Where the client already talks to that backend by the same ports, be it directly or through another service, it gets
    // another port there: its answers could not be told apart.
    let masqueraded = work.flow.flags & flags::MASQUERADED != 0;
    let expected = if masqueraded {
        masquerade(work, config)
    } else {
        expect_answers(work)
    };
    if !expected {
        work.flow.flags |= flags::MASQUERADED;
        if masqueraded || !masquerade(work, config) {
            return Verdict::MasqueradeExhausted;
        }
    }
    if adopt(work) {
        verdict::count(Verdict::Translate, work.entry.id);
    }
    work.to = work.flow.to;
    Verdict::Translate
}

/// The flow of a packet to a chosen backend, but for the masquerade port.
#[inline(always)]
fn forward(work: &mut Work, chosen: &select::Chosen, from: u8, config: &NodeConfig) {
    let (packet, flow) = (&work.packet, &mut work.flow);
    let backend = &chosen.backend;
    begin(flow, packet, work.epoch);
    flow.to = packet.key;
    flow.to.dst = backend.addr;
    flow.to.dport_be = backend.port_be;
    flow.backend_id = chosen.id;
    flow.generation = backend.generation;
    flow.service_id = work.entry.id;
    flow.kind = kind::FORWARD;
    flow.flags = if from == scope::EXTERNAL {
        flags::EXTERNAL
    } else {
        0
    };

    let own = own_address(packet.v6, config);
    let local = ENDPOINTS.get_ptr(&flow.to.dst).is_some();
    let hairpin = backend.addr == packet.key.src;
    // From outside, only a backend on this node answers through us by itself.
    let elsewhere = from == scope::EXTERNAL && !local && backend.addr != own;
    if hairpin || elsewhere {
        flow.to.src = own;
        flow.flags |= flags::MASQUERADED;
    }
    if hairpin {
        flow.flags |= flags::HAIRPIN;
    }
    if elsewhere {
        flow.flags |= flags::NEIGHBOUR;
    }
    flow.ifindex = local_ifindex(&flow.to.dst, hairpin, config);
}

/// Finds a masquerade port that no other flow to the same backend has, and claims it by inserting the answers' flow.
#[inline(never)]
fn masquerade(work: &mut Work, config: &NodeConfig) -> bool {
    let (first, last) = (config.masquerade_port_first, config.masquerade_port_last);
    let ports = u32::from(last.saturating_sub(first)) + 1;
    if first == 0 || work.flow.to.src == Address([0; 16]) {
        return false;
    }
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let mut offset = ((u64::from(random) * u64::from(ports)) >> 32) as u32;
    // Evenly spread over the range; every port of a small one.
    let stride = ports / PORT_ATTEMPTS + u32::from(ports < PORT_ATTEMPTS);
    for _ in 0..PORT_ATTEMPTS {
        work.flow.to.sport_be = first.wrapping_add(offset as u16).to_be();
        if expect_answers(work) {
            return true;
        }
        offset += stride;
        if offset >= ports {
            offset -= ports;
        }
    }
    false
}

/// Whether a source may come in where the service's source ranges guard.
#[inline(always)]
pub(crate) fn source_allowed(entry: &ServiceEntry, source: &Address) -> bool {
    let key = aya_ebpf::maps::lpm_trie::Key::new(
        160,
        SourceRangeKey {
            id: entry.id,
            addr: *source,
        },
    );
    SOURCE_RANGES.get(&key).is_some()
}

/// What this node masquerades as.
#[inline(always)]
pub(crate) fn own_address(v6: bool, config: &NodeConfig) -> Address {
    if v6 {
        config.masquerade_v6
    } else {
        config.masquerade_v4
    }
}
