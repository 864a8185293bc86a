use std::sync::{Arc, Mutex, PoisonError};

use weir_abi::{ServiceCounters, Verdict, service::proto};
use weir_core::{model::ObjectName, plan::ServicePort};

use super::*;

/// Kernel tables that a test can change between scrapes.
#[derive(Default)]
struct Tables {
    services: Mutex<Vec<(ServicePort, ServiceCounters)>>,
}

impl Tables {
    fn set(&self, services: Vec<(ServicePort, ServiceCounters)>) {
        *self.services.lock().unwrap() = services;
    }
}

impl Kernel for Tables {
    fn service_counters(&self) -> Vec<(ServicePort, ServiceCounters)> {
        self.services
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
    fn verdicts(&self) -> Vec<(Verdict, u64)> {
        vec![(Verdict::Translate, 12), (Verdict::NoEndpoints, 3)]
    }
    fn tables(&self) -> Vec<TableFill> {
        vec![TableFill {
            name: "SERVICES".into(),
            entries: 42,
            capacity: 262_144,
        }]
    }
}

fn port(name: &str, port_name: &str) -> ServicePort {
    ServicePort {
        name: ObjectName {
            namespace: "shop".into(),
            name: name.into(),
        },
        port_name: port_name.into(),
        proto: proto::TCP,
    }
}

fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .collect()
}

/// Every family's name and type after everything was used once. What dashboards and alerts stand on: a change here
/// breaks them.
#[test]
fn names_and_types_are_fixed() {
    let metrics = Metrics::new();
    let tables = Arc::new(Tables::default());
    tables.set(vec![(
        port("cart", "http"),
        ServiceCounters {
            translated: 5,
            refused: 1,
        },
    )]);
    metrics.read_from(tables);
    metrics.watch_events(Kind::Service, 1);

    let text = metrics.text().unwrap();
    let mut families: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    families.sort_unstable();
    assert_eq!(
        families,
        [
            "kubeproxy_network_programming_duration_seconds histogram",
            "kubeproxy_proxy_healthz_total counter",
            "kubeproxy_proxy_livez_total counter",
            "kubeproxy_sync_full_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending gauge",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total counter",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
            "kubeproxy_sync_proxy_rules_service_changes_pending gauge",
            "kubeproxy_sync_proxy_rules_service_changes_total counter",
            "process_cpu_seconds_total counter",
            "process_max_fds gauge",
            "process_open_fds gauge",
            "process_resident_memory_bytes gauge",
            "process_start_time_seconds gauge",
            "process_threads gauge",
            "process_virtual_memory_bytes gauge",
            "weir_build_info gauge",
            "weir_map_capacity gauge",
            "weir_map_entries gauge",
            "weir_objects_skipped gauge",
            "weir_objects_skipped_total counter",
            "weir_service_connections_total counter",
            "weir_services_unprogrammed gauge",
            "weir_sync_failures_total counter",
            "weir_verdicts_total counter",
            "weir_watch_events_total counter",
            "weir_watch_failures_total counter",
            "weir_watch_last_event_timestamp_seconds gauge",
        ]
    );
    // Every sample belongs to the family whose type was told last, as the text format wants it.
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(family.as_str()));
            assert!(name == family || histogram, "{line} stands under {family}");
        }
    }
}

