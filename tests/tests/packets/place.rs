//! Where the packets of the tests come from and go to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of one family: a node at 172.18.0.2 with local pods in 10.244.0.0/24, other nodes' pods in 10.244.1.0/24, and
/// clients outside; and the same for IPv6.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    v6: bool,
}

impl Place {
    pub(crate) const BOTH: [Self; 2] = [Self { v6: false }, Self { v6: true }];

    pub(crate) fn is_v6(self) -> bool {
        self.v6
    }

    fn addr(self, v4: [u8; 4], v6: [u16; 2]) -> IpAddr {
        if self.v6 {
            Ipv6Addr::new(v6[0], 0, 0, 0, 0, 0, 0, v6[1]).into()
        } else {
            Ipv4Addr::from(v4).into()
        }
    }

    /// A pod of this node.
    pub(crate) fn pod(self, n: u8) -> IpAddr {
        self.addr([10, 244, 0, n], [0xfd44, n.into()])
    }

    /// A pod of another node.
    pub(crate) fn remote(self, n: u8) -> IpAddr {
        self.addr([10, 244, 1, n], [0xfd45, n.into()])
    }

    /// The node itself.
    pub(crate) fn node(self) -> IpAddr {
        self.addr([172, 18, 0, 2], [0xfd18, 2])
    }

    /// A service's address.
    pub(crate) fn service(self, n: u8) -> IpAddr {
        self.addr([10, 96, 0, n], [0xfd96, n.into()])
    }

    /// A client outside of the cluster.
    pub(crate) fn client(self, n: u8) -> IpAddr {
        self.addr([192, 168, 77, n], [0xfd77, n.into()])
    }
}
