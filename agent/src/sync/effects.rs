//! What follows from a sync beside the kernel tables.

use std::{collections::BTreeSet, net::SocketAddr};

use tracing::warn;
use weir_abi::Address;
use weir_core::{
    compile::{self, BackendAddr},
    model::{Family, Kind, Node, ObjectName, Protocol},
    plan::PlanError,
    state::Cluster,
};

use crate::{
    dataplane::Config,
    healthcheck::{HealthCheck, HealthChecks},
    pods,
    sockets::{Endpoint, Reaper},
    source::{
        Event, Subject,
        kube::{Announcement, Announcer, Reason},
    },
};

/// Who is told. An engine without them only programs tables.
#[derive(Default)]
pub struct Effects {
    /// Follows this node's pods.
    pub pods: Option<pods::Handle>,
    /// Ends connections to deleted endpoints.
    pub reaper: Option<Reaper>,
    /// Answers for services with a `healthCheckNodePort`.
    pub health_checks: Option<HealthChecks>,
    /// What the packet programs know of the node.
    pub config: Option<Config>,
    /// Makes Kubernetes Events.
    pub announcer: Option<Announcer>,
}

impl Effects {
    pub(super) fn event(&self, event: &Event) {
        if let Some(pods) = &self.pods {
            pods.observe(event);
        }
    }

    /// An object cannot be read.
    pub(super) fn skipped(&self, subject: Subject, name: &str, error: &str) {
        let (Some(announcer), Subject::Object(kind)) = (&self.announcer, subject) else {
            return;
        };
        let name = match name.split_once('/') {
            Some((namespace, name)) => ObjectName::new(namespace, name),
            None => ObjectName::cluster_scoped(name),
        };
        announcer.announce(Announcement {
            kind,
            name,
            reason: Reason::Malformed,
            note: error.to_owned(),
        });
    }

    /// A service is not programmed as it should be.
    pub(super) fn unfit(&self, error: &PlanError) {
        let Some(announcer) = &self.announcer else {
            return;
        };
        announcer.announce(Announcement {
            kind: Kind::Service,
            name: error.service().clone(),
            reason: match error {
                PlanError::Full { .. } => Reason::DoesNotFit,
                PlanError::Conflict { .. } => Reason::Conflict,
            },
            note: error.to_string(),
        });
    }

    /// What leaves this node under its own address, leaves under its primary one.
    pub(super) fn this_node(&self, node: Option<&Node>) {
        let (Some(config), Some(node)) = (&self.config, node) else {
            return;
        };
        let primary = |family| node.primary_address(family).map(Address::from);
        let result = config.update(|config| {
            for (masquerade, family) in [
                (&mut config.masquerade_v4, Family::V4),
                (&mut config.masquerade_v6, Family::V6),
            ] {
                if let Some(address) = primary(family) {
                    *masquerade = address;
                }
            }
        });
        if let Err(error) = result {
            warn!(%error, "cannot tell the packet programs this node's address");
        }
    }

    /// Ends connections to those of `gone` that no slice knows any more.
    pub(super) fn dropped(&self, cluster: &Cluster, gone: &BTreeSet<BackendAddr>) {
        let Some(reaper) = &self.reaper else {
            return;
        };
        let deleted = gone.iter().filter(|endpoint| !cluster.lives(endpoint));
        let deleted = deleted.filter_map(|endpoint| {
            let protocol = [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .find(|protocol| *protocol as u8 == endpoint.proto)?;
            let port = u16::from_be(endpoint.port_be);
            Some(Endpoint::new(
                SocketAddr::new(endpoint.addr.into(), port),
                protocol,
            ))
        });
        reaper.end(deleted.collect());
    }

    pub(super) fn health_checks(&self, desired: &compile::HealthChecks) {
        let Some(servers) = &self.health_checks else {
            return;
        };
        let desired = desired.iter().map(|(service, check)| {
            let check = HealthCheck {
                port: check.port,
                local_endpoints: check.local_endpoints,
            };
            (service.clone(), check)
        });
        servers.set(desired.collect());
    }
}
