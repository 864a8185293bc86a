//! Every type that crosses the border between the agent and its eBPF programs, and nothing else.
//!
//! Rules: `repr(C)`, no implicit padding, no `bool`, `enum` or `Option` in a map's key or value, the byte order in a
//! field's name (`_be` is network order; everything else is native), and const assertions on sizes and offsets.
//! Addresses are 16 bytes in network order; IPv4 is stored v4-mapped (`::ffff:a.b.c.d`), so that one code path serves
//! both families.
#![no_std]

pub mod address;
pub mod affinity;
pub mod config;
pub mod counters;
pub mod endpoint;
pub mod flow;
pub mod service;
pub mod socket;
pub mod table;
pub mod verdict;

pub use address::Address;
pub use affinity::{AffinityKey, AffinityValue, MemberKey};
pub use config::{Learned, NodeConfig};
pub use counters::ServiceCounters;
pub use endpoint::Endpoint;
pub use flow::{Flow, FlowKey, FragmentKey, FragmentPorts};
pub use service::{Backend, ServiceEntry, ServiceKey, SourceRangeKey};
pub use socket::{DatagramOrigin, DatagramPeer, SocketOrigin};
pub use verdict::Verdict;

/// Version of the layouts in this crate. It names the directory that holds the pinned tables: an agent adopts only
/// tables of its own version.
pub const VERSION: u32 = 2;

/// Asserts a type's size and alignment and that its fields leave no gap; with the `user` feature, makes it `aya::Pod`.
macro_rules! crosses_the_border {
    ($type:ident: $size:literal { $($field:ident: $field_type:ty),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size, "the size of a border type changed: bump VERSION");
            assert!(0 $(+ size_of::<$field_type>())+ == $size, "implicit padding in a border type");
            // Naming every field with its type makes the sum above honest.
            #[expect(dead_code, reason = "only type-checked")]
            fn fields(value: &$type) { $(let _: &$field_type = &value.$field;)+ }
        };
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)` integers only and, by the assertions above, no padding: any bytes are a valid value.
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use crosses_the_border;
