//! The packet path: what happens at each of the four hooks.

use aya_ebpf::programs::TcContext;
use weir_abi::{
    NodeConfig, ServiceKey, Verdict, config,
    flow::{flags, kind},
    service::{proto, scope},
};

use crate::{
    deliver::{self, DROP, NEXT, Route},
    flow::{self, Found, Way},
    fragment, icmp, learned, maps, nat,
    packet::{self, Kind, Packet},
    plain::{self, Known},
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
        Kind::Malformed => not_without_ports(work, scope::INTERNAL, Verdict::Malformed),
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
            if is_own(&work.packet) || service::has_frontends(&work.packet.key.dst, scope::EXTERNAL)
            {
                incoming(ctx, work, scope::EXTERNAL)
            } else {
                NEXT
            }
        }
        Kind::Malformed => not_without_ports(work, scope::EXTERNAL, Verdict::Malformed),
        Kind::IcmpError => icmp::error(ctx, work, Side::Ingress),
        Kind::Other => NEXT,
    }
}

/// Egress of the host side of a pod's veth: what this node's stack sends to the pod. Answers of backends elsewhere, and of
/// those in the node's own network namespace, get the service's address back.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext) -> i32 {
    to_device(ctx, true)
}

/// Egress of an external device: what this node's stack sends out. The same for clients outside.
#[inline(always)]
pub(crate) fn to_net(ctx: &TcContext) -> i32 {
    to_device(ctx, false)
}

#[inline(always)]
fn to_device(ctx: &TcContext, to_pod: bool) -> i32 {
    let Some(work) = maps::work() else {
        return NEXT;
    };
    match packet::parse(ctx, work) {
        Kind::Transport => outgoing(ctx, work, to_pod),
        Kind::IcmpError => icmp::error(ctx, work, Side::Egress),
        Kind::Malformed | Kind::Other => NEXT,
    }
}

#[inline(always)]
fn is_own(packet: &Packet) -> bool {
    maps::config().is_some_and(|config| packet.key.dst == nat::own_address(packet.v6, config))
}

/// A packet whose ports are not known: dropped if it is addressed to a service and to nothing else.
#[inline(never)]
fn not_without_ports(work: &mut Work, from: u8, reason: Verdict) -> i32 {
    let known = ServiceKey::address_only(work.packet.key.dst, from);
    match service::lookup(&known, &mut work.entry) {
        Lookup::Found if service::verdict(&work.entry) != Verdict::Pass => drop_packet(reason, 0),
        _ => NEXT,
    }
}

#[inline(always)]
fn outgoing(ctx: &TcContext, work: &mut Work, to_pod: bool) -> i32 {
    if work.packet.key.proto == proto::TCP && !learned::of_any_tcp() {
        return NEXT;
    }
    if !fragment::ports(&mut work.packet) {
        return NEXT;
    }
    let Some(way) = flow::find_answer(work) else {
        // What is translated here is handed over past this hook: this was addressed to the pod itself.
        if to_pod && maps::config().is_some_and(flow::redirects) {
            flow::supersede(work);
        }
        return NEXT;
    };
    match rewrite::translate(ctx, &work.packet, &work.to) {
        Ok(()) => NEXT,
        Err(_) => drop_packet(Verdict::TranslationFailed, way.service_id),
    }
}

#[inline(always)]
fn incoming(ctx: &TcContext, work: &mut Work, from: u8) -> i32 {
    let Some(config) = maps::config() else {
        return NEXT;
    };
    if !fragment::ports(&mut work.packet) {
        return not_without_ports(work, from, Verdict::FragmentUnknown);
    }
    let tcp_of_pod = from == scope::INTERNAL && work.packet.key.proto == proto::TCP;
    let known = if tcp_of_pod {
        plain::without_flows(ctx, &work.packet, config)
    } else {
        Known::Nothing
    };
    if let Known::Sent(verdict) = known {
        return verdict;
    }
    work.epoch = flow::epoch(config);
    match flow::find(work, config) {
        Found::Flow(way) => follow(ctx, work, &way),
        Found::Gone(id) => refuse(ctx, work, Verdict::BackendGone, id),
        Found::Nothing
            if matches!(known, Known::ToNoService)
                || tcp_of_pod && !service::has_frontends(&work.packet.key.dst, from) =>
        {
            plain::pass_on(ctx, work, config)
        }
        Found::Nothing => first(ctx, work, from, config),
    }
}

/// The first packet of a flow.
#[inline(never)]
fn first(ctx: &TcContext, work: &mut Work, from: u8, config: &NodeConfig) -> i32 {
    let wanted = &work.packet.key;
    let key = service::key(wanted.dst, wanted.dport_be, wanted.proto, from);
    let verdict = match service::lookup(&key, &mut work.entry) {
        Lookup::Unknown => Verdict::Pass,
        Lookup::Unsealed => return drop_packet(Verdict::InconsistentTables, 0),
        Lookup::Found => service::verdict(&work.entry),
    };
    let id = work.entry.id;
    if verdict != Verdict::Pass && is_of_others(&work.packet, config) {
        return NEXT;
    }
    match verdict {
        Verdict::Translate => {}
        // No service's address; or one of the node's own, at a port that is the node's own too. What comes from outside is
        // not remembered: anybody could fill the table.
        Verdict::Pass if from == scope::EXTERNAL => {
            flow::supersede(work);
            return NEXT;
        }
        Verdict::Pass if wanted.proto == proto::TCP => return plain::pass_on(ctx, work, config),
        Verdict::Pass => {
            flow::direct(work, config);
            let way = Way::of(&work.flow);
            return follow(ctx, work, &way);
        }
        Verdict::NoLocalEndpoints => return drop_packet(Verdict::NoLocalEndpoints, id),
        reason => return refuse(ctx, work, reason, id),
    }
    match nat::to_service(work, from, config) {
        Verdict::Translate => {
            let way = Way::of(&work.flow);
            follow(ctx, work, &way)
        }
        reason => drop_packet(reason, id),
    }
}

/// Whether a packet without a flow is in the middle of a connection that others on this node translate: kube-proxy's rules, which
/// may be there beside us, or were before us.
#[inline(always)]
fn is_of_others(packet: &Packet, config: &NodeConfig) -> bool {
    packet.key.proto == proto::TCP
        && !packet.opens()
        && flow::switches(config) & config::flags::OTHERS_TRANSLATE != 0
}

/// Makes the packet [`Work::to`] and sends it its way.
#[inline(never)]
fn follow(ctx: &TcContext, work: &mut Work, way: &Way) -> i32 {
    if way.kind == kind::DIRECT {
        return if way.ifindex == 0 {
            NEXT
        } else {
            deliver::to_pod(ctx, way.ifindex)
        };
    }
    let mut route = Route::Unknown;
    if way.ifindex == 0 && way.flags & flags::NEIGHBOUR != 0 {
        route = deliver::route(ctx, &work.to, &work.packet, &mut work.fib);
        // An error quotes the packet as its sender knows it: so before it is translated.
        match route {
            Route::TooBig => return reject::too_big(ctx, work),
            Route::Expired => return reject::expired(ctx, work),
            Route::Found | Route::Unknown => {}
        }
    }
    if rewrite::translate(ctx, &work.packet, &work.to).is_err() {
        return drop_packet(Verdict::TranslationFailed, way.service_id);
    }
    if route == Route::Found {
        return deliver::to_neighbour(ctx, &work.fib, work.packet.v6);
    }
    if way.ifindex == 0 {
        NEXT
    } else {
        deliver::to_pod(ctx, way.ifindex)
    }
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
