use serde_json::{Value, json};

use super::super::testing::{NODE, apply_service, apply_slice, cart};
use super::*;

fn spec(external_policy: &str) -> Value {
    json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}],
        "externalTrafficPolicy": external_policy, "healthCheckNodePort": 31000,
    })
}

fn endpoint(addr: &str, node: &str, ready: bool) -> Value {
    json!({
        "addresses": [addr], "nodeName": node,
        "conditions": {"ready": ready, "serving": true, "terminating": !ready},
    })
}

#[test]
fn ready_endpoints_of_this_node_count_once_each() {
    let mut cluster = Cluster::new(NODE);
    let mut checks = HealthChecks::default();
    let told = |checks: &HealthChecks| -> Vec<(String, u16, usize)> {
        let checks = checks.iter();
        checks
            .map(|(name, check)| (name.to_string(), check.port, check.local_endpoints))
            .collect()
    };
    apply_service(&mut cluster, &spec("Local"), &[]);
    assert!(checks.update(&cluster, &cart()));
    assert_eq!(told(&checks), [("shop/cart".to_owned(), 31000, 0)]);

    let ports = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]);
    for (name, endpoints, count, changed) in [
        (
            "a",
            vec![
                endpoint("10.0.0.1", NODE, true),
                endpoint("10.0.0.2", "n2", true),
            ],
            1,
            true,
        ),
        // The same pods in the other family.
        (
            "b",
            vec![
                endpoint("fd00::1", NODE, true),
                endpoint("fd00::2", "n2", true),
            ],
            1,
            false,
        ),
        (
            "c",
            vec![
                endpoint("10.0.0.3", NODE, true),
                endpoint("10.0.0.1", NODE, true),
            ],
            2,
            true,
        ),
        // Terminating ones still serve, but load balancers are to go elsewhere.
        ("c", vec![endpoint("10.0.0.3", NODE, false)], 1, true),
        ("a", vec![endpoint("10.0.0.1", NODE, false)], 1, false),
        ("b", vec![endpoint("fd00::1", NODE, false)], 0, true),
    ] {
        apply_slice(&mut cluster, name, &ports, &endpoints);
        assert_eq!(
            checks.update(&cluster, &cart()),
            changed,
            "{name} {endpoints:?}"
        );
        assert_eq!(told(&checks), [("shop/cart".to_owned(), 31000, count)]);
    }

    // Under policy Cluster every node is as good as any.
    apply_service(&mut cluster, &spec("Cluster"), &[]);
    assert!(checks.update(&cluster, &cart()));
    assert!(!checks.update(&cluster, &cart()));
    assert!(told(&checks).is_empty());
}