#[test]
fn labels_are_fixed() {
    let metrics = Metrics::new();
    let tables = Arc::new(Tables::default());
    tables.set(vec![(
        port("cart", "http"),
        ServiceCounters {
            translated: 5,
            refused: 1,
        },
    )]);
    metrics.read_from(tables);
    metrics.no_local_endpoints(TrafficPolicy::External, 2);
    metrics.object_skipped(Kind::Service);
    metrics.object_skipped(Kind::Service);
    metrics.objects_skipped_now(Kind::Service, 1);
    metrics.watch_failed(Kind::EndpointSlice);

    let text = metrics.text().unwrap();
    for line in [
        r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"} 0"#,
        r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"} 2"#,
        r#"weir_service_connections_total{namespace="shop",service="cart",port="http",protocol="TCP",result="translated"} 5"#,
        r#"weir_service_connections_total{namespace="shop",service="cart",port="http",protocol="TCP",result="refused"} 1"#,
        r#"weir_map_entries{map="SERVICES"} 42"#,
        r#"weir_map_capacity{map="SERVICES"} 262144"#,
        r#"weir_verdicts_total{verdict="translate"} 12"#,
        r#"weir_verdicts_total{verdict="no_endpoints"} 3"#,
        r#"weir_objects_skipped{kind="Service"} 1"#,
        r#"weir_objects_skipped_total{kind="Service"} 2"#,
        r#"weir_objects_skipped{kind="Pod"} 0"#,
        r#"weir_watch_failures_total{kind="EndpointSlice"} 1"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(!series(&text, "weir_build_info").is_empty());
}

#[test]
fn buckets_are_kube_proxys() {
    let text = Metrics::new().text().unwrap();
    let bounds = |name: &str| -> Vec<String> {
        series(&text, name)
            .iter()
            .map(|line| line.split('"').nth(1).unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        bounds("kubeproxy_sync_proxy_rules_duration_seconds_bucket").join(" "),
        "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384 +Inf"
    );
    let programming = bounds("kubeproxy_network_programming_duration_seconds_bucket");
    assert_eq!(programming.len(), 2 + 59 + 12 + 7 + 1);
    assert_eq!(programming[..4], ["0.25", "0.5", "1.0", "2.0"]);
    assert_eq!(programming[60..64], ["59.0", "60.0", "65.0", "70.0"]);
    assert_eq!(
        programming[72..],
        [
            "115.0", "120.0", "150.0", "180.0", "210.0", "240.0", "270.0", "300.0", "+Inf"
        ]
    );
}

#[test]
fn what_arrives_during_a_sync_stays_pending() {
    let metrics = Metrics::new();
    metrics.sync_queued(Kind::EndpointSlice, 3);
    metrics.sync_queued(Kind::Service, 1);
    metrics.sync_queued(Kind::Node, 7);
    let sync = metrics.sync_started();
    metrics.sync_queued(Kind::EndpointSlice, 2);
    metrics.sync_done(&sync, true);

    let text = metrics.text().unwrap();
    for line in [
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 5",
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
        "kubeproxy_sync_proxy_rules_service_changes_total 1",
        "kubeproxy_sync_proxy_rules_duration_seconds_count 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 0",
        "weir_sync_failures_total 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn a_failed_sync_leaves_its_changes_pending() {
    let metrics = Metrics::new();
    metrics.sync_queued(Kind::Service, 2);
    let sync = metrics.sync_started();
    metrics.sync_failed(&sync, false);

    let text = metrics.text().unwrap();
    for line in [
        "kubeproxy_sync_proxy_rules_service_changes_pending 2",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 1",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0.0",
        "weir_sync_failures_total 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn a_deleted_services_counters_disappear() {
    let metrics = Metrics::new();
    let tables = Arc::new(Tables::default());
    metrics.read_from(Arc::<Tables>::clone(&tables));
    let counters = ServiceCounters {
        translated: 5,
        refused: 0,
    };
    tables.set(vec![
        (port("cart", ""), counters),
        (port("till", ""), counters),
    ]);
    assert_eq!(
        series(&metrics.text().unwrap(), "weir_service_connections_total").len(),
        4
    );
    tables.set(vec![(port("till", ""), counters)]);
    let text = metrics.text().unwrap();
    assert_eq!(series(&text, "weir_service_connections_total").len(), 2);
    assert!(!text.contains("cart"));
}

#[tokio::test]
async fn the_port_answers_like_kube_proxys() {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use hyper::Request;
    use tower::ServiceExt as _;

    let router = router(Arc::new(Metrics::new()));
    for (path, content_type, starts) in [
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            "# HELP ",
        ),
        ("/proxyMode", "text/plain; charset=utf-8", "ebpf"),
        ("/healthz", "text/plain; charset=utf-8", "ok"),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], content_type, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(starts.as_bytes()), "{path}");
    }
}
