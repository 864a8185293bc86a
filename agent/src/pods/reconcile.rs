//! What the sink was told, and what it is to be told next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use anyhow::Result;
use tracing::{info, warn};

use super::{Device, Failure, LocalPod, Presence, Sink};

/// The sink and what it knows.
pub(super) struct Reconciler {
    sink: Box<dyn Sink>,
    pods: BTreeMap<u32, LocalPod>,
    devices: BTreeMap<u32, Device>,
    /// Interfaces that could not be served, and why.
    failures: BTreeMap<u32, Failure>,
}

impl Reconciler {
    pub(super) fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            sink,
            pods: BTreeMap::new(),
            devices: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Tells the sink which pods there are. What it refused before is told again.
    pub(super) fn pods(&mut self, wanted: Vec<LocalPod>) {
        let wanted: BTreeMap<u32, LocalPod> =
            wanted.into_iter().map(|pod| (pod.ifindex, pod)).collect();
        // An index that came again with another pod must lose the old one first.
        for (ifindex, pod) in &wanted {
            if self
                .pods
                .get(ifindex)
                .is_some_and(|known| known.uid != pod.uid)
            {
                self.remove_pod(*ifindex);
            }
        }
        for (ifindex, pod) in &wanted {
            let known = self.pods.get(ifindex);
            if known == Some(pod) && !self.failures.contains_key(ifindex) {
                continue;
            }
            let new = known.is_none();
            let told = self.sink.pod(pod);
            if new && matches!(told, Ok(Presence::Served)) {
                info!(%pod, device = pod.device, addresses = ?pod.addresses, "serving a pod");
            }
            if self.judge(*ifindex, pod, told) {
                self.pods.insert(*ifindex, pod.clone());
            } else {
                self.pods.remove(ifindex);
            }
        }
        let gone = self
            .pods
            .keys()
            .filter(|ifindex| !wanted.contains_key(ifindex));
        for ifindex in gone.copied().collect::<Vec<_>>() {
            self.remove_pod(ifindex);
        }
        let there =
            |ifindex: &u32| wanted.contains_key(ifindex) || self.devices.contains_key(ifindex);
        self.failures.retain(|ifindex, _| there(ifindex));
    }

    fn remove_pod(&mut self, ifindex: u32) {
        let Some(pod) = self.pods.remove(&ifindex) else {
            return;
        };
        self.failures.remove(&ifindex);
        info!(%pod, device = pod.device, "a pod has gone");
        if let Err(error) = self.sink.pod_gone(&pod) {
            warn!(%pod, error = format!("{error:#}"), "not all of a pod could be removed");
        }
    }

    /// Tells the sink which external devices there are.
    pub(super) fn devices(&mut self, wanted: &[Device]) {
        for device in wanted {
            let known = self.devices.get(&device.ifindex);
            if known == Some(device) && !self.failures.contains_key(&device.ifindex) {
                continue;
            }
            let told = self.sink.device(device);
            if self.judge(device.ifindex, device, told) {
                self.devices.insert(device.ifindex, device.clone());
            } else {
                self.devices.remove(&device.ifindex);
            }
        }
        let keep: BTreeSet<u32> = wanted.iter().map(|device| device.ifindex).collect();
        let gone = self
            .devices
            .keys()
            .filter(|ifindex| !keep.contains(ifindex));
        for ifindex in gone.copied().collect::<Vec<_>>() {
            self.failures.remove(&ifindex);
            if let Some(device) = self.devices.remove(&ifindex)
                && let Err(error) = self.sink.device_gone(&device)
            {
                warn!(%device, error = format!("{error:#}"), "not all of a device could be removed");
            }
        }
    }

    /// Whether the sink now has something of it; notes why it does not work, and says so once.
    fn judge(&mut self, ifindex: u32, subject: &impl Display, told: Result<Presence>) -> bool {
        match told {
            Ok(presence) => {
                self.failures.remove(&ifindex);
                presence == Presence::Served
            }
            Err(error) => {
                let failure = Failure {
                    subject: subject.to_string(),
                    reason: format!("{error:#}"),
                };
                if self.failures.get(&ifindex) != Some(&failure) {
                    warn!(
                        subject = failure.subject,
                        error = failure.reason,
                        "cannot serve it; trying again"
                    );
                }
                self.failures.insert(ifindex, failure);
                true
            }
        }
    }

    /// All was told; `false` when the sink could not remove what is left over, and wants to be told again.
    pub(super) fn listed(&mut self) -> bool {
        let removed = self.sink.listed();
        if let Err(error) = &removed {
            warn!(
                error = format!("{error:#}"),
                "not all that an earlier agent left could be removed"
            );
        }
        removed.is_ok()
    }

    /// Ends a round.
    pub(super) fn done(&mut self) {
        if let Err(error) = self.sink.done() {
            warn!(error = format!("{error:#}"), "a round could not be ended");
        }
    }

    /// Pods' interfaces that are served.
    pub(super) fn served(&self) -> impl Iterator<Item = &LocalPod> {
        let served = self.pods.values();
        served.filter(|pod| !self.failures.contains_key(&pod.ifindex))
    }

    /// External devices that are served.
    pub(super) fn served_devices(&self) -> impl Iterator<Item = &Device> {
        let served = self.devices.values();
        served.filter(|device| !self.failures.contains_key(&device.ifindex))
    }

    /// What could not be served.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failures.values()
    }
}
