//! Services of the stories, as they stand in the manifests.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};

use crate::town::{Family, TARGET, Town, balancer_ip, cluster_ip, external_ip};

/// A service with the ports TCP 80 and UDP 80, and addresses of both families that no other service of the town has.
pub(crate) struct Service<'t> {
    town: &'t Town,
    pub(crate) name: String,
    pub(crate) number: u16,
    /// The object, to be changed and applied again.
    pub(crate) object: Value,
    /// Names, protocols, ports, and the endpoints' ports.
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    pub(crate) target: u16,
}

impl Port {
    pub(crate) fn new(name: &str, protocol: &'static str, port: u16, target: u16) -> Self {
        Self {
            name: name.to_owned(),
            protocol,
            port,
            target,
        }
    }
}

/// Where a service is served: a pod, or a node's own network.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) place: String,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    /// Hints, as the API has them.
    pub(crate) hints: Option<Value>,
}

/// A ready endpoint.
pub(crate) fn ready(place: &str) -> Endpoint {
    Endpoint {
        place: place.to_owned(),
        ready: true,
        serving: true,
        terminating: false,
        hints: None,
    }
}

/// An endpoint that is about to end and serves until then.
pub(crate) fn terminating(place: &str) -> Endpoint {
    Endpoint {
        ready: false,
        terminating: true,
        ..ready(place)
    }
}

/// An endpoint that is not ready.
pub(crate) fn unready(place: &str) -> Endpoint {
    Endpoint {
        ready: false,
        serving: false,
        ..ready(place)
    }
}

impl Town {
    /// A ClusterIP service without endpoints, to be applied.
    pub(crate) fn service(&self, name: &str) -> Service<'_> {
        let number = self.number();
        let name = format!("{name}-{number}");
        let ips = Family::BOTH.map(|family| cluster_ip(number, family));
        Service {
            town: self,
            object: json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips},
            }),
            name,
            number,
            ports: vec![
                Port::new("tcp", "TCP", 80, TARGET),
                Port::new("udp", "UDP", 80, TARGET),
            ],
            endpoints: Vec::new(),
        }
    }
}

impl Service<'_> {
    /// With these ready endpoints, and no others.
    pub(crate) fn to(mut self, places: &[&str]) -> Self {
        self.endpoints = places.iter().map(|place| ready(place)).collect();
        self
    }

    /// With this field of its specification.
    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.object["spec"][field] = value.into();
        self
    }

    /// With this annotation.
    pub(crate) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["annotations"][key] = value.into();
        self
    }

    /// With a node port, the same for all its ports.
    pub(crate) fn node_port(self) -> Self {
        self.with("type", "NodePort")
    }

    /// With a load balancer's addresses, and a node port as they have.
    pub(crate) fn load_balancer(self) -> Self {
        let ingress = Family::BOTH.map(|family| json!({"ip": balancer_ip(self.number, family)}));
        let mut service = self.with("type", "LoadBalancer");
        service.object["status"]["loadBalancer"]["ingress"] = json!(ingress);
        service
    }

    /// With external IPs.
    pub(crate) fn external(self) -> Self {
        let ips = Family::BOTH.map(|family| external_ip(self.number, family));
        self.with("externalIPs", json!(ips))
    }

    /// With clients that stay, for so many seconds.
    pub(crate) fn sticky(self, seconds: u32) -> Self {
        self.with("sessionAffinity", "ClientIP").with(
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": seconds}}),
        )
    }

    /// Writes it to the manifests and waits until every agent has programmed it.
    pub(crate) fn apply(&self) -> Result<()> {
        self.write()?;
        self.town.settle()
    }

    /// Writes it, the slices first, and waits for nothing.
    pub(crate) fn write(&self) -> Result<()> {
        let kind = &self.object["spec"]["type"];
        self.write_with(kind == "NodePort" || kind == "LoadBalancer")
    }

    /// As [`Service::write`], for one whose node ports were never allocated.
    pub(crate) fn write_without_node_ports(&self) -> Result<()> {
        self.write_with(false)
    }

    fn write_with(&self, node_ports: bool) -> Result<()> {
        let mut object = self.object.clone();
        let ports: Vec<Value> = (self.ports.iter())
            .map(|port| {
                let mut value = json!({
                    "name": port.name, "protocol": port.protocol, "port": port.port,
                    "targetPort": port.target,
                });
                if node_ports {
                    value["nodePort"] = self.port_on_nodes().into();
                }
                value
            })
            .collect();
        object["spec"]["ports"] = json!(ports);
        self.write_endpoints()?;
        self.town.manifests.apply(&self.name, &object)
    }

    /// Writes its slices and waits for nothing.
    pub(crate) fn write_endpoints(&self) -> Result<()> {
        let items = Family::BOTH.map(|family| self.slice(family, &self.endpoints, ""));
        let items: Vec<Value> = items.into_iter().collect::<Result<_>>()?;
        self.town.manifests.apply(
            &self.slices(),
            &json!({"apiVersion": "v1", "kind": "List", "items": items}),
        )
    }

    /// Changes its endpoints and waits until every agent has programmed them.
    pub(crate) fn move_to(&mut self, endpoints: Vec<Endpoint>) -> Result<()> {
        self.endpoints = endpoints;
        self.write_endpoints()?;
        self.town.settle()
    }

    /// Deletes it and its slices, and waits until every agent has done so.
    pub(crate) fn delete(&self) -> Result<()> {
        self.town.manifests.delete(&self.name)?;
        self.town.manifests.delete(&self.slices())?;
        self.town.settle()
    }

    /// The file of its slices.
    pub(crate) fn slices(&self) -> String {
        format!("{}-slices", self.name)
    }

    /// A slice of its endpoints of a family, with its ports.
    pub(crate) fn slice(
        &self,
        family: Family,
        endpoints: &[Endpoint],
        suffix: &str,
    ) -> Result<Value> {
        let label = family.to_string();
        let mut listed = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let pod = self.town.world.pod(&endpoint.place);
            let node = match &pod {
                Ok(pod) => pod.node().name().to_owned(),
                Err(_) => endpoint.place.clone(),
            };
            listed.push(json!({
                "addresses": [family.of(self.town.addresses(&endpoint.place)?)],
                "conditions": {
                    "ready": endpoint.ready, "serving": endpoint.serving,
                    "terminating": endpoint.terminating,
                },
                "nodeName": node,
                "hints": endpoint.hints,
            }));
        }
        let ports: Vec<Value> = (self.ports.iter())
            .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.target}))
            .collect();
        Ok(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}{suffix}", self.name, label.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": label,
            "ports": if listed.is_empty() { json!([]) } else { json!(ports) },
            "endpoints": listed,
        }))
    }

    /// The port that it has on nodes, if it has one.
    pub(crate) fn port_on_nodes(&self) -> u16 {
        30000 + self.number
    }

    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        cluster_ip(self.number, family)
    }

    /// Its cluster IP, port 80.
    pub(crate) fn at(&self, family: Family) -> SocketAddr {
        (self.ip(family), 80).into()
    }

    /// Its node port on a node.
    pub(crate) fn at_node(&self, node: &str, family: Family) -> Result<SocketAddr> {
        self.town.at(node, family, self.port_on_nodes())
    }

    /// Its load balancer, port 80.
    pub(crate) fn at_balancer(&self, family: Family) -> SocketAddr {
        (balancer_ip(self.number, family), 80).into()
    }

    /// Its external IP, port 80.
    pub(crate) fn at_external(&self, family: Family) -> SocketAddr {
        (external_ip(self.number, family), 80).into()
    }
}
