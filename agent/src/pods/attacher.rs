//! Attaches the programs to what appears, and programs its addresses; in the reverse order when it goes.

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

use anyhow::{Context, Result};
use tracing::{debug, info};

use super::{Device, Endpoints, LocalPod, Presence, Sink};
use crate::{
    attach::{How, INTERFACE_HOOKS, InterfaceHook, is_gone},
    bpf::Direction,
    bpffs::Layout,
    dataplane::Object,
};

/// The loaded programs, in the order of [`INTERFACE_HOOKS`].
pub struct Programs {
    /// `weir_to_pod`
    pub to_pod: OwnedFd,
    /// `weir_from_pod`
    pub from_pod: OwnedFd,
    /// `weir_to_net`
    pub to_net: OwnedFd,
    /// `weir_from_net`
    pub from_net: OwnedFd,
}

impl Programs {
    /// Loads them from the datapath object.
    ///
    /// # Errors
    /// The verifier's refusal, with its log.
    pub fn load(object: &mut Object) -> Result<Self> {
        let [to_pod, from_pod, to_net, from_net] =
            INTERFACE_HOOKS.map(|hook| object.load_classifier(hook.program));
        Ok(Self {
            to_pod: to_pod?,
            from_pod: from_pod?,
            to_net: to_net?,
            from_net: from_net?,
        })
    }
}

/// The sink that makes pods and devices served.
pub struct Attacher {
    layout: Layout,
    pod_hooks: [InterfaceHook; 2],
    device_hooks: [InterfaceHook; 2],
    endpoints: Endpoints,
    pods: BTreeSet<u32>,
    devices: BTreeSet<u32>,
}

impl Attacher {
    /// Attaches these programs, and pins their links by `layout`.
    #[must_use]
    pub fn new(layout: Layout, programs: Programs, endpoints: Endpoints) -> Self {
        let [to_pod, from_pod, to_net, from_net] = INTERFACE_HOOKS;
        let hook = |hook, direction, program| InterfaceHook {
            hook,
            direction,
            program,
        };
        Self {
            layout,
            pod_hooks: [
                hook(to_pod, Direction::Egress, programs.to_pod),
                hook(from_pod, Direction::Ingress, programs.from_pod),
            ],
            device_hooks: [
                hook(to_net, Direction::Egress, programs.to_net),
                hook(from_net, Direction::Ingress, programs.from_net),
            ],
            endpoints,
            pods: BTreeSet::new(),
            devices: BTreeSet::new(),
        }
    }
}

/// Attaches all of the hooks; leaves none of them behind on an interface that goes meanwhile.
fn attach(
    layout: &Layout,
    hooks: &[InterfaceHook],
    ifindex: u32,
    device: &str,
) -> Result<Presence> {
    for hook in hooks {
        match hook.attach(layout, ifindex) {
            Ok(How::Replaced) => debug!(hook = hook.hook.name, device, "took over"),
            Ok(how) => debug!(hook = hook.hook.name, device, ?how, "attached"),
            Err(error) if is_gone(&error) => {
                detach(layout, hooks, ifindex)?;
                return Ok(Presence::Gone);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot attach {} to {device}", hook.hook.name));
            }
        }
    }
    Ok(Presence::Served)
}

/// What changes addresses goes before what restores them.
fn detach(layout: &Layout, hooks: &[InterfaceHook], ifindex: u32) -> io::Result<()> {
    let detached = hooks.iter().rev().map(|hook| hook.detach(layout, ifindex));
    detached.fold(Ok(()), io::Result::and)
}

fn detach_others(layout: &Layout, hooks: &[InterfaceHook], keep: &BTreeSet<u32>) -> Result<()> {
    for hook in hooks.iter().rev() {
        let removed = hook.detach_others(layout, keep).with_context(|| {
            format!(
                "cannot remove what an earlier agent left of {}",
                hook.hook.name
            )
        })?;
        if !removed.is_empty() {
            info!(
                hook = hook.hook.name,
                interfaces = removed.len(),
                "removed links of interfaces that are gone"
            );
        }
    }
    Ok(())
}

impl Sink for Attacher {
    fn pod(&mut self, pod: &LocalPod) -> Result<Presence> {
        // An address is in the table only while the programs are at its interface.
        if self.pods.insert(pod.ifindex) {
            match attach(&self.layout, &self.pod_hooks, pod.ifindex, &pod.device) {
                Ok(Presence::Served) => {}
                other => {
                    self.pods.remove(&pod.ifindex);
                    return other;
                }
            }
        }
        self.endpoints.set(pod)?;
        Ok(Presence::Served)
    }

    fn pod_gone(&mut self, pod: &LocalPod) -> Result<()> {
        let endpoints = self.endpoints.remove(pod);
        self.pods.remove(&pod.ifindex);
        detach(&self.layout, &self.pod_hooks, pod.ifindex)?;
        endpoints
    }

    fn device(&mut self, device: &Device) -> Result<Presence> {
        let presence = attach(
            &self.layout,
            &self.device_hooks,
            device.ifindex,
            &device.name,
        )?;
        if presence == Presence::Served && self.devices.insert(device.ifindex) {
            info!(%device, "serving an external device");
        }
        Ok(presence)
    }

    fn device_gone(&mut self, device: &Device) -> Result<()> {
        self.devices.remove(&device.ifindex);
        info!(%device, "an external device has gone");
        Ok(detach(&self.layout, &self.device_hooks, device.ifindex)?)
    }

    fn listed(&mut self) -> Result<()> {
        let endpoints = self.endpoints.listed();
        detach_others(&self.layout, &self.pod_hooks, &self.pods)?;
        detach_others(&self.layout, &self.device_hooks, &self.devices)?;
        endpoints
    }

    fn done(&mut self) -> Result<()> {
        self.endpoints.flush()
    }
}
