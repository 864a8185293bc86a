use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::*;

fn service(name: &str, spec: &str) -> Object {
    let json =
        format!(r#"{{"metadata": {{"namespace": "shop", "name": "{name}"}}, "spec": {{{spec}}}}}"#);
    let api: core::Service = serde_json::from_str(&json).expect("a Service");
    Object::Service(Service::reduce(&api).expect("valid"))
}

/// A slice of `service` with one endpoint in IPv4, and further fields of the endpoint.
fn slice(name: &str, service: &str, trigger: &str, endpoint: &str) -> Object {
    let json = format!(
        r#"{{"metadata": {{"namespace": "shop", "name": "{name}",
                 "labels": {{"kubernetes.io/service-name": "{service}"}},
                 "annotations": {{"endpoints.kubernetes.io/last-change-trigger-time": "{trigger}"}}}},
             "addressType": "IPv4", "ports": [{{"name": "http", "port": 80}}],
             "endpoints": [{{"addresses": ["10.0.0.1"] {endpoint}}}]}}"#
    );
    let api: discovery::EndpointSlice = serde_json::from_str(&json).expect("an EndpointSlice");
    Object::EndpointSlice(EndpointSlice::reduce(&api).expect("valid"))
}

fn node(name: &str, zone: &str) -> Object {
    let json = format!(
        r#"{{"metadata": {{"name": "{name}", "labels": {{"topology.kubernetes.io/zone": "{zone}"}}}}}}"#
    );
    let api: core::Node = serde_json::from_str(&json).expect("a Node");
    Object::Node(Node::reduce(&api).expect("valid"))
}

fn pod(name: &str) -> Object {
    let json = format!(
        r#"{{"metadata": {{"namespace": "shop", "name": "{name}", "labels": {{"app": "a"}}}}, "spec": {{"nodeName": "n1", "containers": []}}}}"#
    );
    let api: core::Pod = serde_json::from_str(&json).expect("a Pod");
    Object::Pod(Pod::reduce(&api).expect("valid"))
}

