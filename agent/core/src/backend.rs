//! Endpoints as the kernel's tables identify them.

use std::net::IpAddr;

use weir_abi::Address;

use crate::model::Protocol;

/// An endpoint's address, port and protocol: what makes two backends the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddr {
    /// The endpoint's address.
    pub addr: Address,
    /// The endpoint's port, network order.
    pub port_be: u16,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
}

impl BackendAddr {
    /// The backend at that address and port.
    #[must_use]
    pub fn new(addr: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self {
            addr: addr.into(),
            port_be: port.to_be(),
            proto: protocol.number(),
        }
    }
}
