//! ICMP errors about translated packets, both ways: without them path MTU discovery would fail through a service.

use aya_ebpf::programs::TcContext;
use weir_abi::flow::flags;

use crate::{
    deliver::{self, DROP, NEXT},
    maps::{ENDPOINTS, FLOWS},
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
    let Some(flow) = FLOWS.get_ptr(&work.outer) else {
        return NEXT;
    };
    // SAFETY: a live value of the map.
    let (answer, how) = unsafe { (&(*flow).to, (*flow).flags) };
    if *answer == work.outer {
        return NEXT;
    }
    work.to = answer.reversed();
    let from_endpoint = work.quote.outer_src == packet.key.dst;
    work.outer.src = if from_endpoint { answer.src } else { work.quote.outer_src };
    work.outer.dst = answer.dst;
    if translate_quote(ctx, work).is_err() {
        return DROP;
    }
    if side == Side::Egress {
        return NEXT;
    }
    if how & flags::NEIGHBOUR != 0 {
        return deliver::to_neighbour(ctx, &work.outer, work.packet.v6);
    }
    match ENDPOINTS.get_ptr(&work.outer.dst) {
        // A pod that talks to itself through a service.
        Some(endpoint) if how & flags::MASQUERADED != 0 => {
            // SAFETY: a live value of the map.
            deliver::to_pod(ctx, unsafe { (*endpoint).ifindex })
        }
        _ => NEXT,
    }
}
