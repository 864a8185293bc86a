//! Flows: the first packet decides, the others follow it at the price of one lookup.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_coarse_ns,
};
use weir_abi::{
    Address, Flow, NodeConfig, Verdict, config,
    flow::{flags, kind},
    service::{proto, scope},
};

use crate::{
    flows,
    maps::ENDPOINTS,
    packet::{L3, Packet, tcp},
    select,
    service::{self as frontend, Lookup},
    words,
    work::Work,
};

const SECOND: u64 = 1_000_000_000;
/// An established TCP connection without a packet for this long gives way to another flow that wants its answers' key.
/// Longer than the two hours after which TCP's own keepalive speaks.
const IDLE_TCP: u64 = 8000 * SECOND;
/// The same for what is not established any more or not yet, and for protocols that do not say.
const IDLE: u64 = 120 * SECOND;
/// The same for a connection that both sides have ended: what is still under way arrives within it. The port is wanted again, as
/// masquerading has few, and a backend takes a new connection in place of one that only waits (TIME_WAIT, RFC 6191).
const ENDED: u64 = SECOND;
/// How often a flow's packets make sure that its answers' flow is still there.
const CHECK_PACKETS: u64 = 64;
const CHECK_PAUSE: u64 = SECOND;

/// What is known about packets like this one. What they become is in [`Work::to`].
pub(crate) enum Found {
    /// Follow this.
    Flow(Way),
    /// Nothing: decide anew.
    Nothing,
    /// The backend is gone, and the connection with it.
    Gone(u32),
}

/// How a packet goes on.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// As [`Flow::ifindex`].
    pub(crate) ifindex: u32,
    /// As [`Flow::service_id`].
    pub(crate) service_id: u32,
    /// As [`Flow::kind`].
    pub(crate) kind: u8,
    /// As [`Flow::flags`].
    pub(crate) flags: u8,
}

impl Way {
    #[inline(always)]
    pub(crate) const fn of(flow: &Flow) -> Self {
        Self {
            ifindex: flow.ifindex,
            service_id: flow.service_id,
            kind: flow.kind,
            flags: flow.flags,
        }
    }
}

/// Looks up what was decided for packets like this one, and whether that still holds.
#[inline(always)]
pub(crate) fn find(work: &mut Work, config: &NodeConfig) -> Found {
    let Some(flow) = flows::get(&work.packet.key) else {
        return Found::Nothing;
    };
    // SAFETY: a live value of the map. Should the element be evicted and reused in this very moment, its new owner's
    // counters are off by one packet; nothing else is written in place.
    let flow = unsafe { &mut *flow };
    words::copy(&flow.to, &mut work.to);
    let now = now();
    if flow.kind == kind::FORWARD {
        let alive = select::active(flow.backend_id)
            .is_some_and(|backend| backend.generation == flow.generation);
        let syn = work.packet.opens();
        if !alive {
            let service_id = flow.service_id;
            forget(work);
            // UDP and SCTP move on; so does a TCP connection that is only about to be made.
            let moves = work.packet.key.proto != proto::TCP || syn;
            return if moves {
                Found::Nothing
            } else {
                Found::Gone(service_id)
            };
        }
        let idle = now.saturating_sub(flow.last_seen);
        // The same ports again, but not the same conversation. A SYN that is sent again is one of the same.
        let over = if work.packet.key.proto == proto::TCP {
            syn && (flow.flags & flags::CLOSING != 0 || idle > IDLE)
        } else {
            idle > IDLE
        };
        if over {
            forget(work);
            return Found::Nothing;
        }
        // Nor is it one with a service that is none any more. TCP connections outlive theirs, as they do with kube-proxy.
        let stays = flow.epoch == work.epoch || work.packet.key.proto == proto::TCP;
        if !stays && !is_served(work, flow) {
            forget(work);
            return Found::Nothing;
        }
        let check = flow.packets % CHECK_PACKETS == 0
            || idle > CHECK_PAUSE
            || flow.flags & flags::CLOSED != 0;
        if check && !answers_expected(work, flow) {
            forget_forward(work);
            return Found::Nothing;
        }
    } else if flow.kind == kind::DIRECT && flow.epoch != work.epoch {
        // A service may have appeared at that address since. A connection stays what it was.
        if work.packet.key.proto != proto::TCP || work.packet.opens() {
            return Found::Nothing;
        }
    }
    touch(flow, &work.packet, now);
    if work.packet.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        close(work, flow);
    }
    if flow.epoch != work.epoch {
        renew(work, flow, config);
        return Found::Flow(Way::of(&work.flow));
    }
    Found::Flow(Way::of(flow))
}

/// Looks up what an answer becomes that this node's own stack sends. False when it is none.
#[inline(always)]
pub(crate) fn find_answer(work: &mut Work) -> Option<Way> {
    let flow = flows::get(&work.packet.key)?;
    // SAFETY: as in `find`.
    let flow = unsafe { &mut *flow };
    if flow.kind != kind::REVERSE {
        return None;
    }
    words::copy(&flow.to, &mut work.to);
    touch(flow, &work.packet, now());
    if work.packet.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        close(work, flow);
    }
    Some(Way::of(flow))
}

