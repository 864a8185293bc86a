use std::{net::Ipv4Addr, time::Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::health::{LATE, Moment};

/// Ports below the range of ephemeral ones, a range for each test: they run side by side in one network namespace.
fn free_port(from: u16) -> u16 {
    (from..from + 100)
        .find(|port| std::net::TcpListener::bind(("::", *port)).is_ok())
        .expect("a port is free")
}

fn checks() -> (HealthChecks, Arc<Mutex<Vec<String>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&reports);
    let checks = HealthChecks::new(Arc::default(), Vec::new(), move |error| {
        reported.lock().unwrap().push(error.to_string());
    });
    (checks, reports)
}

fn desired(services: &[(&str, u16, usize)]) -> BTreeMap<ObjectName, HealthCheck> {
    services
        .iter()
        .map(|&(name, port, local_endpoints)| {
            let name = ObjectName {
                namespace: "shop".into(),
                name: name.into(),
            };
            (
                name,
                HealthCheck {
                    port,
                    local_endpoints,
                },
            )
        })
        .collect()
}

async fn ask(address: impl Into<IpAddr>, port: u16, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((address.into(), port)).await?;
    let request = format!("{request} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn code(port: u16) -> Option<u16> {
    let answer = ask(Ipv4Addr::LOCALHOST, port, "GET /").await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn the_answer_is_kube_proxys_byte_for_byte() {
    let (checks, _) = checks();
    let port = free_port(23_000);
    checks.set(desired(&[("web", port, 2)]));
    for (address, request) in [
        (IpAddr::from(Ipv4Addr::LOCALHOST), "GET /healthz"),
        (Ipv6Addr::LOCALHOST.into(), "POST /anything?at=all"),
    ] {
        let answer = ask(address, port, request).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for header in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 2",
        ] {
            assert!(head.lines().any(|line| line == header), "{header}\n{head}");
        }
        assert_eq!(
            body,
            "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
             \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );
        let parsed: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(parsed["service"]["name"], "web");
    }
    checks.set(desired(&[("web", port, 0)]));
    let answer = ask(Ipv4Addr::LOCALHOST, port, "GET /").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-load-balancing-endpoint-weight: 0\r\n"));
    assert!(answer.contains("\"localEndpoints\": 0") && answer.contains("Healthy\": true"));
}

#[tokio::test]
async fn a_proxy_that_is_late_is_not_healthy() {
    let health = Arc::new(Health::default());
    let checks = HealthChecks::new(Arc::clone(&health), Vec::new(), |_| {});
    let port = free_port(23_100);
    checks.set(desired(&[("web", port, 3)]));
    // A node that is going away stays a good answer here: only /healthz tells of it.
    health.node_eligible(false);
    assert_eq!(code(port).await, Some(200));
    let mut past = Moment::now();
    past.instant = Instant::now()
        .checked_sub(LATE)
        .expect("the machine runs for a minute");
    health.queued(past);
    let answer = ask(Ipv4Addr::LOCALHOST, port, "GET /").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("endpoint-weight: 3") && answer.contains("Healthy\": false"));
    health.updated(Moment::now());
    assert_eq!(code(port).await, Some(200));
}

#[tokio::test]
async fn ports_close_change_and_pass_from_one_service_to_another_at_once() {
    let (checks, reports) = checks();
    let (first, second) = (free_port(23_200), free_port(23_300));
    checks.set(desired(&[("a", first, 1), ("b", second, 0)]));
    assert_eq!(
        (code(first).await, code(second).await),
        (Some(200), Some(503))
    );
    checks.set(desired(&[("b", first, 1), ("a", second, 0)]));
    assert_eq!(
        (code(first).await, code(second).await),
        (Some(200), Some(503))
    );
    let answer = ask(Ipv4Addr::LOCALHOST, first, "GET /").await.unwrap();
    assert!(answer.contains("\"name\": \"b\""), "{answer}");
    checks.set(desired(&[("b", first, 1)]));
    assert_eq!((code(first).await, code(second).await), (Some(200), None));
    drop(checks);
    assert_eq!(code(first).await, None);
    assert_eq!(*reports.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_once_and_had_as_soon_as_it_is_free() {
    let (checks, reports) = checks();
    let (taken, free) = (free_port(23_400), free_port(23_500));
    let holder = std::net::TcpListener::bind(("::", taken)).unwrap();
    let wanted = desired(&[("a", taken, 1), ("b", free, 1)]);
    checks.set(wanted.clone());
    checks.set(wanted);
    assert_eq!(
        code(free).await,
        Some(200),
        "one conflict spares the others"
    );
    {
        let reports = reports.lock().unwrap();
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert!(
            reports[0].contains("shop/a") && reports[0].contains(&format!("[::]:{taken}")),
            "{reports:?}"
        );
    }
    drop(holder);
    let start = Instant::now();
    while code(taken).await != Some(200) {
        assert!(start.elapsed() < 10 * RETRY, "it is tried again by itself");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn two_services_that_want_one_port_are_told_apart() {
    let (checks, reports) = checks();
    let port = free_port(23_600);
    checks.set(desired(&[("a", port, 1), ("b", port, 1)]));
    let answer = ask(Ipv4Addr::LOCALHOST, port, "GET /").await.unwrap();
    assert!(answer.contains("\"name\": \"a\""), "{answer}");
    assert!(reports.lock().unwrap()[0].contains("shop/b"));
    checks.set(desired(&[("b", port, 1)]));
    let answer = ask(Ipv4Addr::LOCALHOST, port, "GET /").await.unwrap();
    assert!(answer.contains("\"name\": \"b\""), "{answer}");
}

#[tokio::test]
async fn servers_listen_on_the_chosen_addresses_alone_or_not_at_all() {
    let port = free_port(23_700);
    let chosen = [Ipv4Addr::new(127, 0, 7, 1), Ipv4Addr::new(127, 0, 7, 2)].map(IpAddr::from);
    let checks = HealthChecks::new(Arc::default(), chosen.to_vec(), |_| {});
    let holder = std::net::TcpListener::bind((chosen[1], port)).unwrap();
    checks.set(desired(&[("a", port, 1)]));
    assert!(
        ask(chosen[0], port, "GET /").await.is_err(),
        "not half of it"
    );
    drop(holder);
    checks.set(desired(&[("a", port, 1)]));
    for address in chosen {
        assert!(ask(address, port, "GET /").await.is_ok());
    }
    assert!(ask(Ipv4Addr::LOCALHOST, port, "GET /").await.is_err());
}

/// In a process of its own: descriptors belong to a whole process.
#[test]
fn two_hundred_services_come_and_go_and_leave_no_descriptor() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "healthcheck::tests::in_a_process_of_its_own",
            "--ignored",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test]
#[ignore = "run by two_hundred_services_come_and_go_and_leave_no_descriptor"]
async fn in_a_process_of_its_own() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (checks, _) = checks();
    let port = free_port(23_800);
    let mut kept = Vec::new();
    let before = descriptors();
    for _ in 0..200 {
        checks.set(desired(&[("a", port, 1)]));
        // A load balancer that keeps its connection open does not keep ours.
        kept.push(
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap(),
        );
        assert_eq!(code(port).await, Some(200));
        checks.set(BTreeMap::new());
    }
    kept.clear();
    let start = Instant::now();
    while descriptors() != before {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{before} before, {} after",
            descriptors()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
