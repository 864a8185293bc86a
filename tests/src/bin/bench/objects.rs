//! The objects of the bench's cluster. All worlds have the same addresses, so that one cluster serves them all.

use std::{net::IpAddr, ops::Range};

use serde_json::{Value, json};
use weir_world::Addresses;

/// The API namespace of all services.
pub(crate) const NAMESPACE: &str = "bench";
/// Where the backends' servers for measurements listen, TCP and UDP.
pub(crate) const MEASURED: u16 = 8080;
/// Where the near backend's echo server listens, TCP and UDP.
pub(crate) const ECHO: u16 = 9090;
/// The port of every service.
pub(crate) const PORT: u16 = 80;

/// A service's ways in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frontend {
    pub(crate) name: &'static str,
    pub(crate) v4: &'static str,
    pub(crate) v6: &'static str,
    pub(crate) node_port: u16,
}

/// The service of the backend on the first node.
pub(crate) const NEAR: Frontend = Frontend {
    name: "near",
    v4: "10.96.0.80",
    v6: "fd00:10:96::80",
    node_port: 30080,
};
/// The service of the backend on the second node.
pub(crate) const FAR: Frontend = Frontend {
    name: "far",
    v4: "10.96.0.81",
    v6: "fd00:10:96::81",
    node_port: 30081,
};
/// The services by whose answers the node is seen to be programmed: first and last by name.
pub(crate) const SIGNS: [&str; 2] = ["a-first", "z-last"];
/// The service that gets an endpoint, and loses it.
pub(crate) const SWITCHED: &str = "switched";

/// The cluster address of a service that only the control plane's measurements use.
pub(crate) fn sign_address(name: &str) -> IpAddr {
    let last = match name {
        "a-first" => 83,
        "z-last" => 84,
        _ => 82,
    };
    IpAddr::from([10, 96, 0, last])
}

/// How many services there are besides those that only fill the tables.
pub(crate) const FIXED: u32 = 5;

/// How many endpoints a filling service has: ten, as far as the default capacity of Weir's tables goes.
fn endpoints_of(number: u32) -> u32 {
    if number < 10_000 { 10 } else { 3 }
}

/// How many endpoints so many services have.
pub(crate) fn endpoints(services: u32) -> u32 {
    (FIXED..services).map(endpoints_of).sum::<u32>() + 6
}

/// An object, by its key in etcd.
pub(crate) type Stored = (String, String);

/// A node of this name, with its addresses and the ranges of its pods.
pub(crate) fn node(name: &str, addresses: Addresses, ranges: &[String; 2]) -> Stored {
    let mut metadata = metadata(name, "40de", &json!({"kubernetes.io/hostname": name}));
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("namespace");
    }
    let addresses = addresses
        .both()
        .map(|address| json!({"type": "InternalIP", "address": address}));
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {
            "addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    (format!("/registry/minions/{name}"), object.to_string())
}

/// The services with real backends.
pub(crate) fn fixed(near: Addresses, far: Addresses) -> Vec<Stored> {
    let mut stored = Vec::new();
    for (frontend, backend) in [(NEAR, near), (FAR, far)] {
        let ports = ["TCP", "UDP"].map(|protocol| {
            json!({
                "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": MEASURED,
                "nodePort": frontend.node_port,
            })
        });
        let addresses = [frontend.v4, frontend.v6];
        stored.push(service(frontend.name, "NodePort", &addresses, &ports));
        stored.extend(addresses.map(|address| allocated(address, frontend.name)));
        let node = if frontend.name == NEAR.name { 1 } else { 2 };
        for address in backend.both() {
            let endpoint = endpoint(address, &format!("node{node}"));
            stored.push(slice(frontend.name, address, MEASURED, &[endpoint]));
        }
    }
    for name in SIGNS.into_iter().chain([SWITCHED]) {
        let address = sign_address(name).to_string();
        let ports = ["TCP", "UDP"].map(|protocol| {
            json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": ECHO})
        });
        stored.push(service(name, "ClusterIP", &[&address], &ports));
        stored.push(allocated(&address, name));
        let endpoint = endpoint(near.v4.into(), "node1");
        stored.push(slice(name, near.v4.into(), ECHO, &[endpoint]));
    }
    stored
}

