use super::*;

fn reduce(json: &str) -> Result<Service, ModelError> {
    Service::reduce(&serde_json::from_str(json).expect("a Service"))
}

/// A service with these fields of `spec` besides a cluster IP.
fn with_spec(fields: &str) -> Result<Service, ModelError> {
    let comma = if fields.is_empty() { "" } else { "," };
    reduce(&format!(
        r#"{{"metadata": {{"namespace": "shop", "name": "cart"}},
             "spec": {{"clusterIP": "10.96.0.1"{comma} {fields}}}}}"#
    ))
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

#[test]
fn a_whole_service() {
    let service = reduce(
        r#"{"metadata": {"namespace": "shop", "name": "cart"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"},
                          {"name": "dns", "port": 80, "protocol": "UDP"},
                          {"name": "sig", "port": 81, "protocol": "SCTP", "nodePort": 0}],
                "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
                "externalIPs": ["192.0.2.1", "2001:db8::1"], "healthCheckNodePort": 31000,
                "loadBalancerSourceRanges": [" 198.51.100.7/24 ", "2001:db8::/32"],
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "publishNotReadyAddresses": true},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"}, {"ip": "203.0.113.3", "ipMode": "Proxy"},
                {"ip": "203.0.113.4", "ipMode": "Future"}, {"hostname": "lb.example"}, {"ip": ""}]}}}"#,
    )
    .expect("valid");
    assert_eq!(service.name, ObjectName::new("shop", "cart"));
    assert_eq!(service.service_type, ServiceType::LoadBalancer);
    assert_eq!(service.left_alone, None);
    assert_eq!(texts(&service.cluster_ips), ["10.96.0.1", "fd00::1"]);
    let ports: Vec<_> = (service.ports.iter())
        .map(|port| {
            (
                &*port.name,
                port.protocol.label(),
                port.port,
                port.node_port,
            )
        })
        .collect();
    assert_eq!(
        ports,
        [
            ("http", "TCP", 80, Some(30080)),
            ("dns", "UDP", 80, None),
            ("sig", "SCTP", 81, None)
        ]
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Local);
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(texts(&service.external_ips), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(
        texts(&service.load_balancer_ips),
        ["203.0.113.1", "203.0.113.2"]
    );
    assert_eq!(
        texts(&service.source_ranges),
        ["198.51.100.0/24", "2001:db8::/32"]
    );
    assert_eq!(
        service.affinity,
        Affinity::ClientIp {
            timeout_seconds: 60
        }
    );
    assert_eq!(service.health_check_node_port, Some(31000));
    assert!(service.publish_not_ready_addresses);
}

