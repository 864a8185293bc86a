//! Services.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{Cidr, ModelError, ObjectName};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// Why the service is none of ours, if it is not.
    pub left_alone: Option<LeftAlone>,
    /// `spec.clusterIPs`, at most one of each family; empty if the service is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`, Cluster if nothing outside of the cluster can reach the service.
    pub external_policy: TrafficPolicy,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// The ingress addresses of `status.loadBalancer` that reach the node untranslated (ipMode VIP).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty means everybody.
    pub source_ranges: Vec<Cidr>,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// `spec.healthCheckNodePort`, where the service has one.
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`. Its effect is already in the slices' conditions.
    pub publish_not_ready_addresses: bool,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum ServiceType {
    /// Reachable from within the cluster.
    ClusterIP,
    /// And on a port of every node.
    NodePort,
    /// And through a load balancer.
    LoadBalancer,
    /// A name, not an address.
    ExternalName,
}

/// Why a service is not balanced by Weir.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum LeftAlone {
    /// `clusterIP: None`, or no cluster IP at all.
    Headless,
    /// `type: ExternalName`.
    ExternalName,
    /// The label `service.kubernetes.io/service-proxy-name` gives it to another proxy.
    OtherProxy,
    /// The label `service.kubernetes.io/headless`.
    HeadlessLabel,
}

/// A traffic policy, internal or external.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum TrafficPolicy {
    /// To endpoints on any node.
    Cluster,
    /// Only to endpoints on the node that received the traffic.
    Local,
}

/// `spec.sessionAffinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Each connection is on its own.
    None,
    /// A client stays with its endpoint.
    ClientIp {
        /// For how long after its last connection, in seconds (1 to 86400).
        timeout_seconds: u32,
    },
}

/// A transport protocol that a service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = weir_abi::service::proto::TCP,
    /// UDP.
    Udp = weir_abi::service::proto::UDP,
    /// SCTP.
    Sctp = weir_abi::service::proto::SCTP,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, by which the slices know it; may be empty.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the service's own addresses.
    pub port: u16,
    /// The port on the nodes' addresses.
    pub node_port: Option<u16>,
}

impl Service {
    /// Reduces an API object.
    pub fn reduce(object: &api::Service) -> Result<Self, ModelError> {
        todo!("{object:?}")
    }
}
