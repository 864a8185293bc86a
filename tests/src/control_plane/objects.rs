//! Short ways to say what a test puts into the API: nodes without a kubelet, pods without containers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A Node, ready from the start.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) name: String,
    labels: BTreeMap<String, String>,
    pod_cidrs: Vec<String>,
    internal_ips: Vec<String>,
    taints: Vec<Value>,
}

impl Node {
    /// A node with the host name label that a kubelet would give it.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]),
            pod_cidrs: Vec::new(),
            internal_ips: Vec::new(),
            taints: Vec::new(),
        }
    }

    /// Puts it into a topology zone.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.label("topology.kubernetes.io/zone", zone)
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The ranges of its pods' addresses, at most one of each family.
    #[must_use]
    pub fn pod_cidrs(mut self, cidrs: &[&str]) -> Self {
        self.pod_cidrs = owned(cidrs);
        self
    }

    /// Its own addresses.
    #[must_use]
    pub fn internal_ips(mut self, addresses: &[&str]) -> Self {
        self.internal_ips = owned(addresses);
        self
    }

    /// Adds a taint without a value; `effect` is NoSchedule, PreferNoSchedule or NoExecute.
    #[must_use]
    pub fn taint(mut self, key: &str, effect: &str) -> Self {
        self.taints.push(json!({ "key": key, "effect": effect }));
        self
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": self.labels },
            "spec": {
                "podCIDR": self.pod_cidrs.first(),
                "podCIDRs": self.pod_cidrs,
                "taints": self.taints,
            },
        })
    }

    pub(super) fn status(&self) -> Value {
        let addresses: Vec<Value> = self
            .internal_ips
            .iter()
            .map(|address| json!({ "type": "InternalIP", "address": address }))
            .collect();
        let resources = json!({ "cpu": "4", "memory": "8Gi", "pods": "110" });
        json!({ "status": {
            "addresses": addresses,
            "capacity": resources,
            "allocatable": resources,
            "conditions": [condition("Ready", true)],
        }})
    }
}

/// A Pod that reports whatever a test says it does. Ready and without addresses unless told otherwise.
#[derive(Clone, Debug)]
pub struct Pod {
    pub(super) name: String,
    labels: BTreeMap<String, String>,
    node: Option<String>,
    ips: Vec<String>,
    ready: bool,
    host_network: bool,
    ports: Vec<Value>,
}

impl Pod {
    /// A pod of one container.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            node: None,
            ips: Vec::new(),
            ready: true,
            host_network: false,
            ports: Vec::new(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The node it is on. Without one the scheduler looks for a node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.node = Some(name.to_owned());
        self
    }

    /// Its addresses, at most one of each family, the primary one first.
    #[must_use]
    pub fn ips(mut self, addresses: &[&str]) -> Self {
        self.ips = owned(addresses);
        self
    }

    /// Whether it passes its readiness probe.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// Has it share its node's network namespace.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Adds a named TCP port of its container.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16) -> Self {
        self.ports
            .push(json!({ "name": name, "containerPort": port }));
        self
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name, "labels": self.labels },
            "spec": {
                "nodeName": self.node,
                "hostNetwork": self.host_network,
                "containers": [{ "name": "main", "image": "none", "ports": self.ports }],
            },
        })
    }

    pub(super) fn status(&self) -> Value {
        let ips: Vec<Value> = self.ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({ "status": {
            "phase": "Running",
            "podIP": self.ips.first(),
            "podIPs": ips,
            "conditions": [condition("Ready", self.ready)],
        }})
    }
}

/// A Service of type ClusterIP with an address of each family, unless its spec says otherwise.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    labels: BTreeMap<String, String>,
    selector: BTreeMap<String, String>,
    ports: Vec<Value>,
    spec: Value,
}

impl Service {
    /// A service without selector and ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            selector: BTreeMap::new(),
            ports: Vec::new(),
            spec: json!({}),
        }
    }

    /// Adds a label of the service itself.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a label that its pods have. Without any, nobody makes EndpointSlices for it.
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a TCP port; `target` is a port of its pods, by number or by name.
    #[must_use]
    pub fn port(self, name: &str, port: u16, target: impl Into<Value>) -> Self {
        self.port_of("TCP", name, port, target)
    }

    /// Adds a port of `protocol`: TCP, UDP or SCTP.
    #[must_use]
    pub fn port_of(
        mut self,
        protocol: &str,
        name: &str,
        port: u16,
        target: impl Into<Value>,
    ) -> Self {
        let target: Value = target.into();
        self.ports.push(json!({
            "protocol": protocol, "name": name, "port": port, "targetPort": target,
        }));
        self
    }

    /// Sets a field of its spec, for example `("internalTrafficPolicy", "Local")`.
    #[must_use]
    pub fn spec(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.spec[field] = value.into();
        self
    }

    pub(super) fn object(&self) -> Value {
        let mut spec = json!({ "ipFamilyPolicy": "PreferDualStack", "ports": self.ports });
        if !self.selector.is_empty() {
            spec["selector"] = json!(self.selector);
        }
        if let Value::Object(fields) = &self.spec {
            for (field, value) in fields {
                spec[field] = value.clone();
            }
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name, "labels": self.labels },
            "spec": spec,
        })
    }
}

/// One entry of a status' conditions. Its time of transition is not what tests look at.
pub(super) fn condition(kind: &str, holds: bool) -> Value {
    json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "reason": "Test",
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    })
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
