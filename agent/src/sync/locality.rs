//! Services whose usable endpoints are all on other nodes.

use std::collections::BTreeMap;

use weir_abi::{Verdict, service::scope};
use weir_core::{compile::DesiredService, model::ObjectName};

/// How many services there are of that kind, by the policy that drops their traffic here
/// (`kubeproxy_sync_proxy_rules_no_local_endpoints_total`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NoLocalCounts {
    /// `internalTrafficPolicy: Local`.
    pub(super) internal: usize,
    /// `externalTrafficPolicy: Local`.
    pub(super) external: usize,
}

/// Kept up to date service by service, so that counting costs nothing that grows with the cluster.
#[derive(Debug, Default)]
pub(super) struct NoLocalEndpoints {
    services: BTreeMap<ObjectName, Dropped>,
    counts: NoLocalCounts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    internal: bool,
    external: bool,
}

impl NoLocalEndpoints {
    /// Takes in what was compiled for a service.
    pub(super) fn note(&mut self, desired: &DesiredService) {
        let drops = |scope| {
            desired
                .ports
                .iter()
                .flat_map(|port| &port.frontends)
                .any(|f| f.verdict == Verdict::NoLocalEndpoints && f.key.scope == scope)
        };
        let now = Dropped {
            internal: drops(scope::INTERNAL),
            external: drops(scope::EXTERNAL),
        };
        let before = if now == Dropped::default() {
            self.services.remove(&desired.name)
        } else {
            self.services.insert(desired.name.clone(), now)
        };
        let before = before.unwrap_or_default();
        let count =
            |count: usize, before: bool, now: bool| count + usize::from(now) - usize::from(before);
        self.counts.internal = count(self.counts.internal, before.internal, now.internal);
        self.counts.external = count(self.counts.external, before.external, now.external);
    }

    /// The counts.
    pub(super) fn counts(&self) -> NoLocalCounts {
        self.counts
    }
}
