//! What the tests share: agents in worlds, manifests, the real control plane.

pub mod agent;
pub mod control_plane;
pub mod kube_proxy;
pub mod manifests;
