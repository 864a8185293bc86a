//! Local pods.

use crate::crosses_the_border;

/// Value of `ENDPOINTS`, by address: a pod of this node whose interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Index of the host side of its veth.
    pub ifindex: u32,
    /// A set of [`flags`], by the programs.
    pub flags: u32,
}
crosses_the_border!(Endpoint: 8 { ifindex: u32, flags: u32 });

/// What the programs have learned of an [`Endpoint`].
pub mod flags {
    /// TCP connections from or to the pod have been translated packet by packet.
    pub const TRANSLATED: u32 = 1;
}
