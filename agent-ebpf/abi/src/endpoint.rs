//! Local pods.

use crate::crosses_the_border;

/// Value of `ENDPOINTS`, by address: a pod of this node whose interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Index of the host side of its veth.
    pub ifindex: u32,
    /// Zero.
    pub flags: u32,
}
crosses_the_border!(Endpoint: 8 { ifindex: u32, flags: u32 });
