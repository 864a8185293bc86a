//! From events to tables: when, how often, and what is said of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;

fn web() -> Vec<Change> {
    vec![
        service("web", &["10.96.0.1"], &[("http", 80)]),
        slice("web-a", "web", &["http"], 8080, &["10.0.0.1", "10.0.0.2"]),
    ]
}

#[test]
fn nothing_is_written_before_every_kind_has_listed() {
    for last in Kind::ALL {
        let mut engine = engine(ROOMY);
        let worked = Arc::new(AtomicU32::new(0));
        let works = worked.clone();
        engine.after_first_sync(move || {
            works.fetch_add(1, Ordering::Relaxed);
        });
        take(&mut engine, &web());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != last) {
            engine.handle(Event::Listed(kind));
            // Listing the same kind again does not stand for another one.
            engine.handle(Event::Listed(kind));
        }
        assert!(!engine.is_ready(), "{last:?} has not listed");
        let an_hour = Instant::now() + Duration::from_secs(3600);
        engine.tick(an_hour);
        assert_eq!(
            engine.dataplane.memory.applied(),
            0,
            "{last:?} has not listed"
        );
        assert_eq!(engine.dataplane.memory.grace_periods(), 0);
        assert_eq!(worked.load(Ordering::Relaxed), 0);

        engine.handle(Event::Listed(last));
        engine.tick(Instant::now());
        assert_eq!(
            reachable(&engine, &frontend("10.96.0.1", 80)),
            endpoints(&["10.0.0.1:8080", "10.0.0.2:8080"])
        );
        take(&mut engine, &[delete(Kind::Service, "web")]);
        engine.tick(Instant::now());
        assert_eq!(
            worked.load(Ordering::Relaxed),
            1,
            "done once, after the first sync"
        );
    }
}

#[test]
fn leftovers_are_not_looked_at_until_a_sync_succeeds() {
    let mut engine = engine(ROOMY);
    let worked = Arc::new(AtomicU32::new(0));
    let works = worked.clone();
    engine.after_first_sync(move || {
        works.fetch_add(1, Ordering::Relaxed);
    });
    take(&mut engine, &web());
    list_all(&mut engine);
    engine.dataplane.memory.fail_after(1);
    engine.tick(Instant::now());
    assert_eq!(worked.load(Ordering::Relaxed), 0);
    until_quiet(&mut engine);
    assert_eq!(worked.load(Ordering::Relaxed), 1);
}

#[test]
fn changes_are_coalesced() {
    let mut engine = synced(ROOMY, &web());
    let (syncs, applied) = (engine.syncs, engine.dataplane.memory.applied());
    for n in 0..200 {
        let address = format!("10.0.0.{}", n % 100 + 100);
        take(
            &mut engine,
            &[slice("web-a", "web", &["http"], 8080, &[&address])],
        );
    }
    engine.tick(Instant::now());
    assert_eq!(engine.syncs, syncs + 1);
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.199:8080"])
    );
    // A backend, its slot, the entry of each scope, and who remembers the two former backends is told: what the last change
    // needs, and nothing for those before it.
    assert_eq!(engine.dataplane.memory.applied() - applied, 6);
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let mut engine = synced(ROOMY, &web());
    let (syncs, applied) = (engine.syncs, engine.dataplane.memory.applied());
    take(&mut engine, &web());
    list_all(&mut engine);
    engine.tick(Instant::now());
    assert_eq!(
        (engine.syncs, engine.dataplane.memory.applied()),
        (syncs, applied)
    );
    // There and back between two syncs.
    take(&mut engine, &[delete(Kind::Service, "web")]);
    take(&mut engine, &web());
    engine.tick(Instant::now());
    until_quiet(&mut engine);
    assert_eq!(engine.syncs, syncs + 1);
    assert_eq!(engine.dataplane.memory.applied(), applied);
}

#[test]
fn a_successor_that_wants_the_same_writes_nothing_but_a_new_epoch() {
    let first = synced(ROOMY, &web());
    let ids = first.service_ports();
    let applied = first.dataplane.memory.applied();
    let epoch = first.dataplane.memory.epoch();
    let mut successor = engine_over(first.dataplane);
    take(&mut successor, &web());
    list_all(&mut successor);
    successor.tick(Instant::now());
    until_quiet(&mut successor);
    assert_eq!(successor.dataplane.memory.applied(), applied + 1);
    assert_eq!(successor.dataplane.memory.epoch(), epoch + 1);
    assert_eq!(
        successor.service_ports(),
        ids,
        "counters go on under the same ids"
    );
}

