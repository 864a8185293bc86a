//! Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{Cidr, ModelError};

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Its IP addresses, in the order of its status.
    pub addresses: Vec<NodeAddress>,
    /// The prefixes its pods get their addresses from.
    pub pod_cidrs: Vec<Cidr>,
    /// Whether it has a deletion timestamp.
    pub deleting: bool,
    /// Whether the cluster autoscaler is about to remove it (taint `ToBeDeletedByClusterAutoscaler`).
    pub to_be_deleted: bool,
}

/// One of a node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// What kind of address it is.
    pub kind: AddressKind,
    /// The address.
    pub addr: IpAddr,
}

/// The kinds of node addresses that are IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// `InternalIP`.
    Internal,
    /// `ExternalIP`.
    External,
}

impl Node {
    /// Reduces an API object.
    pub fn reduce(object: &api::Node) -> Result<Self, ModelError> {
        todo!("{object:?}")
    }
}
