//! Desired entries of the service tables.

use std::sync::Arc;

use weir_abi::service::scope;
use weir_abi::{Address, ServiceKey, Verdict};

use crate::model::{Family, ObjectName, Service, ServicePort, TrafficPolicy};
use crate::select::{self, Candidate, Selection, Uses};
use crate::state::Cluster;

/// The table entries that one service should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// The service.
    pub name: ObjectName,
    /// Its ports; none if it should have no entries.
    pub ports: Vec<DesiredPort>,
}

/// The table entries that one port of a service should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// The port's name; may be empty.
    pub port_name: Arc<str>,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
    /// The backend lists that the frontends use: none of them empty, each of distinct backends in a fixed order.
    pub lists: Vec<Vec<BackendAddr>>,
    /// The frontends.
    pub frontends: Vec<Frontend>,
}

/// A backend as the tables identify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddr {
    /// The endpoint's address.
    pub addr: Address,
    /// The endpoint's port, network order.
    pub port_be: u16,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
}

/// One address and port under which a service is reached, seen from one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Its key in `SERVICES`.
    pub key: ServiceKey,
    /// What becomes of its traffic.
    pub verdict: Verdict,
    /// Index into [`DesiredPort::lists`], when the verdict is [`Verdict::Translate`].
    pub list: Option<usize>,
}

/// Compiles one service. It has no ports if it does not exist or is left alone.
#[must_use]
pub fn service(cluster: &Cluster, name: &ObjectName) -> DesiredService {
    let ports = match cluster.service(name) {
        Some(service) if service.left_alone.is_none() => (service.ports.iter())
            .map(|port| compile_port(cluster, service, port))
            .collect(),
        _ => Vec::new(),
    };
    DesiredService {
        name: name.clone(),
        ports,
    }
}

fn compile_port(cluster: &Cluster, service: &Service, port: &ServicePort) -> DesiredPort {
    let mut desired = DesiredPort {
        port_name: port.name.clone(),
        proto: port.protocol.number(),
        lists: Vec::new(),
        frontends: Vec::new(),
    };
    for &cluster_ip in &service.cluster_ips {
        let family = Family::of(&cluster_ip);
        let candidates = select::candidates(
            cluster.slices_of(&service.name),
            (&port.name, port.protocol),
            family,
            cluster.node_name(),
        );
        let selection = select::categorize(
            &candidates,
            Uses::of(service, port, family),
            cluster.node_name(),
            cluster.this_zone().map(|zone| &**zone),
        );
        let key = ServiceKey {
            addr: cluster_ip.into(),
            port_be: port.port.to_be(),
            proto: desired.proto,
            scope: scope::INTERNAL,
        };
        desired.add(key, &selection, service.internal_policy);
    }
    desired
}

impl DesiredPort {
    /// Adds a frontend whose traffic goes where the policy says.
    fn add(&mut self, key: ServiceKey, selection: &Selection<'_>, policy: TrafficPolicy) {
        let chosen = match policy {
            TrafficPolicy::Cluster => &selection.cluster,
            TrafficPolicy::Local => &selection.local,
        };
        let (verdict, list) = if !chosen.is_empty() {
            (Verdict::Translate, Some(self.list(chosen)))
        } else if selection.anywhere {
            // Only Local leaves endpoints out.
            (Verdict::NoLocalEndpoints, None)
        } else {
            (Verdict::NoEndpoints, None)
        };
        self.frontends.push(Frontend { key, verdict, list });
    }

    /// The index of the list of these endpoints.
    fn list(&mut self, endpoints: &[Candidate<'_>]) -> usize {
        let proto = self.proto;
        let list: Vec<BackendAddr> = endpoints
            .iter()
            .map(|candidate| BackendAddr {
                addr: candidate.endpoint.addr.into(),
                port_be: candidate.port.to_be(),
                proto,
            })
            .collect();
        let known = self.lists.iter().position(|known| *known == list);
        known.unwrap_or_else(|| {
            self.lists.push(list);
            self.lists.len() - 1
        })
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
