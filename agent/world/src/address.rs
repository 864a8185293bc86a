//! The address plan that every world has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most nodes, and most external clients, of a world: what the plan has room for.
pub(crate) const MOST_NODES: u8 = 90;
/// Host part of the first pod's address on each node; the gateway has 1.
pub(crate) const FIRST_POD: u8 = 2;
/// Host part of the last pod's address on each node.
pub(crate) const LAST_POD: u8 = 254;

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Node `node` (from 1) on the network that joins nodes and clients: `192.0.2.<node>/24` and `2001:db8::<node>/64`.
pub(crate) fn node(node: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(192, 0, 2, node),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node.into()),
    }
}

/// External client `client` (from 1) on the same network: `192.0.2.<100 + client>` and `2001:db8::1:<client>`.
pub(crate) fn client(client: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(192, 0, 2, 100 + client),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, client.into()),
    }
}

/// The default gateway of nodes and clients, which knows no other network and says so.
pub(crate) const ROUTER: Addresses = Addresses {
    v4: Ipv4Addr::new(192, 0, 2, 254),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe),
};

/// Address `host` in the pod range of node `node`: `10.244.<node>.<host>` and `fd00:10:244:<node>::<host>`.
pub(crate) fn pod(node: u8, host: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, host.into()),
    }
}

/// Pod ranges of a node, as prefixes.
pub(crate) fn pod_ranges(node: u8) -> [String; 2] {
    let base = pod(node, 0);
    [format!("{}/24", base.v4), format!("{}/64", base.v6)]
}
