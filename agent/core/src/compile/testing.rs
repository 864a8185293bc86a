//! Clusters for tests, from JSON.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::{Value, json};

use crate::model::{EndpointSlice, Node, Object, ObjectName, Service};
use crate::state::{Change, Cluster, Dirty};

pub(crate) const NODE: &str = "n1";

pub(crate) fn cart() -> ObjectName {
    ObjectName::new("shop", "cart")
}

/// Applies the service `shop/cart` with that `spec` and these load balancer addresses.
pub(crate) fn apply_service(cluster: &mut Cluster, spec: &Value, balancers: &[&str]) -> Dirty {
    let ingress: Vec<Value> = balancers.iter().map(|ip| json!({"ip": ip})).collect();
    let api: core::Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
    .expect("a Service");
    let service = Service::reduce(&api).expect("valid");
    cluster.apply(Change::Apply(Object::Service(service)))
}

/// Applies a slice of that service, in the family of the first endpoint's address.
pub(crate) fn apply_slice(
    cluster: &mut Cluster,
    name: &str,
    ports: &Value,
    endpoints: &[Value],
) -> Dirty {
    let first = endpoints
        .first()
        .and_then(|endpoint| endpoint["addresses"][0].as_str());
    let v6 = first.is_some_and(|addr| addr.contains(':'));
    let api: discovery::EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    }))
    .expect("an EndpointSlice");
    let slice = EndpointSlice::reduce(&api).expect("valid");
    cluster.apply(Change::Apply(Object::EndpointSlice(slice)))
}

/// Applies the node whose point of view it is, with these internal addresses.
pub(crate) fn apply_node(cluster: &mut Cluster, addresses: &[&str]) -> Dirty {
    let addresses: Vec<Value> = (addresses.iter())
        .map(|addr| json!({"type": "InternalIP", "address": addr}))
        .collect();
    let api: core::Node = serde_json::from_value(json!({
        "metadata": {"name": NODE},
        "status": {"addresses": addresses},
    }))
    .expect("a Node");
    let node = Node::reduce(&api).expect("valid");
    cluster.apply(Change::Apply(Object::Node(node)))
}