fn namespace(name: &str) -> Object {
    let api: core::Namespace =
        serde_json::from_str(&format!(r#"{{"metadata": {{"name": "{name}"}}}}"#))
            .expect("a Namespace");
    Object::Namespace(Namespace::reduce(&api).expect("valid"))
}

const NOON: &str = "2026-01-01T12:00:00Z";
const ONE: &str = "2026-01-01T13:00:00Z";

fn names(dirty: &Dirty) -> Vec<String> {
    dirty.services.iter().map(ObjectName::to_string).collect()
}

#[test]
fn a_service_is_dirty_when_it_comes_changes_or_goes_and_not_otherwise() {
    let mut cluster = Cluster::new("n1");
    let ip = |last: u8| format!(r#""clusterIP": "10.96.0.{last}""#);
    let mut dirty = |change| names(&cluster.apply(change));
    assert_eq!(dirty(Change::Apply(service("cart", &ip(1)))), ["shop/cart"]);
    assert!(dirty(Change::Apply(service("cart", &ip(1)))).is_empty());
    // What Weir does not read is no change.
    let selector = format!(r#"{}, "selector": {{"a": "b"}}"#, ip(1));
    assert!(dirty(Change::Apply(service("cart", &selector))).is_empty());
    assert_eq!(dirty(Change::Apply(service("cart", &ip(2)))), ["shop/cart"]);
    let cart = ObjectName::new("shop", "cart");
    assert_eq!(
        dirty(Change::Delete(Kind::Service, cart.clone())),
        ["shop/cart"]
    );
    assert!(dirty(Change::Delete(Kind::Service, cart)).is_empty());
}

#[test]
fn a_slice_makes_its_service_dirty_and_the_one_it_left() {
    let mut cluster = Cluster::new("n1");
    let slices_of = |cluster: &Cluster, service: &str| -> Vec<String> {
        let service = ObjectName::new("shop", service);
        cluster
            .slices_of(&service)
            .map(|slice| slice.name.to_string())
            .collect()
    };
    let dirty = cluster.apply(Change::Apply(slice("b", "cart", NOON, "")));
    assert_eq!(names(&dirty), ["shop/cart"]);
    assert_eq!(
        dirty
            .triggers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [NOON]
    );
    cluster.apply(Change::Apply(slice("a", "cart", NOON, "")));
    assert_eq!(slices_of(&cluster, "cart"), ["shop/a", "shop/b"]);

    let dirty = cluster.apply(Change::Apply(slice("b", "till", NOON, "")));
    assert_eq!(names(&dirty), ["shop/cart", "shop/till"]);
    assert_eq!(slices_of(&cluster, "cart"), ["shop/a"]);
    assert_eq!(slices_of(&cluster, "till"), ["shop/b"]);

    let dirty = cluster.apply(Change::Delete(
        Kind::EndpointSlice,
        ObjectName::new("shop", "b"),
    ));
    assert_eq!(names(&dirty), ["shop/till"]);
    assert!(slices_of(&cluster, "till").is_empty());
}

#[test]
fn a_new_trigger_time_alone_is_no_change() {
    let mut cluster = Cluster::new("n1");
    cluster.apply(Change::Apply(slice("a", "cart", NOON, "")));
    let dirty = cluster.apply(Change::Apply(slice("a", "cart", ONE, "")));
    assert_eq!(dirty, Dirty::default());
    let changed = slice("a", "cart", ONE, r#", "conditions": {"ready": false}"#);
    let dirty = cluster.apply(Change::Apply(changed));
    assert_eq!(names(&dirty), ["shop/cart"]);
    assert_eq!(dirty.triggers.len(), 1);
}

#[test]
fn a_new_zone_of_this_node_concerns_services_with_zone_hints() {
    let mut cluster = Cluster::new("n1");
    let hinted = r#", "hints": {"forZones": [{"name": "west"}]}"#;
    let node_hinted = r#", "hints": {"forNodes": [{"name": "n1"}]}"#;
    cluster.apply(Change::Apply(slice("a", "zoned", NOON, hinted)));
    cluster.apply(Change::Apply(slice("b", "plain", NOON, "")));
    cluster.apply(Change::Apply(slice("c", "noded", NOON, node_hinted)));
    let mut dirty = |change| names(&cluster.apply(change));
    assert_eq!(dirty(Change::Apply(node("n1", "west"))), ["shop/zoned"]);
    assert!(dirty(Change::Apply(node("n1", "west"))).is_empty());
    assert!(dirty(Change::Apply(node("n2", "east"))).is_empty());
    assert_eq!(dirty(Change::Apply(node("n1", "east"))), ["shop/zoned"]);
    assert_eq!(
        dirty(replace(Kind::Node, vec![node("n2", "east")])),
        ["shop/zoned"]
    );
    assert!(dirty(Change::Delete(Kind::Node, ObjectName::cluster_scoped("n1"))).is_empty());
}

#[test]
fn a_relist_makes_dirty_just_what_differs() {
    let mut cluster = Cluster::new("n1");
    let ip = |last: u8| format!(r#""clusterIP": "10.96.0.{last}""#);
    let all = |changed: u8| vec![service("same", &ip(1)), service("changed", &ip(changed))];
    let dirty = cluster.apply(replace(Kind::Service, all(2)));
    assert_eq!(names(&dirty), ["shop/changed", "shop/same"]);
    cluster.apply(Change::Apply(service("gone", &ip(3))));
    let dirty = cluster.apply(replace(Kind::Service, all(4)));
    assert_eq!(names(&dirty), ["shop/changed", "shop/gone"]);
    assert!(cluster.apply(replace(Kind::Service, all(4))).is_empty());
    assert_eq!(cluster.count(Kind::Service), 2);

    cluster.apply(Change::Apply(slice("a", "same", NOON, "")));
    let dirty = cluster.apply(replace(
        Kind::EndpointSlice,
        vec![slice("b", "same", NOON, "")],
    ));
    assert_eq!(names(&dirty), ["shop/same"]);
    assert_eq!(
        cluster.slices_of(&ObjectName::new("shop", "same")).count(),
        1
    );
}

#[test]
fn what_a_relist_could_not_read_stays_as_it_was() {
    let mut cluster = Cluster::new("n1");
    let cart = ObjectName::new("shop", "cart");
    cluster.apply(Change::Apply(service(
        "cart",
        r#""clusterIP": "10.96.0.1""#,
    )));
    let dirty = cluster.apply(Change::Replace {
        kind: Kind::Service,
        objects: Vec::new(),
        keep: vec![cart.clone(), ObjectName::new("shop", "never-read")],
    });
    assert!(dirty.is_empty());
    assert!(cluster.service(&cart).is_some());
    assert_eq!(cluster.count(Kind::Service), 1);
}

#[test]
fn everything_is_found_by_its_name_and_gone_when_deleted() {
    let mut cluster = Cluster::new("n1");
    assert_eq!(cluster.this_node(), None);
    for object in [
        service("cart", r#""clusterIP": "10.96.0.1""#),
        slice("a", "cart", NOON, ""),
        node("n1", "west"),
        namespace("shop"),
        pod("cart-0"),
    ] {
        let (kind, name) = (object.kind(), object.name());
        cluster.apply(Change::Apply(object));
        assert_eq!(cluster.count(kind), 1, "{kind} {name}");
    }
    assert!(cluster.service(&ObjectName::new("shop", "cart")).is_some());
    assert_eq!(cluster.this_node(), cluster.node("n1"));
    assert_eq!(cluster.this_zone().map(|zone| &**zone), Some("west"));
    assert!(cluster.namespace("shop").is_some());
    assert!(cluster.pod(&ObjectName::new("shop", "cart-0")).is_some());
    assert_eq!(
        (
            cluster.services().count(),
            cluster.pods().count(),
            cluster.nodes().count()
        ),
        (1, 1, 1)
    );
    for kind in Kind::ALL {
        cluster.apply(replace(kind, Vec::new()));
        assert_eq!(cluster.count(kind), 0, "{kind}");
    }
    assert!(cluster.slices_by_service.is_empty());
}

#[test]
fn names_that_repeat_between_slices_are_stored_once() {
    let mut cluster = Cluster::new("n1");
    let endpoint =
        r#", "nodeName": "n1", "zone": "west", "hints": {"forZones": [{"name": "west"}]}"#;
    for name in ["a", "b"] {
        cluster.apply(Change::Apply(slice(name, "cart", NOON, endpoint)));
    }
    let cart = ObjectName::new("shop", "cart");
    let slices: Vec<_> = cluster.slices_of(&cart).collect();
    let [a, b] = &slices[..] else {
        panic!("two slices")
    };
    assert!(Arc::ptr_eq(&a.name.namespace, &b.name.namespace));
    let (a, b) = (&a.endpoints[0], &b.endpoints[0]);
    let (node, hints) = (a.node.as_ref().unwrap(), a.hints.as_ref().unwrap());
    assert!(Arc::ptr_eq(node, b.node.as_ref().unwrap()) && Arc::ptr_eq(node, &cluster.node_name));
    assert!(Arc::ptr_eq(hints, b.hints.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&hints.zones[0], a.zone.as_ref().unwrap()));
}

#[test]
fn dirt_merges() {
    let mut cluster = Cluster::new("n1");
    let mut dirty = Dirty::default();
    assert!(dirty.is_empty());
    dirty.merge(cluster.apply(Change::Apply(slice("a", "cart", NOON, ""))));
    dirty.merge(cluster.apply(Change::Apply(slice("b", "till", ONE, ""))));
    assert!(!dirty.is_empty());
    assert_eq!(names(&dirty), ["shop/cart", "shop/till"]);
    assert_eq!(dirty.triggers.len(), 2);
}

fn replace(kind: Kind, objects: Vec<Object>) -> Change {
    Change::Replace {
        kind,
        objects,
        keep: Vec::new(),
    }
}

/// What was deleted, by address and port.
fn deleted(dirty: &Dirty) -> Vec<String> {
    let address = |backend: &BackendAddr| {
        let port = u16::from_be(backend.port_be);
        std::net::SocketAddr::new(backend.addr.into(), port).to_string()
    };
    dirty.deleted.iter().map(address).collect()
}

#[test]
fn an_endpoint_is_deleted_when_the_last_slice_has_let_it_go() {
    let mut cluster = Cluster::new("n1");
    let gone = |name: &str| Change::Delete(Kind::EndpointSlice, ObjectName::new("shop", name));
    let mut apply = |change| deleted(&cluster.apply(change));
    let one = ["10.0.0.1:80"];
    assert!(apply(Change::Apply(slice("a", "cart", NOON, ""))).is_empty());
    // The same endpoint in another service's slice.
    assert!(apply(Change::Apply(slice("b", "till", NOON, ""))).is_empty());
    // Neither is an end: unready, terminating, in one slice less.
    let terminating = r#", "conditions": {"ready": false, "serving": false, "terminating": true}"#;
    assert!(apply(Change::Apply(slice("a", "cart", NOON, terminating))).is_empty());
    assert!(apply(gone("b")).is_empty());
    assert_eq!(apply(gone("a")), one);

    // Deleted with its service, an endpoint may live on.
    apply(Change::Apply(slice("a", "cart", NOON, "")));
    assert!(apply(gone("a")).is_empty());
    apply(Change::Apply(slice("a", "cart", NOON, terminating)));
    assert_eq!(apply(replace(Kind::EndpointSlice, Vec::new())), one);
    // A slice that is no service's keeps nobody.
    apply(Change::Apply(slice("a", "cart", NOON, "")));
    let Object::EndpointSlice(mut orphan) = slice("a", "cart", NOON, "") else {
        panic!("a slice")
    };
    orphan.service = None;
    assert_eq!(apply(Change::Apply(Object::EndpointSlice(orphan))), one);
}

#[test]
fn an_endpoint_that_came_back_is_known() {
    let mut cluster = Cluster::new("n1");
    cluster.apply(Change::Apply(slice("a", "cart", NOON, "")));
    let Object::EndpointSlice(mut empty) = slice("a", "cart", NOON, "") else {
        panic!("a slice")
    };
    empty.endpoints = Vec::new();
    let mut dirty = cluster.apply(Change::Apply(Object::EndpointSlice(empty)));
    let endpoint = *dirty.deleted.first().expect("deleted");
    assert!(!cluster.has_endpoint(&endpoint));
    dirty.merge(cluster.apply(Change::Apply(slice("b", "cart", NOON, ""))));
    assert_eq!(dirty.deleted.len(), 1);
    assert!(cluster.has_endpoint(&endpoint));
}

#[test]
fn a_pod_that_was_given_other_labels_lives_on_and_one_that_ends_does_not() {
    let mut cluster = Cluster::new("n1");
    let pod = |extra: &str| {
        let json = format!(
            r#"{{"metadata": {{"namespace": "shop", "name": "cart-0" {extra}}},
                 "status": {{"phase": "Running", "podIPs": [{{"ip": "10.0.0.1"}}]}}}}"#
        );
        let api: core::Pod = serde_json::from_str(&json).expect("a Pod");
        Change::Apply(Object::Pod(Pod::reduce(&api).expect("valid")))
    };
    cluster.apply(pod(""));
    cluster.apply(Change::Apply(slice("a", "cart", NOON, "")));
    let Object::EndpointSlice(mut empty) = slice("a", "cart", NOON, "") else {
        panic!("a slice")
    };
    empty.endpoints = Vec::new();
    let dirty = cluster.apply(Change::Apply(Object::EndpointSlice(empty)));
    let endpoint = *dirty.deleted.first().expect("no endpoint any more");
    assert!(cluster.lives(&endpoint), "only its labels are others");
    cluster.apply(pod(r#", "deletionTimestamp": "2026-01-01T12:00:00Z""#));
    assert!(!cluster.lives(&endpoint));
}
