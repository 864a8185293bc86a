//! Flows: the first packet decides, the others follow it at the price of one lookup.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns},
    programs::TcContext,
};
use weir_abi::{
    Address, Flow, FlowKey, NodeConfig, ServiceEntry, SourceRangeKey, Verdict, config,
    flow::{flags, kind},
    service::{self, proto, scope},
};

use crate::{
    maps::{ENDPOINTS, FLOWS, SOURCE_RANGES},
    packet::{Packet, tcp},
    select,
    work::Work,
};

/// How many masquerade ports are tried for a flow. With ports half taken, one flow in 65,000 finds none of sixteen free.
const PORT_ATTEMPTS: usize = 16;
/// How many backends are tried when the answers would be taken for those of another flow.
const CLASH_ATTEMPTS: usize = 4;
/// A flow that saw no packet for this long gives way to another that wants its answers' key.
const IDLE: u64 = 60 * 1_000_000_000;

/// What a flow table says of a packet.
pub(crate) enum Found {
    /// Follow this.
    Flow(*mut Flow),
    /// Nothing: decide anew.
    Nothing,
    /// The backend is gone, and the connection with it.
    Gone(u32),
}

/// Looks up what was decided for packets like this one, and whether that still holds.
#[inline(always)]
pub(crate) fn find(packet: &Packet, config: &NodeConfig) -> Found {
    let Some(flow) = FLOWS.get_ptr_mut(&packet.key) else {
        return Found::Nothing;
    };
    // SAFETY: a live value of the map; should the element be evicted and reused meanwhile, its new owner's counters are
    // off by one packet.
    let value = unsafe { &mut *flow };
    let epoch = epoch(config);
    match value.kind {
        kind::FORWARD => {
            let alive = select::active(value.backend_id)
                .is_some_and(|backend| backend.generation == value.generation);
            if !alive {
                let service_id = value.service_id;
                let _ = FLOWS.remove(&packet.key);
                // UDP and SCTP move on; so does a TCP connection that is only about to be made.
                let moves = packet.key.proto != proto::TCP || packet.tcp_flags & tcp::SYN != 0;
                return if moves { Found::Nothing } else { Found::Gone(service_id) };
            }
        }
        // A service may have appeared at that address since.
        kind::DIRECT if value.epoch != epoch => return Found::Nothing,
        _ => {}
    }
    if value.epoch != epoch {
        value.ifindex = direct_ifindex(&value.to, config);
        value.epoch = epoch;
    }
    Found::Flow(flow)
}

/// Counts a packet.
#[inline(always)]
pub(crate) fn touch(flow: &mut Flow, ctx: &TcContext) {
    flow.last_seen = now();
    flow.packets += 1;
    flow.bytes += u64::from(ctx.len()).saturating_sub(u64::from(crate::packet::L3));
}

/// Remembers that a packet is not addressed to a service. Returns where to hand it to, as [`Flow::ifindex`].
#[inline(always)]
pub(crate) fn direct(work: &mut Work, config: &NodeConfig) -> u32 {
    let flow = &mut work.flow;
    flow.to = work.packet.key;
    begin(flow, config);
    flow.backend_id = 0;
    flow.generation = 0;
    flow.ifindex = direct_ifindex(&flow.to, config);
    flow.service_id = 0;
    flow.kind = kind::DIRECT;
    flow.flags = 0;
    // Without room the next packet is looked at again: slower, not wrong.
    let _ = FLOWS.insert(&work.packet.key, &*flow, u64::from(BPF_ANY));
    flow.ifindex
}

#[inline(always)]
fn begin(flow: &mut Flow, config: &NodeConfig) {
    flow.last_seen = now();
    flow.packets = 1;
    flow.bytes = 0;
    flow.epoch = epoch(config);
    flow.reserved = [0; 2];
}

/// Decides about the first packet to a service: when this returns [`Verdict::Translate`], both directions of the flow are in
/// the table, and `work.flow` is the one to follow.
#[inline(never)]
pub(crate) fn to_service(work: &mut Work, from: u8, config: &NodeConfig) -> Verdict {
    let entry = &work.entry;
    if entry.flags & service::flags::SOURCE_RANGES != 0 && !source_allowed(&work.packet, entry) {
        return Verdict::SourceDenied;
    }
    for attempt in 0..CLASH_ATTEMPTS {
        let other = (attempt as u32).wrapping_mul(0x9e37_79b9);
        let hash = select::hash(&work.packet.key).wrapping_add(other);
        let Some(chosen) = select::backend(&work.entry, &work.packet.key.src, hash) else {
            return Verdict::InconsistentTables;
        };
        forward(work, &chosen, from, config);
        let expected = if work.flow.flags & flags::MASQUERADED != 0 {
            if !masquerade(work, config) {
                return Verdict::MasqueradeExhausted;
            }
            true
        } else {
            expect_answers(work, attempt + 1 == CLASH_ATTEMPTS)
        };
        if expected {
            adopt(work);
            return Verdict::Translate;
        }
    }
    Verdict::InconsistentTables
}

