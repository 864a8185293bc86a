//! What failures say, and how long the watch waits after them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::Status;
use kube::runtime::watcher;
use serde_json::Value;

use super::SERVER;
use crate::source::kube::failure::{Failure, Patience, Recovery, explain};
use crate::source::kube::pace::Pace;

pub(super) fn api(code: u16, reason: &str, message: &str) -> watcher::Error {
    let status = Status::failure(message, reason).with_code(code);
    watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
}

pub(super) fn io(kind: std::io::ErrorKind) -> watcher::Error {
    watcher::Error::WatchStartFailed(kube::Error::Service(Box::new(std::io::Error::from(kind))))
}

fn other(text: &str) -> watcher::Error {
    watcher::Error::InitialListFailed(kube::Error::Service(text.into()))
}

#[test]
fn failures_say_what_to_do() {
    use std::io::ErrorKind;
    let broken = serde_json::from_str::<Value>("<html>").expect_err("not JSON");
    let garbled = watcher::Error::InitialListFailed(kube::Error::SerdeError(broken));
    let forbidden = Status::failure("no", "Forbidden").with_code(403);
    let forbidden = watcher::Error::WatchStartFailed(kube::Error::Api(forbidden.boxed()));
    let expired = Status::failure("too old resource version", "Expired").with_code(410);
    let expired = watcher::Error::WatchError(expired.boxed());
    type Row<'a> = (watcher::Error, Recovery, Patience, &'a [&'a str]);
    let table: &[Row<'_>] = &[
        (
            api(403, "Forbidden", "User \"x\" cannot list"),
            Recovery::Resume,
            Patience::Medium,
            &[
                "the agent may not list endpointslices.discovery.k8s.io at cluster scope",
                "grant the verbs list and watch on \"endpointslices\" in API group \"discovery.k8s.io\" to its ClusterRole",
                "User \"x\" cannot list",
            ],
        ),
        (
            forbidden,
            Recovery::Resume,
            Patience::Medium,
            &["may not watch endpointslices"],
        ),
        (
            api(401, "Unauthorized", "Unauthorized"),
            Recovery::Reconnect,
            Patience::Medium,
            &[SERVER, "does not accept the agent's credentials"],
        ),
        (
            api(404, "NotFound", "page not found"),
            Recovery::Reconnect,
            Patience::Long,
            &[
                "does not serve endpointslices.discovery.k8s.io in version v1",
                "1.21",
            ],
        ),
        (
            expired,
            Recovery::Relist,
            Patience::Long,
            &["too old resource version"],
        ),
        (
            api(410, "Expired", "continue"),
            Recovery::Relist,
            Patience::Long,
            &["listing again"],
        ),
        (
            api(429, "TooManyRequests", ""),
            Recovery::Resume,
            Patience::Long,
            &["less often"],
        ),
        (
            api(500, "InternalError", "etcd is away"),
            Recovery::Resume,
            Patience::Long,
            &["status 500", "etcd is away", "log"],
        ),
        (
            io(ErrorKind::ConnectionRefused),
            Recovery::NextServer,
            Patience::Short,
            &[
                "nothing listens at https://192.0.2.1:6443",
                "is the API server running",
            ],
        ),
        (
            io(ErrorKind::TimedOut),
            Recovery::NextServer,
            Patience::Short,
            &["does not answer", "firewalls"],
        ),
        (
            io(ErrorKind::ConnectionReset),
            Recovery::NextServer,
            Patience::Short,
            &["no connection to"],
        ),
        (
            other("invalid peer certificate: UnknownIssuer"),
            Recovery::NextServer,
            Patience::Medium,
            &["certificate-authority", "UnknownIssuer"],
        ),
        (
            other("dns error: no such host"),
            Recovery::NextServer,
            Patience::Short,
            &["cannot be resolved"],
        ),
        (
            garbled,
            Recovery::Reconnect,
            Patience::Long,
            &["not what Kubernetes sends"],
        ),
        (
            watcher::Error::NoResourceVersion,
            Recovery::Reconnect,
            Patience::Long,
            &["is it a Kubernetes API server"],
        ),
    ];
    for (error, recovery, patience, fragments) in table {
        let failure = explain::<EndpointSlice>(SERVER, error);
        assert_eq!(
            (failure.recovery, failure.patience),
            (*recovery, *patience),
            "{failure:?}"
        );
        for fragment in *fragments {
            assert!(
                failure.text.contains(fragment),
                "{fragment:?} is not in {:?}",
                failure.text
            );
        }
    }
    let core = explain::<Pod>(SERVER, &api(403, "Forbidden", ""));
    assert!(
        core.text.contains("may not list pods at cluster scope"),
        "{core:?}"
    );
    assert!(
        core.text.contains("on \"pods\" in API group \"\""),
        "{core:?}"
    );
}

#[test]
fn waits_grow_to_their_limit_and_heed_what_the_server_asks() {
    let failure = |patience, asked| Failure {
        text: String::new(),
        recovery: Recovery::Resume,
        patience,
        asked: Duration::from_secs(asked),
    };
    for patience in [Patience::Short, Patience::Medium, Patience::Long] {
        let mut pace = Pace::default();
        let waits: Vec<_> = (0..40).map(|_| pace.after(&failure(patience, 0))).collect();
        assert!(waits[0] <= Duration::from_millis(200), "{waits:?}");
        assert!(
            waits.iter().all(|wait| *wait <= patience.limit()),
            "{waits:?}"
        );
        assert!(waits[39] >= patience.limit() / 2, "{waits:?}");
        pace.reset();
        assert!(pace.after(&failure(patience, 0)) <= Duration::from_millis(200));
    }
    let mut pace = Pace::default();
    assert_eq!(
        pace.after(&failure(Patience::Long, 9)),
        Duration::from_secs(9)
    );
    // Nor can it put the agent to sleep for hours.
    assert_eq!(
        pace.after(&failure(Patience::Long, 9000)),
        Duration::from_secs(30)
    );
}

#[test]
fn after_a_long_outage_an_expired_watch_is_listed_again_at_once() {
    let refused = std::io::ErrorKind::ConnectionRefused;
    let outage = explain::<Pod>(SERVER, &io(refused));
    let mut pace = Pace::default();
    for _ in 0..20 {
        pace.after(&outage);
    }
    for (code, reason) in [(410, "Expired"), (403, "Forbidden"), (500, "InternalError")] {
        let failure = explain::<Pod>(SERVER, &api(code, reason, ""));
        let wait = pace.after(&failure);
        assert!(wait <= Duration::from_millis(200), "{code}: {wait:?}");
    }
    assert_eq!(pace.failures(), 23);
}
