//! What `healthCheckNodePort` answers: how many endpoints of a service this node has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Family, ObjectName};
use crate::select;
use crate::state::Cluster;

/// A port on which load balancers ask whether this node has endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// How many ready endpoints are on this node.
    pub local_endpoints: usize,
}

/// The health check of a service, if it has one: services of type LoadBalancer with `externalTrafficPolicy: Local`.
///
/// As in kube-proxy (`EndpointsMap.LocalReadyEndpoints`) only ready endpoints count, so that a load balancer leaves a
/// node whose endpoints are all terminating, and an endpoint counts once, however many ports it serves. The families of
/// an endpoint count once too: the larger number is told.
#[must_use]
pub fn health_check(cluster: &Cluster, name: &ObjectName) -> Option<HealthCheck> {
    let service = cluster.service(name)?;
    let port = service.health_check_node_port?;
    let of_family = |family| {
        let mut ready = BTreeSet::<IpAddr>::new();
        for port in &service.ports {
            let candidates = select::candidates(
                cluster.slices_of(name),
                (&port.name, port.protocol),
                family,
                cluster.node_name(),
            );
            let local = candidates.iter().filter(|c| c.local && c.endpoint.ready);
            ready.extend(local.map(|candidate| candidate.endpoint.addr));
        }
        ready.len()
    };
    Some(HealthCheck {
        port,
        local_endpoints: of_family(Family::V4).max(of_family(Family::V6)),
    })
}

/// The health checks of all services, kept up to date service by service.
#[derive(Debug, Default)]
pub struct HealthChecks {
    services: BTreeMap<ObjectName, HealthCheck>,
}

impl HealthChecks {
    /// Looks at a service that may have changed; whether its health check has.
    pub fn update(&mut self, cluster: &Cluster, name: &ObjectName) -> bool {
        match health_check(cluster, name) {
            Some(check) => self.services.insert(name.clone(), check) != Some(check),
            None => self.services.remove(name).is_some(),
        }
    }

    /// All of them, by service.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectName, HealthCheck)> {
        self.services.iter().map(|(name, check)| (name, *check))
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
