//! What is in a file.

use std::path::Path;

use weir_core::model::{Object, ObjectName};

use super::service;
use crate::source::manifests::documents::{Broken, documents};
use crate::source::manifests::object::{Found, find};

/// The lines and names of what a file holds.
fn read(file: &str, text: &str) -> Result<Vec<(usize, String)>, Broken> {
    let documents = documents(Path::new(file), text.as_bytes())?;
    let seen = documents.into_iter().map(|document| {
        let found = match find(document.value) {
            Found::Object(kind, name, Ok(_)) => format!("{kind} {name}"),
            Found::Object(kind, name, Err(error)) => format!("{kind} {name}: {error}"),
            Found::LeftOut => "left out".to_owned(),
            Found::OtherKind => "other".to_owned(),
            Found::Nameless(error) => error,
        };
        (document.line, found)
    });
    Ok(seen.collect())
}

fn seen(file: &str, text: &str) -> Vec<(usize, String)> {
    read(file, text).expect("a file that can be taken apart")
}

fn lines<const N: usize>(expected: [(usize, &str); N]) -> Vec<(usize, String)> {
    expected
        .map(|(line, text)| (line, text.to_owned()))
        .to_vec()
}

#[test]
fn a_file_holds_any_number_of_documents() {
    let (a, b) = (service("a", 80), service("b", 80));
    let text =
        format!("# first\n\n---\n---\n# a comment\n{a}---\n# nothing but a comment\n---\n{b}...\n");
    assert_eq!(
        seen("x.yaml", &text),
        lines([(6, "Service default/a"), (17, "Service default/b")])
    );
    assert_eq!(seen("x.yaml", ""), []);
    let marked = "\u{feff}---\r\nkind: Node\r\napiVersion: v1\r\nmetadata: {name: n}\r\n";
    assert_eq!(seen("x.yaml", marked), lines([(2, "Node n")]));
}

#[test]
fn a_line_of_dashes_within_a_block_is_no_separator() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  8080: x\n  text: |\n    ---\n    kind: Service\n";
    assert_eq!(seen("x.yaml", text), lines([(1, "other")]));
}

#[test]
fn lists_count_as_their_items() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop, namespace: x}}\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n";
    assert_eq!(
        seen("x.yml", list),
        lines([(1, "Namespace shop"), (1, "other")])
    );
    let typed = r#"
        {"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "n1"}}]}
	{"kind": "NodeList", "apiVersion": "v1", "items": []}
        null
        {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "tabs"}}"#;
    assert_eq!(
        seen("x.json", typed),
        lines([(2, "Node n1"), (5, "Namespace tabs")])
    );
}

#[test]
fn an_api_servers_defaults_are_filled_in() {
    let documents = documents(Path::new("x.yaml"), service("web", 80).as_bytes());
    let document = documents.expect("fine").remove(0);
    let Found::Object(_, name, Ok(object)) = find(document.value) else {
        panic!("no object");
    };
    let Object::Service(service) = &*object else {
        panic!("no Service");
    };
    assert_eq!(name, ObjectName::new("default", "web"));
    assert_eq!(service.name, name);
    let address: std::net::IpAddr = "10.96.0.9".parse().expect("an address");
    assert_eq!(service.cluster_ips, [address]);
    assert_eq!(service.left_alone, None);
}

#[test]
fn anchors_and_merge_keys_work_as_in_kubectl() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: &m {name: a, namespace: shop}\nspec:\n  clusterIP: 10.96.0.9\n  ports:\n  - &p {name: x, port: 80}\n  - {<<: *p, name: y, nodePort: 30001, protocol: UDP}\n";
    let documents = documents(Path::new("x.yaml"), text.as_bytes());
    let document = documents.expect("fine").remove(0);
    let Found::Object(_, name, Ok(object)) = find(document.value) else {
        panic!("no object");
    };
    let Object::Service(service) = &*object else {
        panic!("no Service");
    };
    assert_eq!(name, ObjectName::new("shop", "a"));
    let ports: Vec<_> = service.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 80]);
}

#[test]
fn labels_leave_out_what_an_api_server_would_not_have_sent() {
    let labelled = |kind: &str, version: &str, label: &str| {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, labels: {{service.kubernetes.io/{label}: ''}}}}\naddressType: IPv4\nendpoints: []\n"
        );
        seen("x.yaml", &text).remove(0).1
    };
    let slice = "discovery.k8s.io/v1";
    assert_eq!(labelled("Service", "v1", "headless"), "left out");
    assert_eq!(labelled("Service", "v1", "service-proxy-name"), "left out");
    assert_eq!(labelled("EndpointSlice", slice, "headless"), "left out");
    assert_eq!(
        labelled("EndpointSlice", slice, "service-proxy-name"),
        "EndpointSlice default/x"
    );
}

#[test]
fn a_file_that_cannot_be_taken_apart_is_refused_with_the_line() {
    let unclosed = "kind: Service\n---\nkind: \"Node\nmetadata:\n";
    let scalar = "while scanning a quoted scalar at line 3 column 7";
    let table = [
        ("x.yaml", "a: [1\nb: 2\n", 2, "not YAML"),
        ("x.yaml", unclosed, 5, scalar),
        ("x.yaml", "---\n# c\njust text\n", 3, "no kind"),
        ("x.yaml", "kind: List\nitems: {}\n", 1, "must be a sequence"),
        (
            "x.yaml",
            "kind: List\nitems: [7]\n",
            1,
            "items[0] is not an object",
        ),
        ("x.json", "{\n\"kind\": \"Node\",\n}\n", 3, "not JSON"),
        ("x.yaml", "kind: Node\nx: \u{0}\n", 1, "not YAML"),
    ];
    for (file, text, line, fragment) in table {
        let broken = read(file, text).expect_err(text);
        assert_eq!(broken.line, Some(line), "{text:?}: {broken:?}");
        assert!(broken.error.contains(fragment), "{text:?}: {broken:?}");
    }
    let latin = documents(Path::new("x.yaml"), b"kind: Node\n\nname: f\xfcr\n");
    assert_eq!(latin.expect_err("not UTF-8").line, Some(3));
}

#[test]
fn an_object_that_is_wrong_says_what_is_wrong_with_it() {
    let unnamed = "apiVersion: v1\nkind: Service\nmetadata: {}\n".to_owned();
    let beta = "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: s}\n";
    let knative = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: s}\n";
    let table = [
        (
            service("a", 70_000),
            "Service default/a: spec.ports[0].port: 70000 is not a port (1-65535)",
        ),
        (unnamed, "metadata.name: is missing; set it"),
        (
            beta.to_owned(),
            "EndpointSlice default/s: apiVersion: \"discovery.k8s.io/v1beta1\" is not read; write discovery.k8s.io/v1",
        ),
        (knative.to_owned(), "other"),
    ];
    for (text, expected) in table {
        assert_eq!(seen("x.yaml", &text), lines([(1, expected)]));
    }
    let text = service("a", 80).replace("port: 80", "port: eighty");
    let error = seen("x.yaml", &text).remove(0).1;
    assert!(
        error.contains("spec.ports[0].port: invalid type: string \"eighty\""),
        "{error}"
    );
}