/// Counts a packet.
#[inline(always)]
fn touch(flow: &mut Flow, packet: &Packet, now: u64) {
    flow.last_seen = now;
    flow.packets += 1;
    flow.bytes += length(packet);
    // Whoever was told that the connection is over goes on with it: that was not so.
    let over = flow.flags & (flags::CLOSED | flags::ENDED) == flags::CLOSED;
    if over && packet.tcp_flags & (tcp::FIN | tcp::RST) == 0 {
        flow.flags &= !flags::CLOSED;
    }
}

/// The length of the IP packet.
#[inline(always)]
fn length(packet: &Packet) -> u64 {
    u64::from(packet.end.wrapping_sub(L3))
}

/// One side ends the connection: its ports may soon be another's.
#[inline(never)]
fn close(work: &Work, flow: &mut Flow) {
    let reset = work.packet.tcp_flags & tcp::RST != 0;
    let said = flow.flags & flags::ENDED != 0 && !reset;
    flow.flags |= flags::CLOSING | flags::ENDED;
    if said || flow.kind == kind::DIRECT {
        return;
    }
    if let Some(other) = flows::get(&work.to.reversed()) {
        // SAFETY: a live value of the map; reused meanwhile, another flow may have to give way earlier.
        let other = unsafe { &mut *other };
        if other.kind == kind::DIRECT || other.to != work.packet.key.reversed() {
            return;
        }
        other.flags |= flags::CLOSING;
        other.last_seen = flow.last_seen;
        if reset || other.flags & flags::ENDED != 0 {
            other.flags |= flags::CLOSED;
            flow.flags |= flags::CLOSED;
        }
    }
}

/// Removes both directions of a flow of [`kind::FORWARD`].
#[inline(never)]
fn forget(work: &mut Work) {
    let answers = work.to.reversed();
    if let Some(other) = flows::get(&answers) {
        // SAFETY: a live value of the map.
        let ours = unsafe { (*other).to } == work.packet.key.reversed();
        if ours {
            flows::remove(&answers);
        }
    }
    forget_forward(work);
}

#[inline(always)]
fn forget_forward(work: &Work) {
    flows::remove(&work.packet.key);
}

/// A packet to no service begins a conversation, or goes on with one, between ports that a conversation through a service
/// had before: from now on the answers are its own. Both flows of the other one go; should that go on as well, it gets
/// another port ([`expect_answers`]).
#[inline(always)]
pub(crate) fn supersede(work: &mut Work) {
    if work.packet.key.proto != proto::TCP || work.packet.opens() {
        give_answers_up(work);
    }
}

#[inline(never)]
fn give_answers_up(work: &mut Work) {
    work.outer = work.packet.key.reversed();
    let Some(answers) = flows::get(&work.outer) else {
        return;
    };
    // SAFETY: a live value of the map.
    let (to, kind) = unsafe { ((*answers).to, (*answers).kind) };
    if kind != kind::REVERSE {
        return;
    }
    flows::remove(&work.outer);
    work.outer = to.reversed();
    flows::remove(&work.outer);
}

/// Makes sure that the answers' flow is there and young enough not to be evicted: a conversation may be one-sided for
/// long. False when the answers are another flow's by now.
#[inline(never)]
fn answers_expected(work: &mut Work, flow: &Flow) -> bool {
    let key = work.to.reversed();
    if let Some(other) = flows::get(&key) {
        // SAFETY: a live value of the map.
        let (to, kind) = unsafe { ((*other).to, (*other).kind) };
        if kind == kind::REVERSE {
            return to == work.packet.key.reversed();
        }
    }
    work.flow = *flow;
    let to = work.to;
    let expected = expect_answers(work);
    work.to = to;
    expected
}

/// Whether the frontend that a flow was made for still leads to backends.
#[inline(never)]
fn is_served(work: &mut Work, flow: &Flow) -> bool {
    let from = if flow.flags & flags::EXTERNAL == 0 {
        scope::INTERNAL
    } else {
        scope::EXTERNAL
    };
    let (id, wanted) = (flow.service_id, &work.packet.key);
    let key = frontend::key(wanted.dst, wanted.dport_be, wanted.proto, from);
    match frontend::lookup(&key, &mut work.entry) {
        Lookup::Found => {
            work.entry.id == id && frontend::verdict(&work.entry) == Verdict::Translate
        }
        // Being replaced.
        Lookup::Unsealed => true,
        Lookup::Unknown => false,
    }
}
/// Looks a flow's local destination up again: pods have come or gone since. The element is replaced, not written to: it may
/// be another flow's by now.
#[inline(never)]
fn renew(work: &mut Work, flow: &Flow, config: &NodeConfig) {
    work.flow = *flow;
    let flow = &mut work.flow;
    let hairpin = flow.flags & flags::HAIRPIN != 0;
    flow.ifindex = local_ifindex(&flow.to.dst, hairpin, config);
    flow.epoch = work.epoch;
    let _ = flows::insert(&work.packet.key, &*flow, BPF_ANY);
}

