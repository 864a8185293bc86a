//! Every hook Weir uses, and why. The README's hook map is made from this table.

use std::fmt::Write;

/// One hook.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The hook's name: of its program's pinned link, and in `weir status`.
    pub name: &'static str,
    /// The program's name in the object.
    pub program: &'static str,
    /// Where in the kernel it sits.
    pub place: &'static str,
    /// What it does.
    pub does: &'static str,
    /// Why there and nowhere else.
    pub reason: &'static str,
}

/// All hooks, in the order in which they are attached. What restores a name comes before what changes it, so that no
/// application ever reads back an address that it did not ask for.
pub const HOOKS: [Hook; 8] = [
    Hook {
        name: "getpeername4",
        program: "weir_getpeername4",
        place: "cgroup root, getpeername(2), IPv4",
        does: "gives the service's address as the peer of a translated socket",
        reason: "applications compare the peer with what they asked for (TLS, databases, Kerberos)",
    },
    Hook {
        name: "getpeername6",
        program: "weir_getpeername6",
        place: "cgroup root, getpeername(2), IPv6",
        does: "the same for IPv6 sockets, v4-mapped ones included",
        reason: "a dual-stack application uses IPv6 sockets for IPv4 as well",
    },
    Hook {
        name: "recvmsg4",
        program: "weir_recvmsg4",
        place: "cgroup root, recvmsg(2), IPv4",
        does: "gives the service's address as the source of a datagram to a socket of the node itself",
        reason: "a resolver takes no answer from an address that it did not ask",
    },
    Hook {
        name: "recvmsg6",
        program: "weir_recvmsg6",
        place: "cgroup root, recvmsg(2), IPv6",
        does: "the same for IPv6 sockets",
        reason: "as above",
    },
    Hook {
        name: "connect4",
        program: "weir_connect4",
        place: "cgroup root, connect(2), IPv4",
        does: "sends TCP, and UDP of the node itself, to a backend, or refuses it at once",
        reason: "once per connection, before its first packet: nothing is paid per packet, no connection table is needed, and \
                 a refusal is an errno instead of a time-out",
    },
    Hook {
        name: "connect6",
        program: "weir_connect6",
        place: "cgroup root, connect(2), IPv6",
        does: "the same for IPv6 sockets, v4-mapped destinations included",
        reason: "as above",
    },
    Hook {
        name: "sendmsg4",
        program: "weir_sendmsg4",
        place: "cgroup root, sendmsg(2), IPv4",
        does: "sends datagrams of unconnected sockets of the node itself to a backend",
        reason: "they pass no pod's interface",
    },
    Hook {
        name: "sendmsg6",
        program: "weir_sendmsg6",
        place: "cgroup root, sendmsg(2), IPv6",
        does: "the same for IPv6 sockets",
        reason: "as above",
    },
];

/// The hooks at interfaces, which come and go with pods. What restores addresses comes before what changes them.
pub const INTERFACE_HOOKS: [Hook; 4] = [
    Hook {
        name: "to_pod",
        program: "weir_to_pod",
        place: "host side of each pod's veth, tcx egress, last",
        does: "restores the service's address in answers",
        reason: "the last place on the node where every packet to the pod is seen, whatever delivered it: routes, a bridge, or \
                 the node itself",
    },
    Hook {
        name: "from_pod",
        program: "weir_from_pod",
        place: "host side of each pod's veth, tcx ingress, first",
        does: "sends to a backend whatever was not translated at its socket: UDP, SCTP, pods that opt out, sandboxes with a \
               kernel of their own",
        reason: "before routing and conntrack see the packet, and where no process in the pod can be in the way",
    },
    Hook {
        name: "to_net",
        program: "weir_to_net",
        place: "external devices, tcx egress, last",
        does: "restores the service's address in answers to clients outside",
        reason: "behind the node's own masquerading, next to the wire",
    },
    Hook {
        name: "from_net",
        program: "weir_from_net",
        place: "external devices, tcx ingress, first",
        does: "sends what comes for node ports, load balancers' and external addresses to a backend, masqueraded where the \
               answer would miss this node",
        reason: "before the node's own stack takes the packet for its own",
    },
];

/// The hook map as a Markdown table.
#[must_use]
pub fn markdown_table() -> String {
    let mut table =
        String::from("| Hook | Where | What | Why there |\n| --- | --- | --- | --- |\n");
    for hook in HOOKS.iter().chain(&INTERFACE_HOOKS) {
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            hook.name, hook.place, hook.does, hook.reason
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../../README.md");
        let table = readme
            .split_once("a test compares them -->\n")
            .and_then(|(_, rest)| rest.split_once("<!-- end of hooks -->"))
            .map(|(table, _)| table);
        assert_eq!(table.map(str::trim), Some(markdown_table().trim()));
    }
}
