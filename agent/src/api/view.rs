//! What the local API answers: the JSON of `weir status -o json` and `weir services -o json`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use crate::{metrics::TableFill, pods::View as PodsView};

/// `GET /v1/status`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the agent does its work; set by [`Status::assess`].
    pub healthy: bool,
    /// What a person should look at, the most urgent first; set by [`Status::assess`].
    pub attention: Vec<String>,
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Where the objects come from, such as `kubernetes https://192.0.2.1:6443` or `manifests /etc/weir`.
    pub source: String,
    /// By kind of object.
    pub sources: Vec<SourceView>,
    /// How full the kernel's tables are.
    pub tables: Vec<TableFill>,
    /// What is attached where.
    pub attachments: Vec<Attachment>,
    /// The pods and external devices that are served.
    #[serde(default)]
    pub pods: PodsView,
    /// How programming goes.
    pub sync: SyncView,
    /// Malformed objects that are skipped.
    pub skipped: Vec<SkippedObject>,
    /// Services that are not programmed as they should be, and why.
    pub unprogrammed: Vec<SkippedObject>,
}

/// One kind of object, as its source sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceView {
    /// `Service`, `EndpointSlice`, ...
    pub kind: String,
    /// Whether the whole list was received.
    pub synced: bool,
    /// Objects known.
    pub objects: u64,
    /// Seconds since something of that kind was received.
    pub last_event_age_seconds: Option<u64>,
    /// Malformed objects that are skipped.
    pub skipped: u64,
    /// Why the watch does not work at the moment.
    pub error: Option<String>,
}

/// A program on a hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The hook, such as `connect4`.
    pub hook: String,
    /// What it is attached to: a cgroup's path, a device.
    pub target: String,
    /// Where the link is pinned; what is not pinned ends with the agent.
    pub pinned: Option<String>,
}

/// How programming goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncView {
    /// Syncs that succeeded.
    pub count: u64,
    /// Syncs that failed.
    pub failures: u64,
    /// Changes that are not programmed yet.
    pub pending: u64,
    /// Seconds that the oldest of those has waited.
    pub pending_for_seconds: Option<f64>,
    /// Seconds since the last success.
    pub last_age_seconds: Option<f64>,
    /// How long the last sync took, in seconds.
    pub last_duration_seconds: Option<f64>,
    /// Why the last sync failed; none when it succeeded.
    pub last_error: Option<String>,
}

/// An object that is not acted upon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SkippedObject {
    /// `Service`, `EndpointSlice`, ...
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
    /// Why, and what to do.
    pub reason: String,
}

/// One element of the answer to `GET /v1/services`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its ports.
    pub ports: Vec<PortView>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortView {
    /// Its name; may be empty.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// The port on the service's own addresses.
    pub port: u16,
    /// How an endpoint is chosen: `random`.
    pub selection: String,
    /// What clients connect to.
    pub frontends: Vec<FrontendView>,
    /// Where connections are sent, over all frontends.
    pub endpoints: Vec<EndpointView>,
    /// What was counted.
    pub connections: ConnectionsView,
}

/// What clients connect to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontendView {
    /// Address and port.
    pub address: SocketAddr,
    /// `internal`: from this node's pods and from the node itself; `external`: from outside.
    pub scope: String,
    /// A verdict's label: `translate`, or why not.
    pub verdict: String,
    /// Endpoints that this frontend sends to.
    pub endpoints: u32,
}

/// An endpoint in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Address and port.
    pub address: SocketAddr,
    /// The node it is on, if the slice says so.
    pub node: Option<String>,
    /// The zone it is in, if the slice says so.
    pub zone: Option<String>,
    /// The pod behind it, `namespace/name`, if the slice says so.
    pub pod: Option<String>,
}

/// What was counted for a service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsView {
    /// Sent to an endpoint.
    pub translated: u64,
    /// Refused or dropped.
    pub refused: u64,
}

/// Which services are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceFilter {
    /// Only of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ServiceFilter {
    /// Whether a service is asked for.
    #[must_use]
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|wanted| wanted == namespace)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}
