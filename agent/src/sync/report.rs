//! What the engine tells the metrics and the health port.

use std::{sync::Arc, time::Duration};

use weir_core::{
    model::{Kind, Node},
    state::Change,
};

use super::locality::NoLocalCounts;
use crate::{
    health::{Health, Moment},
    metrics::{Metrics, Syncing, TrafficPolicy},
    source::{Event, Subject},
};

/// The engine's side of metrics and health.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The health state.
    pub health: Arc<Health>,
}

impl Report {
    pub(super) fn event(&self, event: &Event) {
        let metrics = &self.metrics;
        match event {
            Event::Change(Change::Replace { kind, objects, .. }) => {
                metrics.watch_events(*kind, objects.len() as u64);
            }
            Event::Change(change) => metrics.watch_events(change.kind(), 1),
            Event::Skipped {
                kind: Subject::Object(kind),
                ..
            } => metrics.object_skipped(*kind),
            Event::WatchFailed {
                kind: Subject::Object(kind),
                ..
            } => metrics.watch_failed(*kind),
            _ => {}
        }
    }

    pub(super) fn skipped_now(&self, kind: Kind, objects: usize) {
        self.metrics.objects_skipped_now(kind, objects);
    }

    pub(super) fn unprogrammed_now(&self, services: usize) {
        self.metrics.services_unprogrammed_now(services);
    }

    pub(super) fn queued(&self, kind: Kind) {
        self.metrics.sync_queued(kind, 1);
    }

    /// What waits is late from here on, not from when its source was still listing.
    pub(super) fn started(&self) -> Syncing {
        self.health.queued(Moment::now());
        self.metrics.sync_started()
    }

    pub(super) fn done(
        &self,
        syncing: &Syncing,
        full: bool,
        no_local: NoLocalCounts,
        triggers: &[jiff::Timestamp],
    ) -> Duration {
        let took = self.metrics.sync_done(syncing, full);
        self.health.updated(Moment::now());
        for (policy, services) in [
            (TrafficPolicy::Internal, no_local.internal),
            (TrafficPolicy::External, no_local.external),
        ] {
            self.metrics.no_local_endpoints(policy, services);
        }
        let now = jiff::Timestamp::now();
        for trigger in triggers {
            let latency = Duration::try_from(now.duration_since(*trigger)).unwrap_or_default();
            self.metrics.programming_latency(latency);
        }
        took
    }

    pub(super) fn failed(&self, syncing: &Syncing, full: bool) -> Duration {
        self.metrics.sync_failed(syncing, full)
    }

    /// A node that is being removed, or is gone, must not be sent new traffic. One that never was there (manifests need
    /// not have it) is as good as any.
    pub(super) fn this_node(&self, node: Option<&Node>, was_there: bool) {
        let eligible = match node {
            Some(node) => !node.deleting && !node.to_be_deleted,
            None => !was_there,
        };
        self.health.node_eligible(eligible);
    }
}
