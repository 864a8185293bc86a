//! Stops at every single operation: whoever connects meets whole lists, and whoever goes on leaves nothing behind.

use std::time::{Duration, Instant};

use super::*;

fn before() -> Vec<Change> {
    vec![
        service(
            "web",
            &["10.96.0.1", "fd00::1"],
            &[("http", 80), ("admin", 81)],
        ),
        slice(
            "web-a",
            "web",
            &["http", "admin"],
            8080,
            &["10.0.0.1", "10.0.0.2"],
        ),
        slice("web-b", "web", &["http"], 8080, &["10.0.0.2", "10.0.0.3"]),
        slice(
            "web-6",
            "web",
            &["http", "admin"],
            8080,
            &["fd00::a:1", "fd00::a:2"],
        ),
        service("old", &["10.96.0.2"], &[("http", 80)]),
        slice("old-a", "old", &["http"], 8080, &["10.0.0.1", "10.0.0.9"]),
        service("empty", &["10.96.0.3"], &[("http", 80)]),
        service("full", &["10.96.0.4"], &[("http", 80), ("more", 82)]),
        slice(
            "full-a",
            "full",
            &["http", "more"],
            8080,
            &["10.0.0.4", "10.0.0.5"],
        ),
        service("same", &["10.96.0.5"], &[("http", 80)]),
        slice("same-a", "same", &["http"], 8080, &["10.0.0.6"]),
    ]
}

/// Endpoints come and go, a port goes, a service gets endpoints and another loses them, one is deleted and another one takes
/// over its address.
fn changes() -> Vec<Change> {
    vec![
        slice(
            "web-a",
            "web",
            &["http", "admin"],
            8080,
            &["10.0.0.2", "10.0.0.7"],
        ),
        delete(Kind::EndpointSlice, "web-b"),
        slice(
            "web-6",
            "web",
            &["http", "admin"],
            8080,
            &["fd00::a:2", "fd00::a:3"],
        ),
        delete(Kind::Service, "old"),
        delete(Kind::EndpointSlice, "old-a"),
        service("heir", &["10.96.0.2"], &[("http", 80), ("other", 90)]),
        slice(
            "heir-a",
            "heir",
            &["http", "other"],
            8080,
            &["10.0.0.9", "10.0.0.8"],
        ),
        slice("empty-a", "empty", &["http"], 8080, &["10.0.0.1"]),
        service("full", &["10.96.0.4"], &[("http", 80)]),
        slice("full-a", "full", &["http"], 8080, &[]),
    ]
}

fn after() -> Vec<Change> {
    before().into_iter().chain(changes()).collect()
}

fn keys() -> Vec<ServiceKey> {
    let addresses = [
        "10.96.0.1",
        "fd00::1",
        "10.96.0.2",
        "10.96.0.3",
        "10.96.0.4",
        "10.96.0.5",
    ];
    let ports = [80, 81, 82, 90];
    let of = |address| ports.map(|port| frontend(address, port));
    let frontends = addresses.into_iter().flat_map(of);
    frontends.chain(addresses.map(any_port)).collect()
}

/// The engine that has stopped before the operation of that number, counted from the changes on; `None` when there are not so
/// many.
fn cut(operation: u64) -> Option<Tested> {
    let mut engine = synced(ROOMY, &before());
    engine.dataplane.memory.fail_after(operation);
    take(&mut engine, &changes());
    engine.tick(Instant::now());
    if engine.failures == 0 {
        // The operations after the grace period.
        until_quiet_or_failed(&mut engine);
    }
    (engine.failures > 0).then_some(engine)
}

fn until_quiet_or_failed(engine: &mut Tested) {
    while engine.failures == 0
        && let Some(at) = engine.next_deadline()
    {
        engine.tick(at);
    }
}

/// Every frontend leads to the whole of its old list or to the whole of its new one.
fn assert_whole(engine: &Tested, operation: u64) {
    let (old, new) = (synced(ROOMY, &before()), synced(ROOMY, &after()));
    for key in keys() {
        let now = reachable(engine, &key);
        assert!(
            now == reachable(&old, &key) || now == reachable(&new, &key),
            "before operation {operation}, {key:?} leads to {now:?}"
        );
    }
}

fn assert_converged(engine: &mut Tested, operation: u64) {
    let fresh = synced(ROOMY, &after());
    assert_eq!(
        view(engine, &keys()),
        view(&fresh, &keys()),
        "operation {operation}"
    );
    assert_eq!(counts(engine), counts(&fresh), "operation {operation}");
    let tables = |engine: &Tested| {
        let memory = &engine.dataplane.memory;
        (memory.frontends(), memory.active_backends())
    };
    assert_eq!(tables(engine), tables(&fresh), "operation {operation}");
    assert_leaves_nothing(engine);
}

