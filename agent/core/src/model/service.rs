//! Services.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use weir_abi::service::proto;

use super::error::{ModelError, Problem};
use super::name::ObjectName;
use super::parse::{self, Cidr};

/// On a service or slice: another proxy takes care of it, whatever the value.
pub(super) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// On a service or slice: nobody should balance it, whatever the value.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What the API server fills in for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_TIMEOUT: i32 = 10800;
const MAX_AFFINITY_TIMEOUT: i32 = 86400;

/// How backends are chosen: `random` or `maglev`. Weir's own.
const SELECTION_ANNOTATION: &str = "weir.dev/selection";

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
    /// `spec.loadBalancerSourceRanges`; none of a family means everybody of that family.
    pub source_ranges: Vec<Cidr>,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// `spec.healthCheckNodePort`, where the service has one.
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`. Its effect is already in the slices' conditions.
    pub publish_not_ready_addresses: bool,
    /// How backends are chosen (annotation `weir.dev/selection`).
    pub selection: BackendSelection,
    /// What is wrong with the service, but no reason to do without it.
    pub warnings: Vec<ModelError>,
}

/// How a backend is chosen for a connection that no session affinity decides over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendSelection {
    /// Each with the same probability.
    #[default]
    Random,
    /// By a hash of the connection, the same on every node: see [`crate::maglev`].
    Maglev,
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
    Tcp = proto::TCP,
    /// UDP.
    Udp = proto::UDP,
    /// SCTP.
    Sctp = proto::SCTP,
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
    /// Reduces an API object. Of a service that is left alone nothing more is read.
    ///
    /// Read as kube-proxy reads them: an unknown `type` as ClusterIP, an unknown traffic policy as Cluster, an unknown
    /// session affinity as none, an unknown load balancer ipMode as one that does not concern the node. What the API
    /// server would have filled in may be missing: the protocol (TCP), `clusterIPs` next to `clusterIP`, the affinity
    /// timeout (10800 s). Source ranges that are none are passed over, as kube-proxy does it
    /// (`pkg/proxy/util.MapCIDRsByIPFamily`): if none of a family is left, everybody of that family may come. That, and
    /// a selection that Weir does not know, is told in [`Service::warnings`].
    ///
    /// # Errors
    /// The first field that is wrong, see [`Problem`].
    pub fn reduce(object: &api::Service) -> Result<Self, ModelError> {
        let name = parse::namespaced_name(&object.metadata)?;
        let spec =
            (object.spec.as_ref()).ok_or_else(|| ModelError::new("spec", Problem::Missing))?;
        let service_type = match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIP,
        };
        let left_alone = left_alone(object, spec, service_type);
        let mut service = Self::empty(name, service_type, left_alone);
        if left_alone.is_none() {
            service.read(spec, object.status.as_ref())?;
            service.read_selection(object);
        }
        Ok(service)
    }

    /// Whether something outside of the cluster can reach it, as the API's own helpers decide it.
    #[must_use]
    pub fn externally_accessible(&self) -> bool {
        match self.service_type {
            ServiceType::NodePort | ServiceType::LoadBalancer => true,
            ServiceType::ClusterIP => !self.external_ips.is_empty(),
            ServiceType::ExternalName => false,
        }
    }

    fn empty(name: ObjectName, service_type: ServiceType, left_alone: Option<LeftAlone>) -> Self {
        Self {
            name,
            service_type,
            left_alone,
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity: Affinity::None,
            health_check_node_port: None,
            publish_not_ready_addresses: false,
            selection: BackendSelection::Random,
            warnings: Vec::new(),
        }
    }

    fn read(
        &mut self,
        spec: &api::ServiceSpec,
        status: Option<&api::ServiceStatus>,
    ) -> Result<(), ModelError> {
        self.cluster_ips = cluster_ips(spec)?;
        self.ports = ports(spec.ports.as_deref().unwrap_or_default())?;
        self.external_ips = (spec.external_ips.iter().flatten().enumerate())
            .map(|(i, ip)| parse::host_address(ip, || format!("spec.externalIPs[{i}]")))
            .collect::<Result<_, _>>()?;
        self.load_balancer_ips = load_balancer_ips(status)?;
        for (i, range) in (spec.load_balancer_source_ranges.iter().flatten()).enumerate() {
            match parse::cidr(range, || format!("spec.loadBalancerSourceRanges[{i}]")) {
                Ok(range) => self.source_ranges.push(range),
                Err(warning) => self.warnings.push(warning),
            }
        }
        self.affinity = affinity(spec)?;
        self.publish_not_ready_addresses = spec.publish_not_ready_addresses.unwrap_or(false);
        self.internal_policy = TrafficPolicy::read(spec.internal_traffic_policy.as_deref());
        if self.externally_accessible() {
            self.external_policy = TrafficPolicy::read(spec.external_traffic_policy.as_deref());
        }
        let health_check_node_port = parse::optional_port(spec.health_check_node_port, || {
            "spec.healthCheckNodePort".to_owned()
        })?;
        // Anything else that has such a port set does not serve it (API helper NeedsHealthCheck).
        if self.service_type == ServiceType::LoadBalancer
            && self.external_policy == TrafficPolicy::Local
        {
            self.health_check_node_port = health_check_node_port;
        }
        Ok(())
    }

    fn read_selection(&mut self, object: &api::Service) {
        let annotations = object.metadata.annotations.as_ref();
        let Some(value) = annotations.and_then(|all| all.get(SELECTION_ANNOTATION)) else {
            return;
        };
        match value.trim() {
            "random" => {}
            "maglev" => self.selection = BackendSelection::Maglev,
            _ => self.warnings.push(ModelError::new(
                format!("metadata.annotations[{SELECTION_ANNOTATION}]"),
                Problem::Selection(value.clone()),
            )),
        }
    }
}

impl BackendSelection {
    /// The selection's name, as in the annotation.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Maglev => "maglev",
        }
    }
}

impl TrafficPolicy {
    fn read(text: Option<&str>) -> Self {
        match text {
            Some("Local") => Self::Local,
            _ => Self::Cluster,
        }
    }
}

impl Protocol {
    /// The API's name of the protocol.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The number in the IP header, one of [`weir_abi::service::proto`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The API's name of the protocol of that number; `unknown` for one that no service can have.
    #[must_use]
    pub const fn label_of(number: u8) -> &'static str {
        match number {
            proto::TCP => Self::Tcp.label(),
            proto::UDP => Self::Udp.label(),
            proto::SCTP => Self::Sctp.label(),
            _ => "unknown",
        }
    }

    /// Reads a protocol at `field`; an absent one is TCP.
    pub(super) fn read(
        text: Option<&str>,
        field: impl FnOnce() -> String,
    ) -> Result<Self, ModelError> {
        match text {
            None | Some("TCP") => Ok(Self::Tcp),
            Some("UDP") => Ok(Self::Udp),
            Some("SCTP") => Ok(Self::Sctp),
            Some(other) => {
                let problem = Problem::Protocol(other.to_owned());
                Err(ModelError::new(field(), problem))
            }
        }
    }
}

/// The addresses as they were written.
fn cluster_ip_texts(spec: &api::ServiceSpec) -> &[String] {
    match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(ips), _) if !ips.is_empty() => ips,
        (_, Some(ip)) if !ip.is_empty() => std::slice::from_ref(ip),
        _ => &[],
    }
}

fn left_alone(
    object: &api::Service,
    spec: &api::ServiceSpec,
    service_type: ServiceType,
) -> Option<LeftAlone> {
    let labelled = |label| parse::label(&object.metadata, label).is_some();
    if service_type == ServiceType::ExternalName {
        Some(LeftAlone::ExternalName)
    } else if labelled(PROXY_NAME_LABEL) {
        Some(LeftAlone::OtherProxy)
    } else if labelled(HEADLESS_LABEL) {
        Some(LeftAlone::HeadlessLabel)
    } else {
        match cluster_ip_texts(spec) {
            [first, ..] if !first.is_empty() && first != "None" => None,
            _ => Some(LeftAlone::Headless),
        }
    }
}

fn cluster_ips(spec: &api::ServiceSpec) -> Result<Vec<IpAddr>, ModelError> {
    let mut ips: Vec<IpAddr> = Vec::with_capacity(2);
    for (i, text) in cluster_ip_texts(spec).iter().enumerate() {
        let field = || match spec.cluster_ips.as_deref() {
            None | Some([]) => "spec.clusterIP".to_owned(),
            Some(_) => format!("spec.clusterIPs[{i}]"),
        };
        let ip = parse::host_address(text, field)?;
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            let what = "an address of this family".to_owned();
            return Err(ModelError::new(field(), Problem::Duplicate { what }));
        }
        ips.push(ip);
    }
    Ok(ips)
}

fn ports(ports: &[api::ServicePort]) -> Result<Vec<ServicePort>, ModelError> {
    let mut read: Vec<ServicePort> = Vec::with_capacity(ports.len());
    for (i, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        let port = ServicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: Protocol::read(port.protocol.as_deref(), || field("protocol"))?,
            port: parse::port(port.port, || field("port"))?,
            node_port: parse::optional_port(port.node_port, || field("nodePort"))?,
        };
        for other in read.iter().filter(|other| other.protocol == port.protocol) {
            let protocol = port.protocol.label();
            let (name, what) = if other.port == port.port {
                ("port", format!("{protocol} port {}", port.port))
            } else if other.name == port.name {
                ("name", format!("{protocol} port {:?}", port.name))
            } else {
                continue;
            };
            return Err(ModelError::new(field(name), Problem::Duplicate { what }));
        }
        read.push(port);
    }
    Ok(read)
}

/// A load balancer without an address has a host name, or will get an address.
fn load_balancer_ips(status: Option<&api::ServiceStatus>) -> Result<Vec<IpAddr>, ModelError> {
    let mut ips = Vec::new();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|load_balancer| load_balancer.ingress.as_deref())
        .unwrap_or_default();
    for (i, ingress) in ingress.iter().enumerate() {
        let reaches_the_node = matches!(ingress.ip_mode.as_deref(), None | Some("VIP"));
        if let Some(ip) = ingress.ip.as_deref()
            && !ip.is_empty()
            && reaches_the_node
        {
            let field = || format!("status.loadBalancer.ingress[{i}].ip");
            ips.push(parse::host_address(ip, field)?);
        }
    }
    Ok(ips)
}

fn affinity(spec: &api::ServiceSpec) -> Result<Affinity, ModelError> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Ok(Affinity::None);
    }
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds)
        .unwrap_or(DEFAULT_AFFINITY_TIMEOUT);
    match u32::try_from(timeout) {
        Ok(timeout_seconds) if (1..=MAX_AFFINITY_TIMEOUT).contains(&timeout) => {
            Ok(Affinity::ClientIp { timeout_seconds })
        }
        _ => Err(ModelError::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            Problem::AffinityTimeout(timeout),
        )),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
