//! What a socket remembers of its translation.

use crate::{Address, crosses_the_border};

/// Value of `SOCKET_ORIGINS` (socket storage): the service a connected socket asked for, and the backend it got.
/// It lives and dies with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SocketOrigin {
    /// The address the application asked for.
    pub service_addr: Address,
    /// The address it was sent to.
    pub backend_addr: Address,
    /// The port the application asked for, network order.
    pub service_port_be: u16,
    /// The port it was sent to, network order.
    pub backend_port_be: u16,
}
crosses_the_border!(SocketOrigin: 36 {
    service_addr: Address, backend_addr: Address, service_port_be: u16, backend_port_be: u16,
});

/// Key of `DATAGRAM_ORIGINS` (LRU): who a UDP socket may get an answer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DatagramPeer {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address.
    pub addr: Address,
    /// The backend's port, network order.
    pub port_be: u16,
    /// Zero.
    pub reserved: [u8; 6],
}
crosses_the_border!(DatagramPeer: 32 { cookie: u64, addr: Address, port_be: u16, reserved: [u8; 6] });

/// Value of `DATAGRAM_ORIGINS`: the service that the datagrams to that backend were addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DatagramOrigin {
    /// The service's address.
    pub addr: Address,
    /// The service's port, network order.
    pub port_be: u16,
    /// Zero.
    pub reserved: [u8; 2],
}
crosses_the_border!(DatagramOrigin: 20 { addr: Address, port_be: u16, reserved: [u8; 2] });
