//! What people are told of pods and devices.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Device, LeftDevice, LocalPod};

/// The pods and devices of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whether all pods were found and all Pod objects listed, once; what an earlier agent left over is gone since.
    pub listed: bool,
    /// Pods' interfaces, by index.
    pub interfaces: Vec<InterfaceView>,
    /// Pods that have no interface here, or not yet: names or UIDs.
    pub waiting: Vec<String>,
    /// External devices, by name.
    pub devices: Vec<String>,
    /// External devices that are left alone.
    pub left: Vec<LeftDevice>,
    /// What does not work, and is tried again.
    pub failures: Vec<Failure>,
    /// The pods' network namespaces, by a process in each: `/proc/PID/ns/net`.
    #[serde(skip)]
    pub namespaces: Vec<PathBuf>,
}

/// A pod's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// `namespace/name`; the UID before the object is known.
    pub pod: String,
    /// Name of the host side.
    pub device: String,
    /// Index of the host side.
    pub ifindex: u32,
    /// The pod's addresses on it.
    pub addresses: Vec<IpAddr>,
    /// Whether the pod's sockets are left alone.
    pub opt_out: bool,
}

/// Something that does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The pod or device.
    pub subject: String,
    /// Why.
    pub reason: String,
}

impl From<&LocalPod> for InterfaceView {
    fn from(pod: &LocalPod) -> Self {
        Self {
            pod: pod.to_string(),
            device: pod.device.clone(),
            ifindex: pod.ifindex,
            addresses: pod.addresses.clone(),
            opt_out: pod.opt_out,
        }
    }
}

impl From<&Device> for String {
    fn from(device: &Device) -> Self {
        device.name.clone()
    }
}
