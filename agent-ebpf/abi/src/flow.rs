//! Flows: what was decided for the first packet of a conversation, for each direction.

use crate::{Address, crosses_the_border};

/// Key of `FLOWS` (LRU): a packet's addresses and ports as they are when it meets us, before it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port, network order.
    pub sport_be: u16,
    /// Destination port, network order.
    pub dport_be: u16,
    /// The protocol's number.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
crosses_the_border!(FlowKey: 40 {
    src: Address, dst: Address, sport_be: u16, dport_be: u16, proto: u8, reserved: [u8; 3],
});

impl FlowKey {
    /// The key of the answers to a packet of this key, if nothing is translated.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport_be: self.dport_be,
            dport_be: self.sport_be,
            proto: self.proto,
            reserved: self.reserved,
        }
    }
}

/// Value of `FLOWS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// What the packet becomes: for [`kind::DIRECT`] the key itself.
    pub to: FlowKey,
    /// When the last packet passed, by the kernel's coarse monotonic clock, in nanoseconds.
    pub last_seen: u64,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far, from the IP header on.
    pub bytes: u64,
    /// The backend, for [`kind::FORWARD`].
    pub backend_id: u32,
    /// Its generation when it was chosen.
    pub generation: u32,
    /// [`crate::NodeConfig::epoch`] when this was decided.
    pub epoch: u32,
    /// Host side of the destination's veth, if it is a local pod that packets are handed to directly; 0 otherwise.
    pub ifindex: u32,
    /// The service port's id; 0 for [`kind::DIRECT`].
    pub service_id: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// A set of [`flags`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
crosses_the_border!(Flow: 88 {
    to: FlowKey, last_seen: u64, packets: u64, bytes: u64, backend_id: u32, generation: u32, epoch: u32,
    ifindex: u32, service_id: u32, kind: u8, flags: u8, reserved: [u8; 2],
});

/// What a [`Flow`] is.
pub mod kind {
    /// Not addressed to a service. Of TCP, only those whose ports a translated connection may want are remembered.
    pub const DIRECT: u8 = 0;
    /// From a client to a service.
    pub const FORWARD: u8 = 1;
    /// The answers to that.
    pub const REVERSE: u8 = 2;
}

/// How a [`Flow`]'s packets go on.
pub mod flags {
    /// The source becomes one of this node's own addresses, which its stack would not forward: sent out directly.
    pub const NEIGHBOUR: u8 = 1;
    /// The source port is one of the masquerade ports.
    pub const MASQUERADED: u8 = 2;
    /// The client is outside: it came in over an external device.
    pub const EXTERNAL: u8 = 4;
    /// The client is its own backend.
    pub const HAIRPIN: u8 = 8;
    /// One side of the TCP connection has ended it.
    pub const CLOSING: u8 = 16;
    /// It is the side whose packets these are.
    pub const ENDED: u8 = 32;
    /// The connection is over: both sides have ended it, or one has reset it.
    pub const CLOSED: u8 = 64;
}

/// Key of `FRAGMENTS` (LRU): a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Identification, network order; of IPv4 in the low half.
    pub id_be: u32,
    /// The protocol's number.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
crosses_the_border!(FragmentKey: 40 { src: Address, dst: Address, id_be: u32, proto: u8, reserved: [u8; 3] });

/// Value of `FRAGMENTS`: the ports, which only the first fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub sport_be: u16,
    /// Destination port, network order.
    pub dport_be: u16,
}
crosses_the_border!(FragmentPorts: 4 { sport_be: u16, dport_be: u16 });

/// Values of `FLOWS_MOVE`: where `FLOWS` is while it takes another map's place. Each agent's programs have this of their own,
/// for they are attached one by one.
pub mod moving {
    /// It is where it is.
    pub const NOT: u32 = 0;
    /// What is not in `FLOWS` may be in `FLOWS_BEFORE`.
    pub const BOTH: u32 = 1;
    /// As [`BOTH`], and some programs know only that other map yet: what is new goes there.
    pub const BEFORE: u32 = 2;
}
