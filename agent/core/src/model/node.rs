//! Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::error::ModelError;
use super::parse::{self, Cidr};
use super::slice::Family;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

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
    /// Reduces an API object. As in kube-proxy, addresses that are not IP addresses are passed over.
    ///
    /// # Errors
    /// It has no name, or a pod CIDR is none.
    pub fn reduce(object: &api::Node) -> Result<Self, ModelError> {
        let metadata = &object.metadata;
        let spec = object.spec.as_ref();
        let pod_cidrs = spec.and_then(|spec| spec.pod_cidrs.as_ref());
        let taints = spec.and_then(|spec| spec.taints.as_ref());
        let status = object.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_ref());
        Ok(Self {
            name: parse::plain_name(metadata)?,
            zone: parse::label(metadata, ZONE_LABEL)
                .filter(|zone| !zone.is_empty())
                .map(Arc::from),
            addresses: addresses
                .into_iter()
                .flatten()
                .filter_map(node_address)
                .collect(),
            pod_cidrs: pod_cidrs
                .into_iter()
                .flatten()
                .enumerate()
                .map(|(i, text)| parse::cidr(text, || format!("spec.podCIDRs[{i}]")))
                .collect::<Result<_, _>>()?,
            deleting: metadata.deletion_timestamp.is_some(),
            to_be_deleted: taints
                .into_iter()
                .flatten()
                .any(|taint| taint.key == AUTOSCALER_TAINT),
        })
    }

    /// The node's own address of a family: the first `InternalIP`, else the first `ExternalIP`, as kube-proxy chooses it
    /// (`pkg/util/node.GetNodeHostIPs`).
    #[must_use]
    pub fn primary_address(&self, family: Family) -> Option<IpAddr> {
        let first = |kind| {
            let mut addresses = self.addresses.iter();
            addresses.find(|address| address.kind == kind && Family::of(&address.addr) == family)
        };
        let address = first(AddressKind::Internal).or_else(|| first(AddressKind::External))?;
        Some(address.addr)
    }
}

fn node_address(address: &api::NodeAddress) -> Option<NodeAddress> {
    let kind = match address.type_.as_str() {
        "InternalIP" => AddressKind::Internal,
        "ExternalIP" => AddressKind::External,
        _ => return None,
    };
    let addr = parse::host_address(&address.address, String::new).ok()?;
    Some(NodeAddress { kind, addr })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Problem;

    fn reduce(json: &str) -> Result<Node, ModelError> {
        Node::reduce(&serde_json::from_str(json).expect("a Node"))
    }

    #[test]
    fn a_whole_node() {
        let node = reduce(
            r#"{"metadata": {"name": "n1", "deletionTimestamp": "2026-01-01T00:00:00Z",
                             "labels": {"topology.kubernetes.io/zone": "west"}},
                "spec": {"podCIDRs": ["10.244.1.7/24", "fd00:1::/64"],
                         "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
                "status": {"addresses": [
                    {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "ExternalIP", "address": "2001:db8::1"}, {"type": "InternalIP", "address": "soon"}]}}"#,
        )
        .expect("valid");
        assert_eq!(node.zone.as_deref(), Some("west"));
        assert!(node.deleting && node.to_be_deleted);
        let cidrs: Vec<_> = node.pod_cidrs.iter().map(Cidr::to_string).collect();
        assert_eq!(cidrs, ["10.244.1.0/24", "fd00:1::/64"]);
        let addresses: Vec<_> = node
            .addresses
            .iter()
            .map(|a| (a.kind, a.addr.to_string()))
            .collect();
        assert_eq!(
            addresses,
            [
                (AddressKind::Internal, "192.0.2.1".to_owned()),
                (AddressKind::External, "2001:db8::1".to_owned())
            ]
        );
    }

    #[test]
    fn a_family_has_one_primary_address() {
        let node = reduce(
            r#"{"metadata": {"name": "n1"}, "status": {"addresses": [
                    {"type": "ExternalIP", "address": "203.0.113.1"}, {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "ExternalIP", "address": "2001:db8::1"}]}}"#,
        )
        .expect("valid");
        let primary = |family| node.primary_address(family).map(|addr| addr.to_string());
        assert_eq!(primary(Family::V4).as_deref(), Some("192.0.2.1"));
        assert_eq!(primary(Family::V6).as_deref(), Some("2001:db8::1"));
        let bare = reduce(r#"{"metadata": {"name": "n1"}}"#).expect("valid");
        assert_eq!(bare.primary_address(Family::V4), None);
    }

    #[test]
    fn a_bare_node() {
        let node = reduce(
            r#"{"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": ""}}}"#,
        )
        .expect("valid");
        assert_eq!(node.zone, None);
        assert!(!node.deleting && !node.to_be_deleted);
    }

    #[test]
    fn errors_name_the_field() {
        let error = reduce(r#"{"metadata": {"name": ""}}"#).expect_err("nameless");
        assert_eq!(error, ModelError::new("metadata.name", Problem::Missing));
        let error =
            reduce(r#"{"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/8", "x"]}}"#)
                .expect_err("no CIDR");
        assert_eq!(
            error.to_string(),
            r#"spec.podCIDRs[1]: "x" is not a CIDR such as 10.0.0.0/8 or fd00::/8"#
        );
    }
}
