//! Whether TCP is translated packet by packet at all: on most nodes, sockets do it for the pods. Where it is not, a TCP packet
//! needs no look at the flows.

use weir_abi::{Address, service::scope};

use crate::maps::{self, ENDPOINTS};

/// Whether connections of this node's pods have ever been translated packet by packet.
#[inline(always)]
pub(crate) fn of_pods_tcp() -> bool {
    // SAFETY: a live field, which only ever changes once.
    maps::learned()
        .is_none_or(|learned| unsafe { (&raw const learned.tcp_of_pods).read_volatile() } != 0)
}

/// Whether any connections have.
#[inline(always)]
pub(crate) fn of_any_tcp() -> bool {
    // SAFETY: as above.
    of_pods_tcp()
        || maps::learned().is_none_or(
            |learned| unsafe { (&raw const learned.tcp_from_outside).read_volatile() } != 0,
        )
}

/// To be called before flows of a connection are made, for which `client` asks from that scope.
#[inline(always)]
pub(crate) fn tcp(client: &Address, from: u8) {
    let Some(learned) = maps::LEARNED.get_ptr_mut(0) else {
        return;
    };
    if from == scope::EXTERNAL {
        // SAFETY: a value of an array map, which never moves; the field is only ever set.
        unsafe { (&raw mut (*learned).tcp_from_outside).write_volatile(1) };
    }
    // A balancer outside may send a pod's own connections back here.
    if from == scope::INTERNAL || ENDPOINTS.get_ptr(client).is_some() {
        // SAFETY: as above.
        unsafe { (&raw mut (*learned).tcp_of_pods).write_volatile(1) };
    }
}