/// Remembers that a packet is not addressed to a service. The flow to follow is [`Work::flow`].
#[inline(never)]
pub(crate) fn direct(work: &mut Work, config: &NodeConfig) {
    work.to = work.packet.key;
    let (flow, packet) = (&mut work.flow, &work.packet);
    begin(flow, packet, work.epoch);
    if let Some(known) = flows::get(&packet.key) {
        // SAFETY: a live value of the map.
        let (kind, packets, bytes) = unsafe { ((*known).kind, (*known).packets, (*known).bytes) };
        if kind == kind::DIRECT {
            flow.packets += packets;
            flow.bytes += bytes;
        }
    }
    flow.to = packet.key;
    flow.backend_id = 0;
    flow.generation = 0;
    flow.ifindex = local_ifindex(&flow.to.dst, false, config);
    flow.service_id = 0;
    flow.kind = kind::DIRECT;
    flow.flags = 0;
    // Without room the next packet is looked at again: slower, not wrong.
    let _ = flows::insert(&packet.key, &*flow, BPF_ANY);
    supersede(work);
}

#[inline(always)]
pub(crate) fn begin(flow: &mut Flow, packet: &Packet, epoch: u32) {
    flow.last_seen = now();
    flow.packets = 1;
    flow.bytes = length(packet);
    flow.epoch = epoch;
    flow.reserved = [0; 2];
}

/// Inserts the flow of the answers. False when these belong to another flow that is alive, be it one to no service.
#[inline(never)]
pub(crate) fn expect_answers(work: &mut Work) -> bool {
    if let Some(direct) = flows::get(&work.flow.to) {
        // SAFETY: a live value of the map.
        let direct = unsafe { &*direct };
        let idle = work.flow.last_seen.saturating_sub(direct.last_seen);
        if direct.kind == kind::DIRECT {
            if direct.flags & flags::CLOSING == 0 && idle < IDLE {
                return false;
            }
            // Should it begin again, the answers are its own again ([`supersede`]).
            flows::remove(&work.flow.to);
        }
    }
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
    if flows::insert(&work.to, &*answers, BPF_NOEXIST) == 0 {
        return true;
    }
    if let Some(other) = flows::get(&work.to) {
        // SAFETY: a live value of the map.
        let other = unsafe { &*other };
        let same = other.kind == kind::REVERSE && other.to == answers.to;
        let idle = answers.last_seen.saturating_sub(other.last_seen);
        if !same && idle < lasts(work.to.proto, other) {
            return false;
        }
    }
    let _ = flows::insert(&work.to, &*answers, BPF_ANY);
    true
}

/// How long a flow without a packet keeps its key.
#[inline(always)]
fn lasts(proto: u8, flow: &Flow) -> u64 {
    if flow.flags & flags::CLOSED != 0 {
        // Reset by its client, the backend does not even wait.
        return if flow.flags & flags::ENDED == 0 {
            0
        } else {
            ENDED
        };
    }
    let established = proto == proto::TCP && flow.flags & flags::CLOSING == 0 && flow.packets != 0;
    if established { IDLE_TCP } else { IDLE }
}

/// Inserts the flow, or adopts the one that another CPU has inserted meanwhile for another packet of the same kind. Whether
/// it is ours.
#[inline(always)]
pub(crate) fn adopt(work: &mut Work) -> bool {
    let (key, flow) = (&work.packet.key, &mut work.flow);
    if flows::insert(key, &*flow, BPF_NOEXIST) == 0 {
        return true;
    }
    if let Some(winner) = flows::get(key) {
        // SAFETY: a live value of the map.
        let winner = unsafe { &*winner };
        if winner.kind == kind::FORWARD {
            *flow = *winner;
            // No answers will come by our own choice.
            if flow.to.reversed() != work.to {
                flows::remove(&work.to);
            }
            return false;
        }
    }
    // What was there was a packet to no service.
    let _ = flows::insert(key, &*flow, BPF_ANY);
    true
}

/// Host side of the destination's veth, where packets are handed to local pods directly. To a pod from itself they always
/// are: the node's own stack would not take packets that have its own address as their source.
#[inline(always)]
pub(crate) fn local_ifindex(to: &Address, hairpin: bool, config: &NodeConfig) -> u32 {
    if !hairpin && !redirects(config) {
        return 0;
    }
    // SAFETY: a live value of the map.
    ENDPOINTS
        .get_ptr(to)
        .map_or(0, |endpoint| unsafe { (*endpoint).ifindex })
}

/// Whether packets to local pods are handed over directly.
#[inline(always)]
pub(crate) fn redirects(config: &NodeConfig) -> bool {
    switches(config) & config::flags::LOCAL_REDIRECT != 0
}

/// [`NodeConfig::flags`] as they are now.
#[inline(always)]
pub(crate) fn switches(config: &NodeConfig) -> u32 {
    // SAFETY: a live field; user space may change it.
    unsafe { (&raw const config.flags).read_volatile() }
}

/// [`NodeConfig::epoch`], to be read before the tables that it is about.
#[inline(always)]
pub(crate) fn epoch(config: &NodeConfig) -> u32 {
    // SAFETY: a live field; user space changes it.
    unsafe { (&raw const config.epoch).read_volatile() }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}
