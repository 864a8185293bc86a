//! Which endpoints receive a service's traffic: kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go), and the
//! merging of slices that precedes it (pkg/proxy/endpointslicecache.go).
//!
//! kube-proxy selects for each address family by itself, and so does whoever calls this module.

use std::net::IpAddr;

use serde::Serialize;

use crate::model::{
    Endpoint, EndpointSlice, Family, Protocol, Service, ServicePort, TrafficPolicy,
};

/// An endpoint that serves a given port of a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// Its port.
    pub port: u16,
    /// Whether it is on this node.
    pub local: bool,
}

impl Candidate<'_> {
    fn address(&self) -> (IpAddr, u16) {
        (self.endpoint.addr, self.port)
    }

    fn ready(&self) -> bool {
        self.endpoint.ready
    }

    /// On its way out, but still able to serve: what traffic falls back to.
    fn serving_terminating(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }
}

/// The endpoints of one port, from all slices of the service that have the given family, sorted by address and port.
///
/// Of endpoints with the same address and port one remains: the last that is on this node, else the first.
#[must_use]
pub fn candidates<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    (port_name, protocol): (&str, Protocol),
    family: Family,
    node: &str,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in slices.filter(|slice| slice.family == Some(family)) {
        let ports = slice.ports.iter();
        for port in ports.filter(|port| *port.name == *port_name && port.protocol == protocol) {
            candidates.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                endpoint,
                port: port.port,
                local: !node.is_empty() && endpoint.node.as_deref() == Some(node),
            }));
        }
    }
    // Stable, so that "first" and "last" keep their meaning.
    candidates.sort_by_key(Candidate::address);
    candidates.dedup_by(|later, kept| {
        let same = later.address() == kept.address();
        if same && later.local {
            *kept = *later;
        }
        same
    });
    candidates
}

/// Which of the lists a service port ever uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    /// The list of traffic policy Cluster. External traffic needs it even under policy Local: what comes from within
    /// the cluster is not bound to this node.
    pub cluster: bool,
    /// The list of traffic policy Local.
    pub local: bool,
}

impl Uses {
    /// What a service's port uses for its frontends of one family.
    #[must_use]
    pub fn of(service: &Service, port: &ServicePort, family: Family) -> Self {
        let any_of_family = |ips: &[IpAddr]| ips.iter().any(|ip| Family::of(ip) == family);
        let from_outside = port.node_port.is_some()
            || any_of_family(&service.load_balancer_ips)
            || any_of_family(&service.external_ips);
        let internal_local = service.internal_policy == TrafficPolicy::Local;
        let external_local = service.external_policy == TrafficPolicy::Local;
        Self {
            cluster: !internal_local || from_outside,
            local: internal_local || (external_local && from_outside),
        }
    }
}

/// What the hints of the endpoints restrict the Cluster list to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Topology {
    /// Nothing: endpoints anywhere.
    Anywhere,
    /// Endpoints that are hinted for this node.
    SameNode,
    /// Endpoints that are hinted for this node's zone.
    SameZone,
}

/// The endpoints that receive traffic. A list that the port never uses is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection<'a> {
    /// What the Cluster list was restricted to.
    pub topology: Topology,
    /// For traffic policy Cluster.
    pub cluster: Vec<Candidate<'a>>,
    /// For traffic policy Local.
    pub local: Vec<Candidate<'a>>,
    /// Whether any endpoint of the cluster could take the traffic, though perhaps none that the policy allows.
    pub anywhere: bool,
}

/// Selects among the endpoints of one port and family. `zone` is this node's, if it has one.
///
/// - Cluster: the ready endpoints that the topology allows; if none is ready anywhere, all that are serving and
///   terminating, whatever the topology.
/// - Local: the ready endpoints of this node, else those of this node that are serving and terminating. Topology has
///   no part in it.
#[must_use]
pub fn categorize<'a>(
    candidates: &[Candidate<'a>],
    uses: Uses,
    node: &str,
    zone: Option<&str>,
) -> Selection<'a> {
    let filtered = |keep: &dyn Fn(&Candidate<'a>) -> bool| -> Vec<Candidate<'a>> {
        candidates.iter().copied().filter(keep).collect()
    };
    let mut selection = Selection {
        topology: Topology::Anywhere,
        cluster: Vec::new(),
        local: Vec::new(),
        anywhere: candidates
            .iter()
            .any(|c| c.ready() || c.serving_terminating()),
    };
    if uses.cluster {
        let topology = topology(candidates, node, zone);
        selection.topology = topology;
        selection.cluster = filtered(&|c| c.ready() && allowed(c, topology, node, zone));
        if selection.cluster.is_empty() {
            selection.cluster = filtered(&Candidate::serving_terminating);
        }
    }
    if uses.local {
        selection.local = filtered(&|c| c.local && c.ready());
        if selection.local.is_empty() {
            selection.local = filtered(&|c| c.local && c.serving_terminating());
        }
    }
    selection
}

/// Hints count only if every ready endpoint has one, and one of them is for us; those for nodes come first. The
/// service's `trafficDistribution` is never read: it is the controller that turns it into hints.
fn topology(candidates: &[Candidate<'_>], node: &str, zone: Option<&str>) -> Topology {
    let mut topologies = [Topology::SameNode, Topology::SameZone].into_iter();
    let counts = |topology: &Topology| {
        let mut for_us = false;
        for candidate in candidates.iter().filter(|c| c.ready()) {
            if hints(candidate, *topology).is_empty() {
                return false;
            }
            for_us |= allowed(candidate, *topology, node, zone);
        }
        for_us
    };
    topologies.find(counts).unwrap_or(Topology::Anywhere)
}

fn hints<'a>(candidate: &Candidate<'a>, topology: Topology) -> &'a [std::sync::Arc<str>] {
    match (candidate.endpoint.hints.as_deref(), topology) {
        (Some(hints), Topology::SameNode) => &hints.nodes,
        (Some(hints), Topology::SameZone) => &hints.zones,
        _ => &[],
    }
}

fn allowed(c: &Candidate<'_>, topology: Topology, node: &str, zone: Option<&str>) -> bool {
    let for_us = |us: &str| hints(c, topology).iter().any(|hint| **hint == *us);
    match topology {
        Topology::Anywhere => true,
        Topology::SameNode => for_us(node),
        Topology::SameZone => zone.is_some_and(for_us),
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
