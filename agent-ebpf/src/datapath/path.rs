//! The packet path: what happens at each of the four hooks.

use aya_ebpf::programs::TcContext;
use weir_abi::{
    Flow, NodeConfig, ServiceKey, Verdict,
    flow::{flags, kind},
    service::scope,
};

use crate::{
    deliver::{self, DROP, NEXT},
    flow::{self, Found},
    fragment, icmp,
    maps::{self, FLOWS, SERVICES},
    packet::{self, Kind, Packet},
    reject, rewrite,
    service::{self, Lookup},
    verdict,
    work::Work,
};

/// Which side of a device a hook is on. Only what comes in can be redirected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Received by the device.
    Ingress,
    /// About to be sent by it.
    Egress,
}

/// Ingress of the host side of a pod's veth: everything the pod sends.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> i32 {
    let Some(work) = maps::work() else {
        return NEXT;
    };
    match packet::parse(ctx, work) {
        Kind::Transport => incoming(ctx, work, scope::INTERNAL),
        Kind::IcmpError => icmp::error(ctx, work, Side::Ingress),
        Kind::Other => NEXT,
    }
}

/// Ingress of an external device.
#[inline(always)]
pub(crate) fn from_net(ctx: &TcContext) -> i32 {
    let Some(work) = maps::work() else {
        return NEXT;
    };
    match packet::parse(ctx, work) {
        Kind::Transport => {
            // Traffic to pods, which is most of it, ends here.
            let known = ServiceKey::address_only(work.packet.key.dst, scope::EXTERNAL);
            let concerns_us = SERVICES.get_ptr(known).is_some() || is_own(&work.packet);
            if concerns_us { incoming(ctx, work, scope::EXTERNAL) } else { NEXT }
        }
        Kind::IcmpError => icmp::error(ctx, work, Side::Ingress),
        Kind::Other => NEXT,
    }
}

/// Egress of the host side of a pod's veth, and of an external device: what this node's stack sends. Answers of backends
/// elsewhere, and of those in the node's own network namespace, get the service's address back.
#[inline(always)]
pub(crate) fn to_device(ctx: &TcContext) -> i32 {
    let Some(work) = maps::work() else {
        return NEXT;
    };
    match packet::parse(ctx, work) {
        Kind::Transport => outgoing(ctx, work),
        Kind::IcmpError => icmp::error(ctx, work, Side::Egress),
        Kind::Other => NEXT,
    }
}

#[inline(always)]
fn is_own(packet: &Packet) -> bool {
    maps::config().is_some_and(|config| packet.key.dst == flow::own_address(packet.v6, config))
}

#[inline(always)]
fn outgoing(ctx: &TcContext, work: &mut Work) -> i32 {
    if !fragment::ports(&mut work.packet) {
        return NEXT;
    }
    let Some(flow) = FLOWS.get_ptr_mut(&work.packet.key) else {
        return NEXT;
    };
    // SAFETY: a live value of the map.
    let flow = unsafe { &mut *flow };
    if flow.kind != kind::REVERSE {
        return NEXT;
    }
    flow::touch(flow, ctx);
    work.to = flow.to;
    match rewrite::translate(ctx, &work.packet, &work.to) {
        Ok(()) => NEXT,
        Err(_) => drop_packet(Verdict::TranslationFailed, flow.service_id),
    }
}

#[inline(always)]
fn incoming(ctx: &TcContext, work: &mut Work, from: u8) -> i32 {
    let Some(config) = maps::config() else {
        return NEXT;
    };
    if !fragment::ports(&mut work.packet) {
        let known = ServiceKey::address_only(work.packet.key.dst, from);
        return if SERVICES.get_ptr(known).is_some() {
            drop_packet(Verdict::FragmentUnknown, 0)
        } else {
            NEXT
        };
    }
    match flow::find(&work.packet, config) {
        Found::Flow(flow) => {
            // SAFETY: a live value of the map.
            let flow = unsafe { &mut *flow };
            flow::touch(flow, ctx);
            follow(ctx, &work.packet, flow)
        }
        Found::Gone(id) => refuse(ctx, work, Verdict::BackendGone, id),
        Found::Nothing => first(ctx, work, from, config),
    }
}

/// The first packet of a flow.
#[inline(never)]
fn first(ctx: &TcContext, work: &mut Work, from: u8, config: &NodeConfig) -> i32 {
    let wanted = &work.packet.key;
    let key = service::key(wanted.dst, wanted.dport_be, wanted.proto, from);
    match service::lookup(&key, &mut work.entry) {
        Lookup::Unknown => {
            if from == scope::EXTERNAL {
                return NEXT;
            }
            let ifindex = flow::direct(work, config);
            return if ifindex == 0 { NEXT } else { deliver::to_pod(ctx, ifindex) };
        }
        Lookup::Unsealed => return drop_packet(Verdict::InconsistentTables, 0),
        Lookup::Found => {}
    }
    let id = work.entry.id;
    match service::verdict(&work.entry) {
        Verdict::Translate => {}
        // Known as an address, but this port is the node's own.
        Verdict::Pass => return NEXT,
        Verdict::NoLocalEndpoints => return drop_packet(Verdict::NoLocalEndpoints, id),
        reason => return refuse(ctx, work, reason, id),
    }
    match flow::to_service(work, from, config) {
        Verdict::Translate => {
            verdict::count(Verdict::Translate, id);
            follow(ctx, &work.packet, &work.flow)
        }
        reason => drop_packet(reason, id),
    }
}

/// Does to a packet what its flow says.
#[inline(always)]
fn follow(ctx: &TcContext, packet: &Packet, flow: &Flow) -> i32 {
    // The flow may be evicted meanwhile: what is needed after the translation is read before it.
    let (ifindex, how, kind) = (flow.ifindex, flow.flags, flow.kind);
    if kind != kind::DIRECT && rewrite::translate(ctx, packet, &flow.to).is_err() {
        return drop_packet(Verdict::TranslationFailed, flow.service_id);
    }
    if ifindex != 0 {
        return deliver::to_pod(ctx, ifindex);
    }
    if how & flags::NEIGHBOUR != 0 {
        return deliver::to_neighbour(ctx, &flow.to, packet.v6);
    }
    NEXT
}

#[inline(always)]
fn refuse(ctx: &TcContext, work: &mut Work, reason: Verdict, id: u32) -> i32 {
    verdict::count(reason, id);
    reject::refuse(ctx, work)
}

#[inline(always)]
fn drop_packet(reason: Verdict, id: u32) -> i32 {
    verdict::count(reason, id);
    DROP
}
