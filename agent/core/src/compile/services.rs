//! Desired entries of the service tables.

use std::sync::Arc;

use weir_abi::{ServiceKey, Verdict};

use super::SourceRange;
use super::frontends::{Entrance, entrances};
use super::source_ranges::Guard;
use crate::backend::BackendAddr;
use crate::model::{
    Affinity, BackendSelection, Family, ObjectName, Service, ServicePort, TrafficPolicy,
};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPort {
    /// The port's name; may be empty.
    pub port_name: Arc<str>,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
    /// How a backend is chosen from a list.
    pub selection: BackendSelection,
    /// For how many seconds after its last connection a client stays with its backend; 0 without session affinity.
    pub affinity_timeout: u32,
    /// Who may come to the frontends that are guarded, sorted, each once.
    pub source_ranges: Vec<SourceRange>,
    /// The backend lists that the frontends use: none of them empty, each of distinct backends in a fixed order.
    pub lists: Vec<Vec<BackendAddr>>,
    /// The frontends.
    pub frontends: Vec<Frontend>,
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
    /// The policy that the list is for. Frontends of one family and policy have the same list.
    pub policy: TrafficPolicy,
    /// Whether ports of its address that no service has are let pass, as they are on the node's own addresses;
    /// otherwise they are refused.
    pub open: bool,
    /// Whether only [`DesiredPort::source_ranges`] may come in.
    pub guarded: bool,
}

/// Compiles one service. It has no ports if it does not exist or is left alone.
#[must_use]
pub fn service(cluster: &Cluster, name: &ObjectName) -> DesiredService {
    let ports = match cluster.service(name) {
        Some(service) if service.left_alone.is_none() => {
            let guard = Guard::of(cluster, service);
            let ports = service.ports.iter();
            ports
                .map(|port| compile_port(cluster, service, port, &guard))
                .collect()
        }
        _ => Vec::new(),
    };
    DesiredService {
        name: name.clone(),
        ports,
    }
}

fn compile_port(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
    guard: &Guard,
) -> DesiredPort {
    let mut desired = DesiredPort {
        port_name: port.name.clone(),
        proto: port.protocol.number(),
        selection: service.selection,
        affinity_timeout: match service.affinity {
            Affinity::None => 0,
            Affinity::ClientIp { timeout_seconds } => timeout_seconds,
        },
        source_ranges: guard.ranges(),
        ..DesiredPort::default()
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
        let mut known: Vec<(TrafficPolicy, (Verdict, Option<usize>))> = Vec::with_capacity(2);
        for entrance in entrances(cluster, service, port, (cluster_ip, guard)) {
            let found = known.iter().find(|(policy, _)| *policy == entrance.policy);
            let leads_to = if let Some((_, leads_to)) = found {
                *leads_to
            } else {
                let leads_to = desired.leads_to(&selection, entrance.policy);
                known.push((entrance.policy, leads_to));
                leads_to
            };
            desired.add(&entrance, leads_to);
        }
    }
    desired
}

impl DesiredPort {
    /// What becomes of traffic under a policy.
    fn leads_to(
        &mut self,
        selection: &Selection<'_>,
        policy: TrafficPolicy,
    ) -> (Verdict, Option<usize>) {
        let chosen = match policy {
            TrafficPolicy::Cluster => &selection.cluster,
            TrafficPolicy::Local => &selection.local,
        };
        if !chosen.is_empty() {
            (Verdict::Translate, Some(self.list(chosen)))
        } else if selection.anywhere {
            // Only Local leaves endpoints out.
            (Verdict::NoLocalEndpoints, None)
        } else {
            (Verdict::NoEndpoints, None)
        }
    }

    fn add(&mut self, entrance: &Entrance, (verdict, list): (Verdict, Option<usize>)) {
        let key = ServiceKey {
            addr: entrance.addr.into(),
            port_be: entrance.port.to_be(),
            proto: self.proto,
            scope: entrance.scope,
        };
        self.frontends.push(Frontend {
            key,
            verdict,
            list,
            policy: entrance.policy,
            open: entrance.open,
            guarded: entrance.guarded,
        });
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
