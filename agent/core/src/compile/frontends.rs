//! Under which addresses a port of a service is reached, and whose rules apply there: kube-proxy's
//! (`pkg/proxy/nftables/proxier.go`, `syncProxyRules`), seen from the two scopes.
//!
//! |                  | from within    | from outside   | unknown ports of the address |
//! |------------------|----------------|----------------|------------------------------|
//! | cluster IP       | internal policy| internal policy| refused                      |
//! | load balancer IP | Cluster        | external policy| let pass                     |
//! | external IP      | Cluster        | external policy| let pass                     |
//! | node port        | Cluster        | external policy| let pass                     |
//! | ... on loopback  | Cluster        | not served     | let pass                     |
//!
//! From within, the external policy has no say: the traffic is dealt out as though it had gone to a load balancer and
//! come back. A family of which the service has no cluster IP is not served at all.

use std::net::IpAddr;

use weir_abi::service::scope;

use super::source_ranges::Guard;
use crate::model::{Family, Service, ServicePort, TrafficPolicy};
use crate::state::Cluster;

/// An address and port at which a service is to be reached from one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entrance {
    pub(super) addr: IpAddr,
    pub(super) port: u16,
    pub(super) scope: u8,
    /// Which endpoints serve it.
    pub(super) policy: TrafficPolicy,
    /// Whether ports of the address that no service has are none of our business.
    pub(super) open: bool,
    /// Whether only the service's source ranges may come in.
    pub(super) guarded: bool,
}

const BOTH: [u8; 2] = [scope::INTERNAL, scope::EXTERNAL];

/// The entrances to a port in a family. An address that has several roles has the first of the table above.
pub(super) fn entrances(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    (cluster_ip, guard): (IpAddr, &Guard),
) -> Vec<Entrance> {
    let family = Family::of(&cluster_ip);
    let mut entrances = Vec::new();
    for scope in BOTH {
        entrances.push(Entrance {
            addr: cluster_ip,
            port: port.port,
            scope,
            policy: service.internal_policy,
            open: false,
            guarded: false,
        });
    }
    let mut from_outside = |addr: IpAddr, port: u16, guarded: bool| {
        let scopes = if addr.is_loopback() {
            &BOTH[..1]
        } else {
            &BOTH[..]
        };
        for &scope in scopes {
            let taken = |e: &Entrance| (e.addr, e.port, e.scope) == (addr, port, scope);
            if entrances.iter().any(taken) {
                continue;
            }
            entrances.push(Entrance {
                addr,
                port,
                scope,
                policy: match scope {
                    scope::INTERNAL => TrafficPolicy::Cluster,
                    _ => service.external_policy,
                },
                open: true,
                guarded,
            });
        }
    };
    let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> {
        let ips = ips.iter().copied();
        ips.filter(|ip| Family::of(ip) == family).collect()
    };
    for addr in of_family(&service.load_balancer_ips) {
        from_outside(addr, port.port, guard.guards(family));
    }
    if cluster.settings().external_ips {
        for addr in of_family(&service.external_ips) {
            from_outside(addr, port.port, false);
        }
    }
    if let Some(node_port) = port.node_port {
        let settings = cluster.settings();
        for addr in settings.node_port_addresses(cluster.this_node(), family) {
            from_outside(addr, node_port, false);
        }
    }
    entrances
}

#[cfg(test)]
#[path = "frontends_tests.rs"]
mod tests;
