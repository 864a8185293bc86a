use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use weir_abi::Address;
use weir_abi::service::scope;

use super::*;
use crate::model::{EndpointSlice, Kind, Object};
use crate::state::Change;

fn apply_service(cluster: &mut Cluster, labels: &str, spec: &str) {
    let json = format!(
        r#"{{"metadata": {{"namespace": "shop", "name": "cart", "labels": {{{labels}}}}}, "spec": {{{spec}}}}}"#
    );
    let api: core::Service = serde_json::from_str(&json).expect("a Service");
    let service = Service::reduce(&api).expect("valid");
    cluster.apply(Change::Apply(Object::Service(service)));
}

/// `ports` and `endpoints` are the insides of JSON arrays.
fn apply_slice(cluster: &mut Cluster, name: &str, family: &str, ports: &str, endpoints: &str) {
    let json = format!(
        r#"{{"metadata": {{"namespace": "shop", "name": "{name}", "labels": {{"kubernetes.io/service-name": "cart"}}}},
             "addressType": "{family}", "ports": [{ports}], "endpoints": [{endpoints}]}}"#
    );
    let api: discovery::EndpointSlice = serde_json::from_str(&json).expect("an EndpointSlice");
    let slice = EndpointSlice::reduce(&api).expect("valid");
    cluster.apply(Change::Apply(Object::EndpointSlice(slice)));
}

fn host(addr: Address, port_be: u16) -> String {
    format!("{}:{}", IpAddr::from(addr), u16::from_be(port_be))
}

/// One line for each frontend from within: its port's name, protocol and address, and where it leads.
fn compiled(cluster: &Cluster) -> Vec<String> {
    let desired = service(cluster, &ObjectName::new("shop", "cart"));
    assert_eq!(desired.name, ObjectName::new("shop", "cart"));
    let mut lines = Vec::new();
    for port in &desired.ports {
        for frontend in &port.frontends {
            let key = frontend.key;
            assert_eq!(key.proto, port.proto);
            if key.scope != scope::INTERNAL {
                continue;
            }
            let leads_to = match frontend.list {
                Some(list) => {
                    assert_eq!(frontend.verdict, Verdict::Translate);
                    let list = &port.lists[list];
                    assert!(list.iter().all(|backend| backend.proto == port.proto));
                    let backends: Vec<_> = list.iter().map(|b| host(b.addr, b.port_be)).collect();
                    backends.join(" ")
                }
                None => frontend.verdict.label().to_owned(),
            };
            let frontend = host(key.addr, key.port_be);
            lines.push(format!(
                "{}/{} {frontend} -> {leads_to}",
                port.port_name, port.proto
            ));
        }
    }
    lines
}

#[test]
fn every_port_in_both_families_leads_to_its_own_endpoints() {
    let mut cluster = Cluster::new("n1");
    apply_service(
        &mut cluster,
        "",
        r#""clusterIPs": ["10.96.0.1", "fd00:96::1"],
           "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"},
                     {"name": "sig", "port": 9, "protocol": "SCTP"}]"#,
    );
    let ports =
        r#"{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}"#;
    apply_slice(
        &mut cluster,
        "a",
        "IPv4",
        ports,
        r#"{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.1"]}"#,
    );
    // The same named target port can have another number in another pod.
    apply_slice(
        &mut cluster,
        "b",
        "IPv4",
        r#"{"name": "http", "port": 9090}"#,
        r#"{"addresses": ["10.0.0.3"]}"#,
    );
    apply_slice(
        &mut cluster,
        "c",
        "IPv6",
        ports,
        r#"{"addresses": ["fd00::1"]}"#,
    );
    assert_eq!(
        compiled(&cluster),
        [
            "http/6 10.96.0.1:80 -> 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:9090",
            "http/6 fd00:96::1:80 -> fd00::1:8080",
            "dns/17 10.96.0.1:53 -> 10.0.0.1:5353 10.0.0.2:5353",
            "dns/17 fd00:96::1:53 -> fd00::1:5353",
            "sig/132 10.96.0.1:9 -> no_endpoints",
            "sig/132 fd00:96::1:9 -> no_endpoints",
        ]
    );
}

