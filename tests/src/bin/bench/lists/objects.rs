//! A cluster's objects as an API server sends them: with the labels, annotations, owners and managed fields that real ones
//! have, which are most of their bytes.

use serde_json::{Value, json};

const NODES: u32 = 100;
const NAMESPACES: u32 = 100;
const PODS_HERE: u32 = 30;

/// The name of the node that the agent is told it runs on.
pub(super) const THIS_NODE: &str = "node-0";

/// Where the EndpointSlices are.
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// The lists that the agent asks for: by path, each item as its JSON text.
pub(super) fn lists(services: u32, endpoints: u32) -> Vec<(&'static str, Vec<String>)> {
    let text = |count: u32, object: &dyn Fn(u32) -> Value| -> Vec<String> {
        (0..count)
            .map(|number| object(number).to_string())
            .collect()
    };
    vec![
        ("/api/v1/services", text(services, &service)),
        (
            SLICES,
            text(services, &|number| slice(number, endpoints, 0)),
        ),
        ("/api/v1/nodes", text(1, &node)),
        ("/api/v1/namespaces", text(NAMESPACES, &namespace)),
        ("/api/v1/pods", text(PODS_HERE, &pod)),
    ]
}

fn names(number: u32) -> (String, String) {
    (
        format!("team-{:02}", number % NAMESPACES),
        format!("shop-backend-{number}"),
    )
}

fn uid(kind: u32, number: u32) -> String {
    format!("{kind:08x}-7c1d-4e2b-9a55-{number:012x}")
}

fn labels(name: &str) -> Value {
    json!({
        "app.kubernetes.io/component": "backend",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/name": "shop-backend",
        "app.kubernetes.io/part-of": "shop",
        "app.kubernetes.io/version": "4.17.2",
        "helm.sh/chart": "shop-backend-4.17.2",
        "tier": "backend",
    })
}

fn service(number: u32) -> Value {
    let (namespace, name) = names(number);
    let address = format!(
        "10.{}.{}.{}",
        64 + number / 62500,
        number / 250 % 250,
        1 + number % 250
    );
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid(1, number),
            "resourceVersion": (100_000 + number).to_string(),
            "creationTimestamp": "2026-03-14T09:26:53Z",
            "labels": labels(&name),
            "annotations": {
                "meta.helm.sh/release-name": name,
                "meta.helm.sh/release-namespace": namespace,
                "prometheus.io/port": "9090",
                "prometheus.io/scrape": "true",
            },
            "managedFields": [{
                "manager": "helm", "operation": "Update", "apiVersion": "v1",
                "time": "2026-03-14T09:26:53Z", "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {
                        "f:annotations": {
                            ".": {}, "f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {},
                            "f:prometheus.io/port": {}, "f:prometheus.io/scrape": {},
                        },
                        "f:labels": {
                            ".": {}, "f:app.kubernetes.io/component": {}, "f:app.kubernetes.io/instance": {},
                            "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/name": {},
                            "f:app.kubernetes.io/part-of": {}, "f:app.kubernetes.io/version": {},
                            "f:helm.sh/chart": {}, "f:tier": {},
                        },
                    },
                    "f:spec": {
                        "f:internalTrafficPolicy": {},
                        "f:ports": {
                            ".": {},
                            "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {},
                            },
                        },
                        "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
                    },
                },
            }],
        },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
            "selector": {"app.kubernetes.io/instance": name, "app.kubernetes.io/name": "shop-backend"},
            "sessionAffinity": "None", "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    })
}

/// `version` other than 0: the last endpoint has moved to another address.
pub(super) fn slice(number: u32, endpoints: u32, version: u32) -> Value {
    let (namespace, service) = names(number);
    let name = format!("{service}-x7k2p");
    let endpoints: Vec<Value> = (0..endpoints)
        .map(|n| {
            let id = number * endpoints + n;
            let moved = if n + 1 == endpoints { version } else { 0 };
            let address = format!(
                "{}.{}.{}.{}",
                10 + moved,
                128 + id / 62500,
                id / 250 % 250,
                1 + id % 250
            );
            json!({
                "addresses": [address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", id % NODES),
                "targetRef": {
                    "kind": "Pod", "name": format!("{service}-6d4b75cb6d-{id:05x}"),
                    "namespace": namespace, "uid": uid(2, id),
                },
                "zone": format!("eu-west-1{}", ["a", "b", "c"][(id % 3) as usize]),
            })
        })
        .collect();
    let mut labels = labels(&service);
    labels["kubernetes.io/service-name"] = json!(service);
    labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslice-controller.k8s.io");
    json!({
        "metadata": {
            "name": name, "generateName": format!("{service}-"), "namespace": namespace,
            "uid": uid(3, number), "generation": 7 + version,
            "resourceVersion": (300_000 + number + 100_000 * version).to_string(),
            "creationTimestamp": "2026-03-14T09:26:53Z",
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-03-15T10:00:00Z"},
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "blockOwnerDeletion": true, "controller": true, "kind": "Service",
                "name": service, "uid": uid(1, number),
            }],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update",
                "apiVersion": "discovery.k8s.io/v1", "time": "2026-03-15T10:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:addressType": {}, "f:endpoints": {},
                    "f:metadata": {
                        "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
                        "f:generateName": {},
                        "f:labels": {
                            ".": {}, "f:app.kubernetes.io/component": {}, "f:app.kubernetes.io/instance": {},
                            "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/name": {},
                            "f:app.kubernetes.io/part-of": {}, "f:app.kubernetes.io/version": {},
                            "f:endpointslice.kubernetes.io/managed-by": {}, "f:helm.sh/chart": {},
                            "f:kubernetes.io/service-name": {}, "f:tier": {},
                        },
                        "f:ownerReferences": {".": {}, format!("k:{{\"uid\":\"{}\"}}", uid(1, number)): {}},
                    },
                    "f:ports": {},
                },
            }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

fn node(_number: u32) -> Value {
    let images: Vec<Value> = (0..40)
        .map(|n| {
            let name = format!("registry.example/team/image-{n}");
            json!({"names": [format!("{name}@sha256:{n:064x}"), format!("{name}:1.{n}")], "sizeBytes": 70_000_000 + n})
        })
        .collect();
    json!({
        "metadata": {
            "name": THIS_NODE, "uid": uid(4, 0), "resourceVersion": "99",
            "labels": {"kubernetes.io/hostname": THIS_NODE, "topology.kubernetes.io/zone": "eu-west-1a"},
        },
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {
            "addresses": [{"address": "192.0.2.1", "type": "InternalIP"}, {"address": THIS_NODE, "type": "Hostname"}],
            "images": images,
        },
    })
}

fn namespace(number: u32) -> Value {
    let name = format!("team-{number:02}");
    json!({
        "metadata": {
            "name": name, "uid": uid(5, number), "resourceVersion": "98",
            "labels": {"kubernetes.io/metadata.name": name, "pod-security.kubernetes.io/enforce": "baseline"},
        },
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    })
}

fn pod(number: u32) -> Value {
    let (namespace, name) = names(number);
    let address = format!("10.244.0.{}", 10 + number);
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid(2, number), "resourceVersion": "97",
            "labels": labels(&name),
        },
        "spec": {
            "nodeName": THIS_NODE,
            "containers": [{"name": "main", "image": "registry.example/team/image-1:1.1", "ports": [{"containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}