#[test]
fn what_is_retired_comes_back_after_a_quiet_moment_or_at_the_latest_after_half_a_second() {
    let mut engine = synced(ROOMY, &web());
    take(
        &mut engine,
        &[slice("web-a", "web", &["http"], 8080, &["10.0.0.1"])],
    );
    engine.tick(Instant::now());
    assert_eq!(counts(&engine).backends, 2, "not before a grace period");
    let grace_periods = engine.dataplane.memory.grace_periods();
    let quiet = engine.next_deadline().unwrap();
    assert!(quiet <= Instant::now() + Duration::from_millis(50));
    engine.tick(quiet);
    assert_eq!(counts(&engine).backends, 1);
    assert_eq!(engine.dataplane.memory.grace_periods(), grace_periods + 1);
    assert_eq!(engine.next_deadline(), None);

    // Events that never pause do not put it off for ever.
    take(
        &mut engine,
        &[slice("web-a", "web", &["http"], 8080, &["10.0.0.3"])],
    );
    engine.tick(Instant::now());
    let retired = Instant::now();
    std::thread::sleep(Duration::from_millis(60));
    engine.handle(Event::Listed(Kind::Pod));
    let put_off = engine.next_deadline().unwrap();
    assert!(
        put_off > retired + Duration::from_millis(60),
        "an event came"
    );
    assert!(put_off <= retired + Duration::from_millis(500));
    engine.tick(put_off);
    assert_eq!(counts(&engine).backends, 1);
}

#[test]
fn changes_go_on_while_a_grace_period_lasts() {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let mut engine = synced(ROOMY, &web());
    engine.dataplane.waiter = Some(|| {
        while !IS_OVER.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let endpoint = |addr| slice("web-a", "web", &["http"], 8080, &[addr]);
    take(&mut engine, &[endpoint("10.0.0.1")]);
    engine.tick(Instant::now());
    let quiet = engine.next_deadline().unwrap();
    engine.tick(quiet);
    assert_eq!(counts(&engine).backends, 2, "it is not over");
    take(&mut engine, &[endpoint("10.0.0.3")]);
    engine.tick(quiet);
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.3:8080"])
    );
    assert_eq!(counts(&engine).backends, 3, "still not");

    IS_OVER.store(true, Ordering::Relaxed);
    let patience = Instant::now() + Duration::from_secs(30);
    while let Some(at) = engine.next_deadline() {
        assert!(Instant::now() < patience, "nothing is given back");
        std::thread::sleep(Duration::from_millis(1));
        engine.tick(at);
    }
    assert_eq!(counts(&engine).backends, 1);
}

#[test]
fn what_does_not_fit_is_named_and_gets_its_turn_when_there_is_room() {
    let capacity = Capacity {
        backends: 5,
        ..ROOMY
    };
    let mut engine = synced(
        capacity,
        &[
            service("large", &["10.96.0.1"], &[("http", 80)]),
            slice(
                "large-a",
                "large",
                &["http"],
                8080,
                &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            ),
            service("grows", &["10.96.0.2"], &[("http", 80)]),
            slice("grows-a", "grows", &["http"], 8080, &["10.0.0.4"]),
        ],
    );
    assert!(engine.status().unprogrammed.is_empty());

    take(
        &mut engine,
        &[
            slice(
                "grows-a",
                "grows",
                &["http"],
                8080,
                &["10.0.0.5", "10.0.0.6"],
            ),
            service("small", &["10.96.0.3"], &[("http", 80)]),
            slice("small-a", "small", &["http"], 8080, &["10.0.0.1"]),
        ],
    );
    engine.tick(Instant::now());
    until_quiet(&mut engine);
    let unprogrammed = engine.status().unprogrammed;
    assert_eq!(unprogrammed.len(), 1, "{unprogrammed:?}");
    assert_eq!(unprogrammed[0].name, "default/grows");
    assert!(
        unprogrammed[0].reason.contains("BACKENDS"),
        "{unprogrammed:?}"
    );
    assert_eq!(metric(&engine, "weir_services_unprogrammed"), 1.0);
    // It keeps the whole of what it had, and others that fit are not kept waiting.
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.2", 80)),
        endpoints(&["10.0.0.4:8080"])
    );
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.3", 80)),
        endpoints(&["10.0.0.1:8080"])
    );
    assert_eq!(engine.failures, 0);

    // Room is made, and nothing else happens any more.
    take(&mut engine, &[delete(Kind::Service, "large")]);
    engine.tick(Instant::now());
    until_quiet(&mut engine);
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.2", 80)),
        endpoints(&["10.0.0.5:8080", "10.0.0.6:8080"])
    );
    assert!(
        engine.status().unprogrammed.is_empty(),
        "{:?}",
        engine.status().unprogrammed
    );
    assert_leaves_nothing(&mut engine);
}