/// The flow of a packet to a chosen backend, but for the masquerade port.
#[inline(always)]
fn forward(work: &mut Work, chosen: &select::Chosen, from: u8, config: &NodeConfig) {
    let (packet, flow) = (&work.packet, &mut work.flow);
    let backend = &chosen.backend;
    begin(flow, config);
    flow.to = packet.key;
    flow.to.dst = backend.addr;
    flow.to.dport_be = backend.port_be;
    flow.backend_id = chosen.id;
    flow.generation = backend.generation;
    flow.service_id = work.entry.id;
    flow.kind = kind::FORWARD;
    flow.flags = if from == scope::EXTERNAL { flags::EXTERNAL } else { 0 };

    let own = own_address(packet.v6, config);
    let local = ENDPOINTS.get_ptr(&flow.to.dst);
    let hairpin = backend.addr == packet.key.src;
    // From outside, only a backend on this node answers through us by itself.
    let elsewhere = from == scope::EXTERNAL && local.is_none() && backend.addr != own;
    if hairpin || elsewhere {
        flow.to.src = own;
        flow.flags |= flags::MASQUERADED;
    }
    if elsewhere {
        flow.flags |= flags::NEIGHBOUR;
    }
    flow.ifindex = match local {
        // SAFETY: a live value of the map.
        Some(endpoint) if hairpin || redirects(config) => unsafe { (*endpoint).ifindex },
        _ => 0,
    };
}

/// Finds a port of ours that no other flow to the same backend has, and claims it by inserting the answers' flow.
#[inline(always)]
fn masquerade(work: &mut Work, config: &NodeConfig) -> bool {
    let (first, last) = (config.masquerade_port_first, config.masquerade_port_last);
    let ports = u32::from(last.saturating_sub(first)) + 1;
    if work.flow.to.src == Address([0; 16]) {
        return false;
    }
    for _ in 0..PORT_ATTEMPTS {
        // SAFETY: the helper has no preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        let offset = ((u64::from(random) * u64::from(ports)) >> 32) as u16;
        work.flow.to.sport_be = first.wrapping_add(offset).to_be();
        if expect_answers(work, false) {
            return true;
        }
    }
    false
}

/// Inserts the flow of the answers. False when these belong to another flow that is alive; with `overwrite` they are taken
/// from it.
#[inline(never)]
fn expect_answers(work: &mut Work, overwrite: bool) -> bool {
    work.to = work.flow.to.reversed();
    let (flow, answers) = (&work.flow, &mut work.answers);
    answers.to = work.packet.key.reversed();
    answers.last_seen = flow.last_seen;
    answers.packets = 0;
    answers.bytes = 0;
    answers.backend_id = flow.backend_id;
    answers.generation = flow.generation;
    // Where they go is looked up with the first of them: the way back is not the way here.
    answers.epoch = flow.epoch.wrapping_sub(1);
    answers.ifindex = 0;
    answers.service_id = flow.service_id;
    answers.kind = kind::REVERSE;
    answers.flags = flow.flags & !flags::NEIGHBOUR;
    if flow.flags & flags::EXTERNAL != 0 {
        answers.flags |= flags::NEIGHBOUR;
    }
    answers.reserved = [0; 2];
    if FLOWS.insert(&work.to, &*answers, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    if let Some(other) = FLOWS.get_ptr(&work.to) {
        // SAFETY: a live value of the map.
        let (same, last_seen) = unsafe { ((*other).to == answers.to, (*other).last_seen) };
        if !same && !overwrite && answers.last_seen.saturating_sub(last_seen) < IDLE {
            return false;
        }
    }
    let _ = FLOWS.insert(&work.to, &*answers, u64::from(BPF_ANY));
    true
}

/// Inserts the flow, or adopts the one that another CPU has inserted meanwhile for another packet of the same kind.
#[inline(always)]
fn adopt(work: &mut Work) {
    let (key, flow) = (&work.packet.key, &mut work.flow);
    if FLOWS.insert(key, &*flow, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    if let Some(winner) = FLOWS.get_ptr(key) {
        // SAFETY: a live value of the map.
        let winner = unsafe { &*winner };
        if winner.kind == kind::FORWARD {
            *flow = *winner;
            return;
        }
    }
    // What was there was a packet to no service.
    let _ = FLOWS.insert(key, &*flow, u64::from(BPF_ANY));
}

#[inline(always)]
fn source_allowed(packet: &Packet, entry: &ServiceEntry) -> bool {
    let key = aya_ebpf::maps::lpm_trie::Key::new(
        160,
        SourceRangeKey {
            id: entry.id,
            addr: packet.key.src,
        },
    );
    SOURCE_RANGES.get(&key).is_some()
}

/// Host side of the destination's veth, where packets are handed to local pods directly.
#[inline(always)]
fn direct_ifindex(to: &FlowKey, config: &NodeConfig) -> u32 {
    if !redirects(config) {
        return 0;
    }
    // SAFETY: a live value of the map.
    ENDPOINTS.get_ptr(to.dst).map_or(0, |endpoint| unsafe { (*endpoint).ifindex })
}

/// What this node masquerades as.
#[inline(always)]
pub(crate) fn own_address(v6: bool, config: &NodeConfig) -> Address {
    if v6 { config.masquerade_v6 } else { config.masquerade_v4 }
}

#[inline(always)]
fn redirects(config: &NodeConfig) -> bool {
    // SAFETY: a live field; user space may change it.
    let flags = unsafe { (&raw const config.flags).read_volatile() };
    flags & config::flags::LOCAL_REDIRECT != 0
}

#[inline(always)]
fn epoch(config: &NodeConfig) -> u32 {
    // SAFETY: a live field; user space changes it.
    unsafe { (&raw const config.epoch).read_volatile() }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}
