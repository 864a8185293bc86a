//! ICMP errors about translated packets, both ways: without them path MTU discovery would fail through a service.

use aya_ebpf::programs::TcContext;
use weir_abi::flow::{flags, kind};

use crate::{
    deliver::{self, DROP, NEXT, Route},
    flows,
    maps::ENDPOINTS,
    path::Side,
    rewrite::translate_quote,
    work::Work,
};

/// Translates an error that quotes a packet of a flow of ours: whoever gets it finds the packet quoted that it has sent.
#[inline(never)]
pub(crate) fn error(ctx: &TcContext, work: &mut Work, side: Side) -> i32 {
    let packet = &work.packet;
    // The quoted packet's answers are what we translate back.
    work.outer = packet.key.reversed();
    let Some(flow) = flows::get(&work.outer) else {
        return NEXT;
    };
    // SAFETY: a live value of the map.
    let (answer, kind, how) = unsafe { ((*flow).to, (*flow).kind, (*flow).flags) };
    if kind == kind::DIRECT {
        return NEXT;
    }
    let (forward, own) = (kind == kind::FORWARD, how & flags::MASQUERADED != 0);
    work.to = answer.reversed();
    // Towards the backend, a router between us and the client speaks by our own address where the client does.
    let speaks = work.quote.outer_src == packet.key.dst || (forward && own);
    work.outer.src = if speaks {
        answer.src
    } else {
        work.quote.outer_src
    };
    work.outer.dst = answer.dst;
    let out = side == Side::Ingress && how & flags::NEIGHBOUR != 0;
    let route = if out {
        deliver::route(ctx, &work.outer, &work.packet, &mut work.fib)
    } else {
        Route::Unknown
    };
    // No error about an error.
    if matches!(route, Route::Expired | Route::TooBig) || translate_quote(ctx, work).is_err() {
        return DROP;
    }
    if route == Route::Found {
        return deliver::to_neighbour(ctx, &work.fib, work.packet.v6);
    }
    if side == Side::Egress {
        return NEXT;
    }
    match ENDPOINTS.get_ptr(&work.outer.dst) {
        // A pod that talks to itself through a service.
        Some(endpoint) if how & flags::HAIRPIN != 0 => {
            // SAFETY: a live value of the map.
            deliver::to_pod(ctx, unsafe { (*endpoint).ifindex })
        }
        _ => NEXT,
    }
}