#[test]
fn the_internal_policy_decides_and_says_why_there_is_nothing() {
    let ports = r#"{"port": 8080}"#;
    let here = r#"{"addresses": ["10.0.0.1"], "nodeName": "n1"}"#;
    let there = r#"{"addresses": ["10.0.0.2"], "nodeName": "n2"}"#;
    let unready =
        r#"{"addresses": ["10.0.0.3"], "nodeName": "n1", "conditions": {"ready": false}}"#;
    for (policy, endpoints, expected) in [
        (
            "Cluster",
            format!("{here}, {there}"),
            "10.0.0.1:8080 10.0.0.2:8080",
        ),
        ("Local", format!("{here}, {there}"), "10.0.0.1:8080"),
        ("Local", there.to_owned(), "no_local_endpoints"),
        ("Cluster", there.to_owned(), "10.0.0.2:8080"),
        ("Local", unready.to_owned(), "no_endpoints"),
        ("Cluster", unready.to_owned(), "no_endpoints"),
        ("Cluster", String::new(), "no_endpoints"),
    ] {
        let mut cluster = Cluster::new("n1");
        let spec = format!(
            r#""clusterIP": "10.96.0.1", "ports": [{{"port": 80}}], "internalTrafficPolicy": "{policy}""#
        );
        apply_service(&mut cluster, "", &spec);
        apply_slice(&mut cluster, "a", "IPv4", ports, &endpoints);
        assert_eq!(
            compiled(&cluster),
            [format!("/6 10.96.0.1:80 -> {expected}")],
            "{policy} {endpoints}"
        );
    }
}

#[test]
fn zone_hints_count_once_the_node_is_known() {
    let mut cluster = Cluster::new("n1");
    apply_service(
        &mut cluster,
        "",
        r#""clusterIP": "10.96.0.1", "ports": [{"port": 80}]"#,
    );
    let endpoints = r#"{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "east"}]}},
                       {"addresses": ["10.0.0.2"], "hints": {"forZones": [{"name": "west"}]}}"#;
    apply_slice(&mut cluster, "a", "IPv4", r#"{"port": 80}"#, endpoints);
    assert_eq!(
        compiled(&cluster),
        ["/6 10.96.0.1:80 -> 10.0.0.1:80 10.0.0.2:80"]
    );
    let node: core::Node = serde_json::from_str(
        r#"{"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "west"}}}"#,
    )
    .expect("a Node");
    let node = crate::model::Node::reduce(&node).expect("valid");
    let dirty = cluster.apply(Change::Apply(Object::Node(node)));
    assert!(dirty.services.contains(&ObjectName::new("shop", "cart")));
    assert_eq!(compiled(&cluster), ["/6 10.96.0.1:80 -> 10.0.0.2:80"]);
}

#[test]
fn services_that_are_left_alone_have_nothing_also_when_that_toggles() {
    let mut cluster = Cluster::new("n1");
    let spec = r#""clusterIP": "10.96.0.1", "ports": [{"port": 80}]"#;
    let balanced = ["/6 10.96.0.1:80 -> 10.0.0.1:80"];
    let nothing: [&str; 0] = [];
    assert_eq!(compiled(&cluster), nothing);
    apply_slice(
        &mut cluster,
        "a",
        "IPv4",
        r#"{"port": 80}"#,
        r#"{"addresses": ["10.0.0.1"]}"#,
    );
    assert_eq!(compiled(&cluster), nothing);
    for (labels, away) in [
        (
            r#""service.kubernetes.io/service-proxy-name": "other""#,
            spec,
        ),
        (r#""service.kubernetes.io/headless": """#, spec),
        ("", r#""clusterIP": "None", "ports": [{"port": 80}]"#),
        (
            "",
            r#""type": "ExternalName", "externalName": "example.org", "ports": [{"port": 80}]"#,
        ),
    ] {
        apply_service(&mut cluster, "", spec);
        assert_eq!(compiled(&cluster), balanced);
        apply_service(&mut cluster, labels, away);
        assert_eq!(compiled(&cluster), nothing, "{labels} {away}");
    }
    apply_service(&mut cluster, "", spec);
    cluster.apply(Change::Delete(
        Kind::Service,
        ObjectName::new("shop", "cart"),
    ));
    assert_eq!(compiled(&cluster), nothing);
}
