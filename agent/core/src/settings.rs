//! What the operator decides about services on this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Family, Node};

/// What the operator decides about services on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses that node ports are served on.
    pub node_port_addresses: NodePortAddresses,
    /// Whether node ports are also served on `127.0.0.1` and `::1`, to the node itself.
    pub loopback_node_ports: bool,
    /// Whether `spec.externalIPs` are served. Whoever may write a service can claim any address with them
    /// (CVE-2020-8554).
    pub external_ips: bool,
}

/// Which addresses serve node ports (`--nodeport-addresses`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's primary address of each family, see [`Node::primary_address`]: what kube-proxy does in nftables mode.
    Primary,
    /// These. A loopback address among them serves the node itself only.
    Listed(Vec<IpAddr>),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_port_addresses: NodePortAddresses::Primary,
            loopback_node_ports: false,
            external_ips: true,
        }
    }
}

impl Settings {
    /// The addresses of a family that node ports are served on, sorted, each once. `node` is this one, if it is known.
    #[must_use]
    pub fn node_port_addresses(&self, node: Option<&Node>, family: Family) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = match &self.node_port_addresses {
            NodePortAddresses::Primary => {
                let primary = node.and_then(|node| node.primary_address(family));
                primary.into_iter().collect()
            }
            NodePortAddresses::Listed(listed) => {
                let canonical = listed.iter().map(IpAddr::to_canonical);
                canonical.filter(|ip| Family::of(ip) == family).collect()
            }
        };
        if self.loopback_node_ports {
            addresses.push(match family {
                Family::V4 => Ipv4Addr::LOCALHOST.into(),
                Family::V6 => Ipv6Addr::LOCALHOST.into(),
            });
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
