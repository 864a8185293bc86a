//! How nodes, pods and clients are joined: the `ip` lines and sysctls of each.

use serde::{Deserialize, Serialize};

use crate::address::{self, Addresses};

/// How a node reaches its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wiring {
    /// As the ptp plugin (kindnet) and Calico do: each veth is a link by itself, with a host route to its pod. The gateway's
    /// address is on every host side.
    #[default]
    Routed,
    /// As flannel and the bridge plugin do: the host sides are ports of the bridge `cni0`, hairpin on.
    Bridged,
}

/// Name of a node's, client's and pod's own interface.
pub(crate) const INTERFACE: &str = "eth0";
/// Name of the bridge of a bridged node.
pub(crate) const POD_BRIDGE: &str = "cni0";
/// Name of the bridge that joins nodes and clients, in its own namespace.
const LAN: &str = "lan0";

/// For every namespace. No address waits for duplicate detection, no refusal is rate limited, and short connections do not
/// run out of ports.
pub(crate) const EVERYWHERE: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv4/tcp_tw_reuse", "1"),
];

/// For nodes and the router. Setting `ip_forward` resets other values, so it comes first.
pub(crate) const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// The network that joins nodes and clients, with the router of this many nodes. What the router does not know it reports
/// unreachable; to pods it knows the way, so that they are told too.
pub(crate) fn lan(nodes: u8) -> Vec<String> {
    let Addresses { v4, v6 } = address::ROUTER;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add {LAN} type bridge forward_delay 0 mcast_snooping 0"),
        format!("addr add {v4}/24 dev {LAN}"),
        format!("addr add {v6}/64 dev {LAN} nodad"),
        format!("link set {LAN} up"),
    ];
    lines.extend(UNREACHABLE.map(str::to_owned));
    lines.extend((1..=nodes).flat_map(to_pods));
    lines
}

/// Answers for whatever no other route leads to.
const UNREACHABLE: [&str; 2] = [
    "route add unreachable 0.0.0.0/0",
    "route add unreachable ::/0",
];

/// A port of that network, whose other side is `eth0` in the namespace `netns`. Run where the bridge is.
pub(crate) fn lan_port(port: &str, netns: &str) -> Vec<String> {
    vec![
        format!("link add {port} type veth peer name {INTERFACE} netns {netns}"),
        format!("link set {port} master {LAN} up"),
    ]
}

/// A node's or client's side of that network.
fn on_lan(Addresses { v4, v6 }: Addresses) -> Vec<String> {
    vec![
        "link set lo up".to_owned(),
        format!("addr add {v4}/24 dev {INTERFACE}"),
        format!("addr add {v6}/64 dev {INTERFACE} nodad"),
        format!("link set {INTERFACE} up"),
    ]
}

/// Routes to the pods of a node, by way of it.
fn to_pods(node: u8) -> Vec<String> {
    let [v4, v6] = address::pod_ranges(node);
    let via = address::node(node);
    vec![
        format!("route add {v4} via {}", via.v4),
        format!("route add {v6} via {}", via.v6),
    ]
}

/// An external client, which knows nothing but that network.
pub(crate) fn client(addresses: Addresses) -> Vec<String> {
    let mut lines = on_lan(addresses);
    lines.extend(UNREACHABLE.map(str::to_owned));
    lines
}

impl Wiring {
    /// One of this many nodes, before its first pod.
    pub(crate) fn node(self, node: u8, nodes: u8) -> Vec<String> {
        let [v4, v6] = address::pod_ranges(node);
        let gateway = address::pod(node, 1);
        let router = address::ROUTER;
        let mut lines = on_lan(address::node(node));
        lines.push(format!("route add default via {}", router.v4));
        lines.push(format!("route add default via {}", router.v6));
        let others = (1..=nodes).filter(|&other| other != node);
        lines.extend(others.flat_map(to_pods));
        lines.extend(match self {
            // An address without a pod is refused here, not sent to the router.
            Self::Routed => vec![
                format!("route add unreachable {v4}"),
                format!("route add unreachable {v6}"),
            ],
            // Without an address of its own, a bridge changes it when ports come and go.
            Self::Bridged => vec![
                format!(
                    "link add {POD_BRIDGE} address {} type bridge forward_delay 0 mcast_snooping 0",
                    hardware_address(gateway)
                ),
                format!("addr add {}/24 dev {POD_BRIDGE}", gateway.v4),
                format!("addr add {}/64 dev {POD_BRIDGE} nodad", gateway.v6),
                format!("link set {POD_BRIDGE} up"),
            ],
        });
        lines
    }

    /// The host side `veth` of a pod whose namespace is `netns`. Run in its node.
    pub(crate) fn host_side(
        self,
        node: u8,
        pod: Addresses,
        veth: &str,
        netns: &str,
    ) -> Vec<String> {
        let gateway = address::pod(node, 1);
        let mut lines = vec![format!(
            "link add {veth} type veth peer name {INTERFACE} address {} netns {netns}",
            hardware_address(pod)
        )];
        lines.extend(match self {
            Self::Routed => vec![
                format!("addr add {}/32 dev {veth}", gateway.v4),
                format!("addr add {}/128 dev {veth} nodad", gateway.v6),
                format!("link set {veth} up"),
                format!("route add {}/32 dev {veth}", pod.v4),
                format!("route add {}/128 dev {veth}", pod.v6),
            ],
            Self::Bridged => vec![
                format!("link set {veth} master {POD_BRIDGE} up"),
                format!("link set {veth} type bridge_slave hairpin on"),
            ],
        });
        lines
    }

    /// The pod's side. Run in its namespace.
    pub(crate) fn pod_side(self, node: u8, pod: Addresses) -> Vec<String> {
        let gateway = address::pod(node, 1);
        let (prefix4, prefix6) = match self {
            Self::Routed => (32, 128),
            Self::Bridged => (24, 64),
        };
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("addr add {}/{prefix4} dev {INTERFACE}", pod.v4),
            format!("addr add {}/{prefix6} dev {INTERFACE} nodad", pod.v6),
            format!("link set {INTERFACE} up"),
        ];
        if self == Self::Routed {
            lines.push(format!(
                "route add {} dev {INTERFACE} scope link",
                gateway.v4
            ));
            lines.push(format!("route add {} dev {INTERFACE}", gateway.v6));
        }
        lines.push(format!("route add default via {}", gateway.v4));
        lines.push(format!("route add default via {}", gateway.v6));
        lines
    }
}

/// As the CNI plugins of old derived it from the address: a pod that reuses an address is found at once.
fn hardware_address(addresses: Addresses) -> String {
    let [a, b, c, d] = addresses.v4.octets();
    format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