/// Services whose endpoints nobody serves; by number, from [`FIXED`].
pub(crate) fn filling(numbers: Range<u32>) -> Vec<Stored> {
    let mut stored = Vec::new();
    for number in numbers {
        let name = format!("filling-{number:05}");
        let address = format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250);
        let port = json!({"name": "tcp", "protocol": "TCP", "port": PORT, "targetPort": MEASURED});
        stored.push(service(&name, "ClusterIP", &[&address], &[port]));
        stored.push(allocated(&address, &name));
        let endpoints: Vec<Value> = (0..endpoints_of(number))
            .map(|n| {
                let id = number * 10 + n;
                let address = [10, 128 + id / 62_500, id / 250 % 250, 1 + id % 250];
                endpoint(
                    IpAddr::from(address.map(|part| part as u8)),
                    &format!("other-{}", id % 100),
                )
            })
            .collect();
        let any = IpAddr::from([10, 128, 0, 1]);
        stored.push(slice(&name, any, MEASURED, &endpoints));
    }
    stored
}

/// The endpoints that a slice of [`SWITCHED`] has or has not.
pub(crate) fn switch(on: bool, near: Addresses) -> Value {
    let endpoints = [endpoint(near.v4.into(), "node1")];
    json!({"endpoints": if on { &endpoints[..] } else { &[] }})
}

fn service(name: &str, kind: &str, addresses: &[&str], ports: &[Value]) -> Stored {
    let families: Vec<&str> = addresses
        .iter()
        .map(|address| {
            if address.contains(':') {
                "IPv6"
            } else {
                "IPv4"
            }
        })
        .collect();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, "5e51", &json!({"app": name})),
        "spec": {
            "type": kind,
            "clusterIP": addresses[0], "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "externalTrafficPolicy": (kind == "NodePort").then_some("Cluster"),
            "ports": ports,
        },
        "status": {"loadBalancer": {}},
    });
    let key = format!("/registry/services/specs/{NAMESPACE}/{name}");
    (key, object.to_string())
}

/// What the API server keeps of an address that it has given to a service; where it is missing, it repairs it.
fn allocated(address: &str, service: &str) -> Stored {
    let family = if address.contains(':') {
        "IPv6"
    } else {
        "IPv4"
    };
    let mut metadata = metadata(
        address,
        "add4",
        &json!({
            "ipaddress.kubernetes.io/ip-family": family,
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }),
    );
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("namespace");
    }
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": metadata,
        "spec": {"parentRef": {"resource": "services", "namespace": NAMESPACE, "name": service}},
    });
    (
        format!("/registry/ipaddresses/{address}"),
        object.to_string(),
    )
}

fn slice(service: &str, of: IpAddr, port: u16, endpoints: &[Value]) -> Stored {
    let family = if of.is_ipv6() { "IPv6" } else { "IPv4" };
    let name = slice_name(service, family);
    let ports: Vec<Value> = ["tcp", "udp"]
        .map(
            |protocol| json!({"name": protocol, "protocol": protocol.to_uppercase(), "port": port}),
        )
        .into_iter()
        .take(if service.starts_with("filling") { 1 } else { 2 })
        .collect();
    let labels = json!({
        "kubernetes.io/service-name": service,
        "endpointslice.kubernetes.io/managed-by": "bench",
    });
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(&name, "511c", &labels),
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    });
    let key = format!("/registry/endpointslices/{NAMESPACE}/{name}");
    (key, object.to_string())
}

/// The name of a service's slice.
pub(crate) fn slice_name(service: &str, family: &str) -> String {
    format!("{service}-{}", family.to_lowercase())
}

fn endpoint(address: IpAddr, node: &str) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": node,
    })
}

/// With an identity that is always the same for the same name and group.
fn metadata(name: &str, group: &str, labels: &Value) -> Value {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    json!({
        "name": name,
        "namespace": NAMESPACE,
        "uid": format!("{:08x}-{group}-4000-8000-{:012x}", hash >> 32, hash & 0xffff_ffff_ffff),
        "creationTimestamp": "2020-01-01T00:00:00Z",
        "generation": 1,
        "labels": labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_each_given_once() {
        let stored = filling(FIXED..50_000);
        let keys: std::collections::BTreeSet<&String> = stored.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), stored.len());
        assert_eq!(stored.len(), 3 * 49_995);
        assert!(endpoints(50_000) < weir_abi::table::BACKENDS_CAPACITY);
    }
}
