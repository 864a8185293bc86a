//! The reduction of watch events, retries, and what failures say. Watches of a real API server are tested in `tests/`.

mod failures;

use std::io::Write as _;
use std::net::TcpListener;

use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{ObjectList, WatchEvent};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Duration, Instant, timeout};
use weir_core::model::{Kind, Object, ObjectName};
use weir_core::state::Change;

use self::failures::{api, io};
use super::fold::Fold;
use super::guard::Reduced;
use super::watch::Follower;
use super::{Breadth, OpenError, Options, Source};
use crate::source::reduce::label_selector;
use crate::source::{Event, Subject};

const SERVER: &str = "https://192.0.2.1:6443";

fn service(name: &str, port: impl Into<Value>) -> Value {
    let port = port.into();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": name, "resourceVersion": "7", "uid": "u" },
        "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{ "name": "http", "protocol": "TCP", "port": port, "targetPort": 8080 }] }
    })
}

fn good(name: &str) -> Reduced<Service> {
    serde_json::from_value(service(name, 80)).expect("decodes")
}

fn malformed(name: &str) -> Reduced<Service> {
    serde_json::from_value(service(name, "eighty")).expect("decodes all the same")
}

/// Events in a form that is easy to compare.
fn say(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    events.into_iter().map(|event| said(&event)).collect()
}

fn said(event: &Event) -> String {
    let names = |objects: &[Object]| {
        let names: Vec<_> = objects
            .iter()
            .map(|object| object.name().to_string())
            .collect();
        names.join(" ")
    };
    match event {
        Event::Change(Change::Apply(object)) => {
            format!("apply {} {}", object.kind(), object.name())
        }
        Event::Change(Change::Delete(kind, name)) => format!("delete {kind} {name}"),
        Event::Change(Change::Replace {
            kind,
            objects,
            keep,
        }) => {
            let keep: Vec<_> = keep.iter().map(ObjectName::to_string).collect();
            format!(
                "replace {kind} [{}] keep [{}]",
                names(objects),
                keep.join(" ")
            )
        }
        Event::Listed(kind) => format!("listed {kind}"),
        Event::Skipped { kind, name, .. } => format!("skipped {kind} {name}"),
        Event::Restored { kind, name } => format!("restored {kind} {name}"),
        Event::WatchFailed { kind, .. } => format!("failed {kind}"),
        Event::WatchStarted { kind } => format!("started {kind}"),
    }
}

fn list(fold: &mut Fold, objects: Vec<Reduced<Service>>) -> Vec<String> {
    let mut events = fold.fold(watcher::Event::<Reduced<Service>>::Init);
    for object in objects {
        events.extend(fold.fold(watcher::Event::InitApply(object)));
    }
    events.extend(fold.fold(watcher::Event::<Reduced<Service>>::InitDone));
    say(events)
}

#[test]
fn a_list_is_one_replacement_and_then_changes_follow() {
    let mut fold = Fold::new(Kind::Service);
    assert_eq!(
        list(&mut fold, vec![good("a"), good("b")]),
        ["replace Service [shop/a shop/b] keep []", "listed Service"]
    );
    assert_eq!(
        say(fold.fold(watcher::Event::Apply(good("c")))),
        ["apply Service shop/c"]
    );
    assert_eq!(
        say(fold.fold(watcher::Event::Delete(good("a")))),
        ["delete Service shop/a"]
    );
    assert_eq!(
        list(&mut fold, vec![]),
        ["replace Service [] keep []", "listed Service"]
    );
}

#[test]
fn a_malformed_object_is_skipped_once_and_spares_the_others() {
    let mut fold = Fold::new(Kind::Service);
    assert_eq!(
        list(&mut fold, vec![good("a"), malformed("bad"), good("b")]),
        [
            "skipped Service shop/bad",
            "replace Service [shop/a shop/b] keep [shop/bad]",
            "listed Service"
        ]
    );
    // The same complaint again tells nobody anything.
    assert!(
        fold.fold(watcher::Event::Apply(malformed("bad")))
            .is_empty()
    );
    assert_eq!(
        say(fold.fold(watcher::Event::Apply(good("bad")))),
        ["apply Service shop/bad", "restored Service shop/bad"]
    );
}

#[test]
fn a_malformed_update_leaves_the_last_good_version_also_through_a_relist() {
    let mut fold = Fold::new(Kind::Service);
    list(&mut fold, vec![good("a")]);
    assert_eq!(
        say(fold.fold(watcher::Event::Apply(malformed("a")))),
        ["skipped Service shop/a"]
    );
    assert_eq!(
        list(&mut fold, vec![malformed("a")]),
        ["replace Service [] keep [shop/a]", "listed Service"]
    );
    assert_eq!(
        say(fold.fold(watcher::Event::Delete(malformed("a")))),
        ["delete Service shop/a", "restored Service shop/a"]
    );
}