#[test]
fn two_services_with_one_address_are_told_apart_and_the_heir_follows_at_once() {
    let mut engine = synced(
        ROOMY,
        &[
            service("first", &["10.96.0.1"], &[("http", 80)]),
            slice("first-a", "first", &["http"], 8080, &["10.0.0.1"]),
        ],
    );
    take(
        &mut engine,
        &[
            service("a-second", &["10.96.0.1"], &[("http", 80)]),
            slice("second-a", "a-second", &["http"], 8080, &["10.0.0.2"]),
        ],
    );
    engine.tick(Instant::now());
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.1:8080"])
    );
    let unprogrammed = engine.status().unprogrammed;
    assert_eq!(unprogrammed[0].name, "default/a-second", "{unprogrammed:?}");
    assert!(
        unprogrammed[0].reason.contains("10.96.0.1:80/TCP"),
        "{unprogrammed:?}"
    );

    take(&mut engine, &[delete(Kind::Service, "first")]);
    engine.tick(Instant::now());
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.2:8080"])
    );
    assert!(engine.status().unprogrammed.is_empty());
}

#[test]
fn metrics_follow_a_change_from_its_arrival_to_its_success() {
    let mut engine = synced(ROOMY, &web());
    let pending = |engine: &Tested| {
        ["service", "endpoint"].map(|kind| {
            metric(
                engine,
                &format!("kubeproxy_sync_proxy_rules_{kind}_changes_pending"),
            )
        })
    };
    assert_eq!(pending(&engine), [0.0, 0.0]);
    let total = metric(&engine, "kubeproxy_sync_proxy_rules_endpoint_changes_total");
    let durations = metric(&engine, "kubeproxy_sync_proxy_rules_duration_seconds_count");

    take(
        &mut engine,
        &[service("web", &["10.96.0.1"], &[("http", 8000)])],
    );
    let changed = jiff::Timestamp::now();
    let triggered = |address: &str| {
        slice_of(json!({
            "metadata": {
                "name": "web-a",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": changed.to_string()},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address]}],
        }))
    };
    take(&mut engine, &[triggered("10.0.0.3"), triggered("10.0.0.4")]);
    assert_eq!(pending(&engine), [1.0, 2.0]);
    assert!(engine.status().sync.pending_for_seconds.is_some());

    engine.dataplane.memory.fail_after(2);
    engine.tick(Instant::now());
    assert_eq!(metric(&engine, "weir_sync_failures_total"), 1.0);
    assert_eq!(pending(&engine), [1.0, 2.0], "still to be done");
    let programmed = "kubeproxy_network_programming_duration_seconds_count";
    assert_eq!(metric(&engine, programmed), 0.0);

    until_quiet(&mut engine);
    assert_eq!(pending(&engine), [0.0, 0.0]);
    assert_eq!(
        metric(&engine, "kubeproxy_sync_proxy_rules_endpoint_changes_total"),
        total + 2.0
    );
    assert_eq!(
        metric(&engine, "kubeproxy_sync_proxy_rules_duration_seconds_count"),
        durations + 2.0
    );
    assert_eq!(metric(&engine, programmed), 2.0);
    assert_eq!(metric(&engine, "weir_sync_failures_total"), 1.0);
    let sync = engine.status().sync;
    assert_eq!((sync.pending, sync.pending_for_seconds), (0, None));
    assert_eq!(sync.failures, 1);
}

#[test]
fn a_skipped_object_is_told_until_it_is_fine() {
    let mut engine = synced(ROOMY, &web());
    let skipped = |engine: &Tested| metric(engine, r#"weir_objects_skipped{kind="Service"}"#);
    for error in ["port 70000", "port 80000"] {
        engine.handle(Event::Skipped {
            kind: Kind::Service.into(),
            name: "default/web".to_owned(),
            error: error.to_owned(),
        });
    }
    assert_eq!(skipped(&engine), 1.0);
    assert_eq!(engine.status().skipped[0].reason, "port 80000");
    engine.handle(Event::Restored {
        kind: Kind::Service.into(),
        name: "default/web".to_owned(),
    });
    assert_eq!(skipped(&engine), 0.0);
    assert!(engine.status().skipped.is_empty());
    assert_eq!(
        metric(&engine, r#"weir_objects_skipped_total{kind="Service"}"#),
        2.0
    );
}

#[test]
fn a_service_with_a_mistake_in_it_is_served_and_named() {
    let with = |selection: &str| {
        let Change::Apply(Object::Service(mut web)) =
            service("web", &["10.96.0.1"], &[("http", 80)])
        else {
            panic!("a service")
        };
        let object: core_api::Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default",
                "annotations": {"weir.dev/selection": selection}},
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
        }))
        .unwrap();
        web.warnings = Service::reduce(&object).unwrap().warnings;
        Change::Apply(Object::Service(web))
    };
    let mut changes = web();
    changes[0] = with("maglef");
    let mut engine = synced(ROOMY, &changes);
    let named = engine.status().unprogrammed;
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].reason.contains("weir.dev/selection"), "{named:?}");
    assert_eq!(
        reachable(&engine, &frontend("10.96.0.1", 80)),
        endpoints(&["10.0.0.1:8080", "10.0.0.2:8080"])
    );
    take(&mut engine, &[with("maglev")]);
    engine.tick(Instant::now());
    until_quiet(&mut engine);
    assert!(engine.status().unprogrammed.is_empty());
}