#[test]
fn the_scenario_changes_everything_that_it_says() {
    let (old, new) = (synced(ROOMY, &before()), synced(ROOMY, &after()));
    assert_eq!(
        reachable(&old, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"])
    );
    assert_eq!(
        reachable(&new, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.2:8080", "10.0.0.7:8080"])
    );
    assert_eq!(
        reachable(&new, &frontend("10.96.0.2", 90)),
        endpoints(&["10.0.0.8:8080", "10.0.0.9:8080"])
    );
    assert_eq!(reachable(&old, &frontend("10.96.0.3", 80)), endpoints(&[]));
    assert_eq!(reachable(&new, &frontend("10.96.0.4", 80)), endpoints(&[]));
    assert_eq!(reachable(&new, &frontend("10.96.0.4", 82)), None);
    assert_eq!(reachable(&new, &any_port("10.96.0.4")), endpoints(&[]));
}

#[test]
fn a_fault_at_any_operation_leaves_whole_lists_and_the_retry_converges() {
    let mut operation = 0;
    while let Some(mut engine) = cut(operation) {
        assert_whole(&engine, operation);
        assert_eq!(metric(&engine, "weir_sync_failures_total"), 1.0);
        assert!(engine.status().sync.last_error.is_some());

        // Not before its time.
        let applied = engine.dataplane.memory.applied();
        let retry = engine.next_deadline().expect("it tries again");
        engine.tick(retry - Duration::from_millis(1));
        assert_eq!(engine.dataplane.memory.applied(), applied);
        until_quiet(&mut engine);
        assert_eq!(engine.failures, 1);
        assert!(engine.status().sync.last_error.is_none());
        assert_converged(&mut engine, operation);
        operation += 1;
    }
    assert!(operation > 20, "only {operation} operations were cut");
}

#[test]
fn an_agent_killed_at_any_operation_is_succeeded_without_a_trace() {
    let mut operation = 0;
    while let Some(engine) = cut(operation) {
        let mut successor = engine_over(engine.dataplane);
        take(&mut successor, &after());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod) {
            successor.handle(Event::Listed(kind));
        }
        let applied = successor.dataplane.memory.applied();
        successor.tick(Instant::now() + Duration::from_secs(3600));
        assert_eq!(
            successor.dataplane.memory.applied(),
            applied,
            "pods have not listed"
        );
        assert_whole(&successor, operation);

        successor.handle(Event::Listed(Kind::Pod));
        successor.tick(Instant::now());
        until_quiet(&mut successor);
        assert_eq!(successor.failures, 0);
        assert_converged(&mut successor, operation);
        operation += 1;
    }
    assert!(operation > 20, "only {operation} operations were cut");
}

#[test]
fn what_a_killed_agent_had_begun_for_nobody_is_taken_away() {
    let web: Vec<Change> = before().drain(..4).collect();
    let total = synced(ROOMY, &web).dataplane.memory.applied();
    for operation in 0..total {
        let mut engine = engine(ROOMY);
        engine.dataplane.memory.fail_after(operation);
        take(&mut engine, &web);
        list_all(&mut engine);
        engine.tick(Instant::now());
        assert_eq!(engine.failures, 1);

        // By the time that the next agent comes, the service is gone.
        let mut successor = engine_over(engine.dataplane);
        list_all(&mut successor);
        successor.tick(Instant::now());
        until_quiet(&mut successor);
        assert_eq!(
            successor.dataplane.memory.frontends(),
            0,
            "operation {operation}"
        );
        assert_eq!(
            successor.dataplane.memory.active_backends(),
            0,
            "operation {operation}"
        );
        assert_eq!(
            counts(&successor),
            TableCounts::default(),
            "operation {operation}"
        );
    }
}

#[test]
fn failures_in_a_row_wait_longer_each_time() {
    let mut engine = synced(ROOMY, &before());
    take(&mut engine, &changes());
    let mut waits = Vec::new();
    for failure in 1..=4 {
        engine.dataplane.memory.fail_after(0);
        let now = Instant::now();
        let at = engine
            .next_deadline()
            .filter(|_| failure > 1)
            .unwrap_or(now);
        engine.tick(at);
        assert_eq!(engine.failures, failure);
        let next = engine.next_deadline().unwrap();
        waits.push(next - now);
        engine.tick(next - Duration::from_millis(1));
        assert_eq!(engine.failures, failure, "it did not wait");
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(waits[0] >= Duration::from_millis(100), "{waits:?}");
    assert!(waits[3] >= Duration::from_millis(800), "{waits:?}");
    until_quiet(&mut engine);
    assert_converged(&mut engine, 0);
}