#[test]
fn what_the_api_server_would_fill_in_may_be_missing() {
    let service =
        with_spec(r#""ports": [{"port": 80}], "sessionAffinity": "ClientIP""#).expect("valid");
    assert_eq!(texts(&service.cluster_ips), ["10.96.0.1"]);
    assert_eq!(service.service_type, ServiceType::ClusterIP);
    assert_eq!(
        (&*service.ports[0].name, service.ports[0].protocol),
        ("", Protocol::Tcp)
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(
        service.affinity,
        Affinity::ClientIp {
            timeout_seconds: 10800
        }
    );
    assert!(with_spec("").expect("valid").ports.is_empty());

    let service = reduce(r#"{"metadata": {"name": "cart"}, "spec": {"clusterIP": "10.96.0.1"}}"#);
    assert_eq!(
        service.expect("valid").name,
        ObjectName::new("default", "cart")
    );
}

#[test]
fn unknown_values_are_read_as_kube_proxy_does() {
    let service = with_spec(
        r#""type": "Future", "internalTrafficPolicy": "Future", "externalTrafficPolicy": "Future",
           "sessionAffinity": "Future""#,
    )
    .expect("valid");
    assert_eq!(service.service_type, ServiceType::ClusterIP);
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!(service.affinity, Affinity::None);
}

#[test]
fn the_external_policy_counts_only_where_something_comes_from_outside() {
    for (fields, policy, health_check) in [
        ("", TrafficPolicy::Cluster, None),
        (
            r#", "externalIPs": ["192.0.2.1"]"#,
            TrafficPolicy::Local,
            None,
        ),
        (r#", "type": "NodePort""#, TrafficPolicy::Local, None),
        (
            r#", "type": "LoadBalancer""#,
            TrafficPolicy::Local,
            Some(31000),
        ),
    ] {
        let local = r#""externalTrafficPolicy": "Local", "healthCheckNodePort": 31000"#;
        let service = with_spec(&format!("{local}{fields}")).expect("valid");
        assert_eq!(service.external_policy, policy, "{fields}");
        assert_eq!(service.health_check_node_port, health_check, "{fields}");
    }
    let service =
        with_spec(r#""type": "LoadBalancer", "healthCheckNodePort": 31000"#).expect("valid");
    assert_eq!(service.health_check_node_port, None);
}

#[test]
fn some_services_are_left_alone_whatever_they_say() {
    let cases = [
        (
            "",
            r#""clusterIP": "None", "clusterIPs": ["None"]"#,
            LeftAlone::Headless,
        ),
        ("", r#""clusterIPs": [""]"#, LeftAlone::Headless),
        ("", r#""clusterIP": """#, LeftAlone::Headless),
        ("", "", LeftAlone::Headless),
        (
            "",
            r#""type": "ExternalName", "externalName": "example.org""#,
            LeftAlone::ExternalName,
        ),
        (
            "",
            r#""type": "ExternalName", "clusterIP": "10.96.0.1""#,
            LeftAlone::ExternalName,
        ),
        (
            "service.kubernetes.io/service-proxy-name",
            r#""clusterIP": "10.96.0.1""#,
            LeftAlone::OtherProxy,
        ),
        (
            "service.kubernetes.io/headless",
            r#""clusterIP": "10.96.0.1""#,
            LeftAlone::HeadlessLabel,
        ),
    ];
    for (label, spec, reason) in cases {
        let comma = if spec.is_empty() { "" } else { "," };
        let service = reduce(&format!(
            r#"{{"metadata": {{"name": "s", "labels": {{"{label}": ""}}}},
                 "spec": {{{spec}{comma} "ports": [{{"port": 0}}]}}}}"#
        ));
        let service = service.expect("nothing more is read");
        assert_eq!(service.left_alone, Some(reason), "{label} {spec}");
        assert!(service.cluster_ips.is_empty() && service.ports.is_empty());
    }
}

#[test]
fn every_error_names_its_field_and_says_what_is_wrong() {
    for (fields, message) in [
        (
            r#""clusterIPs": ["x"]"#,
            r#"spec.clusterIPs[0]: "x" is not an IP address"#,
        ),
        (
            r#""clusterIPs": ["10.96.0.1", "None"]"#,
            r#"spec.clusterIPs[1]: "None" is not an IP address"#,
        ),
        (
            r#""clusterIPs": ["fd00::1", "fd00::2"]"#,
            "spec.clusterIPs[1]: an address of this family is there twice; keep one",
        ),
        (
            r#""clusterIPs": ["0.0.0.0"]"#,
            "spec.clusterIPs[0]: 0.0.0.0 is an unspecified or multicast address; give an address of a host",
        ),
        (
            r#""ports": [{"port": 1}, {"name": "b", "port": 70000}]"#,
            "spec.ports[1].port: 70000 is not a port (1-65535)",
        ),
        (
            r#""ports": [{"port": 0}]"#,
            "spec.ports[0].port: 0 is not a port (1-65535)",
        ),
        (
            r#""ports": [{"port": 1, "nodePort": -1}]"#,
            "spec.ports[0].nodePort: -1 is not a port (1-65535)",
        ),
        (
            r#""ports": [{"port": 1, "protocol": "tcp"}]"#,
            r#"spec.ports[0].protocol: "tcp" is not a protocol of a Service (TCP, UDP or SCTP)"#,
        ),
        (
            r#""ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]"#,
            r#"spec.ports[1].name: TCP port "a" is there twice; keep one"#,
        ),
        (
            r#""ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]"#,
            "spec.ports[1].port: TCP port 1 is there twice; keep one",
        ),
        (
            r#""externalIPs": ["192.0.2.1", ""]"#,
            r#"spec.externalIPs[1]: "" is not an IP address"#,
        ),
        (
            r#""healthCheckNodePort": 65536"#,
            "spec.healthCheckNodePort: 65536 is not a port (1-65535)",
        ),
        (
            r#""sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}"#,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not a number of seconds between 1 and 86400",
        ),
        (
            r#""sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}"#,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not a number of seconds between 1 and 86400",
        ),
    ] {
        let error = with_spec(fields).expect_err(fields);
        assert_eq!(error.to_string(), message);
    }
    for (json, message) in [
        (
            r#"{"metadata": {"namespace": "a"}, "spec": {}}"#,
            "metadata.name: is missing; set it",
        ),
        (r#"{"metadata": {"name": "a"}}"#, "spec: is missing; set it"),
        (
            r#"{"metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0"}}"#,
            r#"spec.clusterIP: "10.96.0" is not an IP address"#,
        ),
        (
            r#"{"metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0.1"},
                "status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}}"#,
            r#"status.loadBalancer.ingress[0].ip: "x" is not an IP address"#,
        ),
    ] {
        assert_eq!(reduce(json).expect_err(json).to_string(), message);
    }
}

#[test]
fn the_same_name_and_port_may_serve_two_protocols() {
    let ports =
        r#""ports": [{"name": "dns", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}]"#;
    assert_eq!(with_spec(ports).expect("valid").ports.len(), 2);
}

#[test]
fn a_source_range_that_is_none_is_passed_over_and_told() {
    let service = with_spec(r#""loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.1", "x"]"#);
    let service = service.expect("valid");
    assert_eq!(texts(&service.source_ranges), ["10.0.0.0/8"]);
    assert_eq!(
        texts(&service.warnings),
        [
            r#"spec.loadBalancerSourceRanges[1]: "10.0.0.1" is not a CIDR such as 10.0.0.0/8 or fd00::/8"#,
            r#"spec.loadBalancerSourceRanges[2]: "x" is not a CIDR such as 10.0.0.0/8 or fd00::/8"#,
        ]
    );
}

#[test]
fn an_annotation_chooses_the_selection() {
    let annotated = |value: &str| {
        let json = format!(
            r#"{{"metadata": {{"name": "cart", "annotations": {{"weir.dev/selection": "{value}"}}}},
                 "spec": {{"clusterIP": "10.96.0.1"}}}}"#
        );
        reduce(&json).expect("valid")
    };
    assert_eq!(annotated("random").selection, BackendSelection::Random);
    assert_eq!(annotated("maglev").selection, BackendSelection::Maglev);
    assert!(annotated("maglev").warnings.is_empty());
    let unknown = annotated("Maglev");
    assert_eq!(unknown.selection, BackendSelection::Random);
    assert_eq!(
        texts(&unknown.warnings),
        [
            r#"metadata.annotations[weir.dev/selection]: "Maglev" is no way of choosing backends (random or maglev); they are chosen at random"#
        ]
    );
}
