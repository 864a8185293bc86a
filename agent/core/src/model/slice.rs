//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as api;

use super::error::{ModelError, Problem};
use super::name::ObjectName;
use super::parse;
use super::service::{HEADLESS_LABEL, PROXY_NAME_LABEL, Protocol};
use crate::pool::Pool;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The service it belongs to (label `kubernetes.io/service-name`); none if no service's traffic is to use it.
    pub service: Option<ObjectName>,
    /// What its addresses are; `None` for FQDN and whatever else is not ours, and then there are no endpoints.
    pub family: Option<Family>,
    /// Its ports; each endpoint has them all.
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

impl EndpointSlice {
    /// Whether one of its endpoints has that address and is terminating.
    #[must_use]
    pub fn is_terminating(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| endpoint.terminating && endpoint.addr.to_canonical() == addr)
    }
}

/// Topology hints of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// The nodes that should prefer the endpoint.
    pub nodes: Box<[Arc<str>]>,
    /// The zones that should prefer the endpoint.
    pub zones: Box<[Arc<str>]>,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The API's name of the family.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl EndpointSlice {
    /// Reduces an API object.
    ///
    /// As in kube-proxy: an address type other than IPv4 and IPv6 is not ours, ports without a number are passed over,
    /// and of an endpoint's addresses only the first counts (the API gives no meaning to the others). The labels that
    /// give a service to another proxy, or to none, do the same to a slice; the API server can leave such slices out
    /// of a watch, a directory of manifests cannot. Absent conditions mean ready, serving and not terminating; an
    /// absent port name is the empty one and an absent protocol TCP. An unreadable trigger time is ignored.
    ///
    /// # Errors
    /// The first field that is wrong, see [`Problem`].
    pub fn reduce(object: &api::EndpointSlice) -> Result<Self, ModelError> {
        let metadata = &object.metadata;
        let name = parse::namespaced_name(metadata)?;
        let labelled_away = [PROXY_NAME_LABEL, HEADLESS_LABEL]
            .iter()
            .any(|label| parse::label(metadata, label).is_some());
        let service = parse::label(metadata, SERVICE_LABEL)
            .filter(|service| !service.is_empty() && !labelled_away)
            .map(|service| ObjectName::new(name.namespace.clone(), service));
        let family = match object.address_type.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        };
        let (ports, endpoints) = match (&service, family) {
            (Some(_), Some(family)) => (ports(object)?, endpoints(object, family)?),
            _ => (Vec::new(), Vec::new()),
        };
        Ok(Self {
            name,
            service,
            family,
            ports,
            endpoints,
            last_change_trigger: (metadata.annotations.as_ref())
                .and_then(|annotations| annotations.get(TRIGGER_ANNOTATION)?.parse().ok()),
        })
    }
}

fn ports(object: &api::EndpointSlice) -> Result<Vec<EndpointPort>, ModelError> {
    let mut ports = Vec::new();
    for (i, port) in object.ports.iter().flatten().enumerate() {
        let number = parse::optional_port(port.port, || format!("ports[{i}].port"))?;
        if let Some(number) = number {
            let field = || format!("ports[{i}].protocol");
            ports.push(EndpointPort {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::read(port.protocol.as_deref(), field)?,
                port: number,
            });
        }
    }
    Ok(ports)
}

fn endpoints(object: &api::EndpointSlice, family: Family) -> Result<Vec<Endpoint>, ModelError> {
    let mut strings = Pool::default();
    let mut hints = Pool::default();
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (i, endpoint) in object.endpoints.iter().enumerate() {
        let field = || format!("endpoints[{i}].addresses[0]");
        let first = endpoint.addresses.first();
        let first = first.ok_or_else(|| ModelError::new(field(), Problem::Missing))?;
        let addr = parse::host_address(first, field)?;
        if Family::of(&addr) != family {
            let expected = family.label();
            let problem = Problem::Family {
                address: addr,
                expected,
            };
            return Err(ModelError::new(field(), problem));
        }
        let condition = endpoint.conditions.as_ref();
        let mut string = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(|text| strings.get(text))
        };
        endpoints.push(Endpoint {
            addr,
            ready: condition.and_then(|c| c.ready).unwrap_or(true),
            serving: condition.and_then(|c| c.serving).unwrap_or(true),
            terminating: condition.and_then(|c| c.terminating).unwrap_or(false),
            node: string(&endpoint.node_name),
            zone: string(&endpoint.zone),
            hints: (endpoint.hints.as_ref())
                .map(|api| read_hints(api, &mut strings))
                .filter(|read| *read != Hints::default())
                .map(|read| hints.share(Arc::new(read))),
        });
    }
    Ok(endpoints)
}

fn read_hints(hints: &api::EndpointHints, strings: &mut Pool<str>) -> Hints {
    let nodes = hints.for_nodes.iter().flatten();
    let zones = hints.for_zones.iter().flatten();
    Hints {
        nodes: nodes.map(|node| strings.get(&node.name)).collect(),
        zones: zones.map(|zone| strings.get(&zone.name)).collect(),
    }
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
