//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as api;

use super::{ModelError, ObjectName, Protocol};

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The service it belongs to (label `kubernetes.io/service-name`), if any.
    pub service: Option<ObjectName>,
    /// What its addresses are; `None` for FQDN and whatever else is not ours, and then there are no endpoints.
    pub family: Option<Family>,
    /// Its ports: each endpoint has them all.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When the change happened that made the controller write the slice (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`).
    pub last_change_trigger: Option<jiff::Timestamp>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the service's port that it serves; may be empty.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the endpoint's address.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub addr: IpAddr,
    /// Condition `ready`.
    pub ready: bool,
    /// Condition `serving`.
    pub serving: bool,
    /// Condition `terminating`.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// Who should prefer it.
    pub hints: Option<Arc<Hints>>,
}

/// Topology hints of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The nodes that should prefer the endpoint.
    pub nodes: Box<[Arc<str>]>,
    /// The zones that should prefer the endpoint.
    pub zones: Box<[Arc<str>]>,
}

impl EndpointSlice {
    /// Reduces an API object.
    pub fn reduce(object: &api::EndpointSlice) -> Result<Self, ModelError> {
        todo!("{object:?}")
    }
}