#[test]
fn a_skipped_object_that_a_relist_finds_fixed_or_gone_is_restored() {
    let mut fold = Fold::new(Kind::Service);
    list(&mut fold, vec![malformed("fixed"), malformed("gone")]);
    assert_eq!(
        list(&mut fold, vec![good("fixed")]),
        [
            "replace Service [shop/fixed] keep []",
            "restored Service shop/fixed",
            "restored Service shop/gone",
            "listed Service"
        ]
    );
}

#[test]
fn a_list_that_broke_off_leaves_nothing_behind() {
    let mut fold = Fold::new(Kind::Service);
    fold.fold(watcher::Event::<Reduced<Service>>::Init);
    fold.fold(watcher::Event::InitApply(good("half")));
    fold.fold(watcher::Event::InitApply(malformed("half-bad")));
    assert_eq!(
        list(&mut fold, vec![good("whole")]),
        ["replace Service [shop/whole] keep []", "listed Service"]
    );
}

#[test]
fn a_page_and_an_event_decode_whatever_is_in_them() {
    let page = json!({
        "kind": "ServiceList", "apiVersion": "v1", "metadata": { "resourceVersion": "1" },
        "items": [service("a", 80), service("b", json!({})), {"metadata": {"name": "c"}, "spec": 3}, null, "text"],
    });
    let page: ObjectList<Reduced<Service>> =
        serde_json::from_str(&page.to_string()).expect("the list decodes");
    let outcomes: Vec<_> = page
        .into_iter()
        .map(|object| object.outcome().is_ok())
        .collect();
    assert_eq!(outcomes, [true, false, false, false, false]);

    // With the members the other way round too.
    let object = service("b", "eighty");
    for event in [
        format!(r#"{{"type":"MODIFIED","object":{object}}}"#),
        format!(r#"{{"object":{object},"type":"MODIFIED"}}"#),
    ] {
        let event: WatchEvent<Reduced<Service>> =
            serde_json::from_str(&event).expect("the event decodes");
        let WatchEvent::Modified(object) = event else {
            panic!("not a modification: {event:?}");
        };
        assert_eq!(object.name(), ObjectName::new("shop", "b"));
        let error = object.outcome().expect_err("a port that is text");
        assert!(
            error.starts_with("spec.ports[0].port: invalid type"),
            "{error}"
        );
    }
}

#[test]
fn a_validation_error_is_reported_as_the_model_says_it() {
    let mut fold = Fold::new(Kind::Service);
    let object: Reduced<Service> = serde_json::from_value(service("a", 70_000)).expect("decodes");
    let events = fold.fold(watcher::Event::Apply(object));
    let [Event::Skipped { kind, name, error }] = &events[..] else {
        panic!("not one skipped object: {events:?}");
    };
    assert_eq!(
        (*kind, name.as_str()),
        (Subject::Object(Kind::Service), "shop/a")
    );
    assert_eq!(error, "spec.ports[0].port: 70000 is not a port (1-65535)");
}

#[test]
fn the_server_is_asked_to_leave_out_what_labels_leave_out() {
    assert_eq!(
        label_selector::<Service>(),
        "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
    );
    assert_eq!(
        label_selector::<EndpointSlice>(),
        "!service.kubernetes.io/headless"
    );
    assert_eq!(label_selector::<Node>(), "");
}

type Step = watcher::Result<watcher::Event<Reduced<Service>>>;

/// Follows a script that ends in silence; returns what was sent, and how long it took.
async fn follow(script: Vec<Step>, opened: &Notify) -> (Vec<String>, Duration) {
    let (events, mut received) = mpsc::channel(64);
    let mut follower = Follower::new(Kind::Service.into(), Fold::new(Kind::Service), events);
    let start = Instant::now();
    let script = stream::iter(script).chain(stream::pending());
    let followed = follower.follow(script, opened, SERVER);
    // Virtual time: enough for every wait of these scripts, too little for a watch to time out.
    let _ = timeout(Duration::from_secs(50), followed).await;
    let took = start.elapsed();
    drop(follower);
    let mut sent = Vec::new();
    while let Some(event) = received.recv().await {
        sent.push(said(&event));
    }
    (sent, took)
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_after_failures_and_says_that_it_works() {
    let opened = Notify::new();
    opened.notify_one();
    let script = vec![
        Ok(watcher::Event::Init),
        Ok(watcher::Event::InitApply(good("a"))),
        Ok(watcher::Event::InitDone),
        Err(io(std::io::ErrorKind::ConnectionRefused)),
        Err(io(std::io::ErrorKind::ConnectionRefused)),
        Ok(watcher::Event::Apply(good("b"))),
    ];
    let (sent, _) = follow(script, &opened).await;
    assert_eq!(
        sent,
        [
            "started Service",
            "replace Service [shop/a] keep []",
            "listed Service",
            "failed Service",
            "failed Service",
            "apply Service shop/b",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_version_is_no_failure_and_ends_the_stream_for_a_new_list() {
    let opened = Notify::new();
    let script = vec![
        Err(api(410, "Expired", "too old")),
        Ok(watcher::Event::Apply(good("never"))),
    ];
    let (sent, took) = follow(script, &opened).await;
    assert!(sent.is_empty(), "{sent:?}");
    assert!(
        took < Duration::from_secs(1),
        "listed again only after {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_end_the_stream_for_a_new_client() {
    let opened = Notify::new();
    let script = vec![
        Err(api(401, "Unauthorized", "")),
        Ok(watcher::Event::Apply(good("never"))),
    ];
    assert_eq!(follow(script, &opened).await.0, ["failed Service"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_ends_in_a_new_client() {
    let opened = Notify::new();
    let refused = || Err(io(std::io::ErrorKind::ConnectionRefused));
    let (sent, _) = follow((0..100).map(|_| refused()).collect(), &opened).await;
    assert_eq!(sent.len(), 12, "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_stalls_is_given_up_but_a_quiet_watch_is_not() {
    let (events, mut received) = mpsc::channel(64);
    let mut follower = Follower::new(Kind::Service.into(), Fold::new(Kind::Service), events);
    let opened = Notify::new();
    let stalls = stream::iter(vec![Ok(watcher::Event::Init)]).chain(stream::pending());
    let followed = follower.follow::<Service>(stalls, &opened, SERVER);
    timeout(Duration::from_secs(120), followed)
        .await
        .expect("a stalled list is given up")
        .expect("the receiver is there");
    let Some(Event::WatchFailed { error, .. }) = received.recv().await else {
        panic!("a stalled list is reported");
    };
    assert!(error.contains("said nothing for 60 s"), "{error}");

    let quiet = vec![Ok(watcher::Event::Init), Ok(watcher::Event::InitDone)];
    let quiet = stream::iter(quiet).chain(stream::pending());
    let followed = follower.follow::<Service>(quiet, &opened, SERVER);
    assert!(timeout(Duration::from_secs(280), followed).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_nobody_reads() {
    let (events, received) = mpsc::channel(64);
    let mut follower = Follower::new(Kind::Service.into(), Fold::new(Kind::Service), events);
    drop(received);
    let opened = Notify::new();
    let followed = follower.follow::<Service>(stream::pending(), &opened, SERVER);
    let ended = timeout(Duration::from_secs(1), followed).await;
    ended.expect("ends at once").expect_err("says why");
}

fn kubeconfig(server: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    file.write_all(text.to_string().as_bytes())
        .expect("written");
    file
}

fn options(kubeconfig: &std::path::Path) -> Options {
    Options {
        kubeconfig: Some(kubeconfig.to_owned()),
        node_name: "n1".to_owned(),
        nodes: Breadth::ThisNode,
        pods: Breadth::ThisNode,
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_reported_for_every_kind_and_tried_again() {
    // A port that was free a moment ago, and to which nothing listens now.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let kubeconfig = kubeconfig(&server);
    let source = Source::open(options(kubeconfig.path()))
        .await
        .expect("the configuration is fine");
    let (events, mut received) = mpsc::channel(crate::source::EVENTS);
    let running = tokio::spawn(source.run(events));
    let mut failures = std::collections::BTreeMap::<Subject, usize>::new();
    while failures.len() < Kind::ALL.len() || failures.values().any(|count| *count < 2) {
        let event = timeout(Duration::from_secs(60), received.recv()).await;
        let Some(Event::WatchFailed { kind, error }) = event.expect("an event within a minute")
        else {
            panic!("something else than a failure");
        };
        assert!(
            error.contains(&format!("nothing listens at {server}")),
            "{error}"
        );
        *failures.entry(kind).or_default() += 1;
    }
    drop(received);
    timeout(Duration::from_secs(60), running)
        .await
        .expect("ends when nobody reads")
        .expect("without a panic");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_refused_at_once() {
    let missing = std::path::Path::new("/nonexistent/kubeconfig");
    let error = Source::open(options(missing))
        .await
        .err()
        .expect("no such file");
    assert!(matches!(error, OpenError::Kubeconfig { .. }), "{error}");
    assert!(
        error.to_string().contains("/nonexistent/kubeconfig"),
        "{error}"
    );
}
