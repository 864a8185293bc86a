use super::*;

fn reduce(json: &str) -> Result<EndpointSlice, ModelError> {
    EndpointSlice::reduce(&serde_json::from_str(json).expect("an EndpointSlice"))
}

/// A slice of service `cart` with these top-level fields.
fn with(fields: &str) -> Result<EndpointSlice, ModelError> {
    reduce(&format!(
        r#"{{"metadata": {{"namespace": "shop", "name": "cart-x", "labels": {{"kubernetes.io/service-name": "cart"}}}},
             {fields}}}"#
    ))
}

#[test]
fn a_whole_slice() {
    let slice = reduce(
        r#"{"metadata": {"namespace": "shop", "name": "cart-x",
                "labels": {"kubernetes.io/service-name": "cart"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05.5Z"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "west",
                 "conditions": {"ready": false, "serving": true, "terminating": true},
                 "hints": {"forZones": [{"name": "west"}, {"name": "east"}], "forNodes": [{"name": "n1"}]}},
                {"addresses": ["10.0.0.2"]}]}"#,
    )
    .expect("valid");
    assert_eq!(slice.name, ObjectName::new("shop", "cart-x"));
    assert_eq!(slice.service, Some(ObjectName::new("shop", "cart")));
    assert_eq!(slice.family, Some(Family::V4));
    let ports: Vec<_> = slice
        .ports
        .iter()
        .map(|p| (&*p.name, p.protocol, p.port))
        .collect();
    assert_eq!(
        ports,
        [("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 53)]
    );
    let trigger = slice.last_change_trigger.expect("a trigger time");
    assert_eq!(trigger.to_string(), "2026-01-02T03:04:05.5Z");

    let [first, second] = &slice.endpoints[..] else {
        panic!("two endpoints")
    };
    assert_eq!(first.addr.to_string(), "10.0.0.1");
    assert_eq!(
        (first.ready, first.serving, first.terminating),
        (false, true, true)
    );
    assert_eq!(
        (first.node.as_deref(), first.zone.as_deref()),
        (Some("n1"), Some("west"))
    );
    let hints = first.hints.as_ref().expect("hints");
    assert_eq!(hints.nodes.iter().map(|n| &**n).collect::<Vec<_>>(), ["n1"]);
    assert_eq!(
        hints.zones.iter().map(|z| &**z).collect::<Vec<_>>(),
        ["west", "east"]
    );
    assert_eq!(
        (second.node.as_deref(), second.zone.as_deref()),
        (None, None)
    );
    assert_eq!(second.hints, None);
}

#[test]
fn absent_conditions_mean_ready_serving_and_not_terminating() {
    for (conditions, expected) in [
        ("{}", (true, true, false)),
        (
            r#"{"ready": null, "serving": null, "terminating": null}"#,
            (true, true, false),
        ),
        (r#"{"ready": false}"#, (false, true, false)),
        (
            r#"{"ready": false, "terminating": true}"#,
            (false, true, true),
        ),
        (r#"{"serving": false}"#, (true, false, false)),
    ] {
        let slice = with(&format!(
            r#""addressType": "IPv6", "endpoints": [{{"addresses": ["fd00::1"], "conditions": {conditions}}}]"#
        ));
        let endpoint = &slice.expect("valid").endpoints[0];
        assert_eq!(
            (endpoint.ready, endpoint.serving, endpoint.terminating),
            expected,
            "{conditions}"
        );
    }
}

#[test]
fn only_the_first_address_counts() {
    let slice = with(
        r#""addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1", "what is this"]}]"#,
    );
    let addresses: Vec<_> = slice
        .expect("valid")
        .endpoints
        .iter()
        .map(|e| e.addr.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.1"]);
}

#[test]
fn empty_hints_are_none() {
    for hints in [
        "{}",
        r#"{"forZones": []}"#,
        r#"{"forZones": null, "forNodes": []}"#,
    ] {
        let slice = with(&format!(
            r#""addressType": "IPv4", "endpoints": [{{"addresses": ["10.0.0.1"], "hints": {hints}}}]"#
        ));
        assert_eq!(slice.expect("valid").endpoints[0].hints, None, "{hints}");
    }
}

#[test]
fn repeated_names_are_stored_once() {
    let endpoint = r#"{"addresses": ["10.0.0.1"], "nodeName": "n", "zone": "z", "hints": {"forZones": [{"name": "z"}]}}"#;
    let slice = with(&format!(
        r#""addressType": "IPv4", "endpoints": [{endpoint}, {endpoint}]"#
    ))
    .expect("valid");
    let [a, b] = &slice.endpoints[..] else {
        panic!("two endpoints")
    };
    let same = |a: &Option<Arc<str>>, b: &Option<Arc<str>>| {
        Arc::ptr_eq(a.as_ref().unwrap(), b.as_ref().unwrap())
    };
    assert!(same(&a.node, &b.node) && same(&a.zone, &b.zone));
    assert!(Arc::ptr_eq(
        a.hints.as_ref().unwrap(),
        b.hints.as_ref().unwrap()
    ));
}

#[test]
fn ports_without_a_number_are_passed_over() {
    let slice = with(
        r#""addressType": "IPv4", "endpoints": [],
           "ports": [{"name": "any"}, {"name": "zero", "port": 0}, {"port": 80}]"#,
    )
    .expect("valid");
    let ports: Vec<_> = slice
        .ports
        .iter()
        .map(|p| (&*p.name, p.protocol, p.port))
        .collect();
    assert_eq!(ports, [("", Protocol::Tcp, 80)]);
}

#[test]
fn slices_that_are_not_ours_are_empty_and_no_error() {
    let content = r#""endpoints": [{"addresses": ["host.example"]}], "ports": [{"port": -1}]"#;
    for address_type in ["FQDN", "Future"] {
        let slice =
            with(&format!(r#""addressType": "{address_type}", {content}"#)).expect("not an error");
        assert_eq!(slice.family, None);
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
    }
    for labels in [
        "",
        r#""kubernetes.io/service-name": """#,
        r#""kubernetes.io/service-name": "cart", "service.kubernetes.io/headless": """#,
        r#""kubernetes.io/service-name": "cart", "service.kubernetes.io/service-proxy-name": "other""#,
    ] {
        let slice = reduce(&format!(
            r#"{{"metadata": {{"name": "x", "labels": {{{labels}}}}}, "addressType": "IPv4", {content}}}"#
        ))
        .expect("not an error");
        assert_eq!(slice.service, None, "{labels}");
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
    }
}

#[test]
fn an_unreadable_trigger_time_is_ignored() {
    for (text, known) in [
        ("yesterday", false),
        ("", false),
        ("2026-01-02T03:04:05Z", true),
        ("2026-01-02T03:04:05.123456789+02:00", true),
    ] {
        let slice = reduce(&format!(
            r#"{{"metadata": {{"name": "x", "annotations": {{"endpoints.kubernetes.io/last-change-trigger-time": "{text}"}}}},
                 "addressType": "IPv4", "endpoints": []}}"#
        ));
        assert_eq!(
            slice.expect("valid").last_change_trigger.is_some(),
            known,
            "{text}"
        );
    }
}

#[test]
fn every_error_names_its_field_and_says_what_is_wrong() {
    for (fields, message) in [
        (
            r#""addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": []}]"#,
            "endpoints[1].addresses[0]: is missing; set it",
        ),
        (
            r#""addressType": "IPv4", "endpoints": [{"addresses": ["x"]}]"#,
            r#"endpoints[0].addresses[0]: "x" is not an IP address"#,
        ),
        (
            r#""addressType": "IPv6", "endpoints": [{"addresses": ["::"]}]"#,
            "endpoints[0].addresses[0]: :: is an unspecified or multicast address; give an address of a host",
        ),
        (
            r#""addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]"#,
            "endpoints[0].addresses[0]: fd00::1 is not an IPv4 address; put it into a slice of its own family",
        ),
        (
            r#""addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1"]}]"#,
            "endpoints[0].addresses[0]: 10.0.0.1 is not an IPv6 address; put it into a slice of its own family",
        ),
        (
            r#""addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}, {"port": 65536}]"#,
            "ports[1].port: 65536 is not a port (1-65535)",
        ),
        (
            r#""addressType": "IPv4", "endpoints": [], "ports": [{"port": 1, "protocol": "QUIC"}]"#,
            r#"ports[0].protocol: "QUIC" is not a protocol of a Service (TCP, UDP or SCTP)"#,
        ),
    ] {
        assert_eq!(with(fields).expect_err(fields).to_string(), message);
    }
    let error = reduce(r#"{"metadata": {}, "addressType": "IPv4", "endpoints": []}"#)
        .expect_err("nameless");
    assert_eq!(error.to_string(), "metadata.name: is missing; set it");
}
