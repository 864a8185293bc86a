//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{ModelError, ObjectName};

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its UID.
    pub uid: Arc<str>,
    /// The node it runs on, once it is scheduled.
    pub node: Option<Arc<str>>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether all its containers have ended for good (phase `Succeeded` or `Failed`); its addresses may be another's.
    pub finished: bool,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its labels, sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
}

impl Pod {
    /// Reduces an API object.
    pub fn reduce(object: &api::Pod) -> Result<Self, ModelError> {
        todo!("{object:?}")
    }
}
