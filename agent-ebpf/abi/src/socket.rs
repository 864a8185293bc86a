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
