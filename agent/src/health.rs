//! `/healthz` and `/livez` as kube-proxy answers them (`pkg/proxy/healthcheck/proxy_health.go` of Kubernetes 1.36), so that
//! load balancers and probes made for it keep working.
//!
//! Both are 503 once an update has been waiting to be programmed for [`LATE`]. `/healthz` is also 503 while the node is
//! being deleted or is tainted by the cluster autoscaler: load balancers then stop sending new connections, but the
//! kubelet, which asks `/livez`, does not restart the agent. Before the first update both are 200: the kernel still holds
//! what the previous agent programmed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::metrics::{Metrics, Probe};

/// How long an update may wait; kube-proxy's is twice its sync period of 30 s.
pub const LATE: Duration = Duration::from_secs(60);

/// A point in time on both clocks: intervals are measured on the one that never jumps, people read the other.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic.
    pub instant: Instant,
    /// Wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// What the agent's main loop tells about its progress.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    oldest_queued: Option<Instant>,
    last_updated: Option<Timestamp>,
    node_eligible: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            oldest_queued: None,
            last_updated: None,
            node_eligible: true,
        }
    }
}

impl Health {
    /// A change arrived that must be programmed. Not to be called before every source has listed: until then nothing
    /// is meant to be programmed.
    pub fn queued(&self, now: Moment) {
        self.change(|state| {
            state.oldest_queued.get_or_insert(now.instant);
        });
    }

    /// Everything queued so far is programmed.
    pub fn updated(&self, now: Moment) {
        self.change(|state| {
            state.oldest_queued = None;
            state.last_updated = Some(now.wall);
        });
    }

    /// Whether this node may receive new traffic: its Node exists, is not being deleted, and has no taint with the key
    /// `ToBeDeletedByClusterAutoscaler`. True until told otherwise.
    pub fn node_eligible(&self, eligible: bool) {
        self.change(|state| state.node_eligible = eligible);
    }

    /// Whether updates are programmed in time, whatever the state of the Node.
    #[must_use]
    pub fn is_live(&self, now: Moment) -> bool {
        let state = self.read();
        state
            .oldest_queued
            .is_none_or(|queued| now.instant.saturating_duration_since(queued) < LATE)
    }

    /// The answer to `probe`, and whether it is a good one.
    #[must_use]
    pub fn report(&self, probe: Probe, now: Moment) -> (bool, Report) {
        let live = self.is_live(now);
        let state = self.read();
        let good = match probe {
            Probe::Livez => live,
            Probe::Healthz => live && state.node_eligible,
        };
        let family = || FamilyReport {
            last_updated: GoTime(state.last_updated),
            healthy: live,
        };
        let report = Report {
            // kube-proxy once ran a sync every 30 s, needed or not, and keeps saying so while all is well.
            last_updated: GoTime(if good {
                Some(now.wall)
            } else {
                state.last_updated
            }),
            current_time: GoTime(Some(now.wall)),
            node_eligible: (probe == Probe::Healthz).then_some(state.node_eligible),
            healthy: live,
            status: state.last_updated.is_some().then(|| FamiliesReport {
                ipv4: family(),
                ipv6: family(),
            }),
        };
        (good, report)
    }

    fn change(&self, with: impl FnOnce(&mut State)) {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body: kube-proxy's `ProxyHealth`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    last_updated: GoTime,
    current_time: GoTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<FamiliesReport>,
}

/// One sync programs both families, so both always say the same.
#[derive(Clone, Debug, Serialize)]
struct FamiliesReport {
    #[serde(rename = "IPv4")]
    ipv4: FamilyReport,
    #[serde(rename = "IPv6")]
    ipv6: FamilyReport,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: GoTime,
    healthy: bool,
}

/// A time as Go's `encoding/json` writes it: RFC 3339, and year 1 for "never".
#[derive(Clone, Copy, Debug)]
struct GoTime(Option<Timestamp>);

impl Serialize for GoTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => serializer.collect_str(&time),
            None => serializer.serialize_str("0001-01-01T00:00:00Z"),
        }
    }
}

/// Serves both probes. `now` is [`Moment::now`], but for tests.
pub fn router(
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    now: impl Fn() -> Moment + Clone + Send + Sync + 'static,
) -> Router {
    let answer = move |probe: Probe| -> Response {
        let (good, report) = health.report(probe, now());
        let code = if good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        metrics.probed(probe, good);
        let headers = [
            (header::CONTENT_TYPE, "application/json"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        match serde_json::to_string(&report) {
            Ok(body) => (code, headers, body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    };
    let livez = answer.clone();
    Router::new()
        .route("/healthz", get(async move || answer(Probe::Healthz)))
        .route("/livez", get(async move || livez(Probe::Livez)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use hyper::Request;
    use tower::ServiceExt as _;

    use super::*;

    struct Setup {
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        start: Moment,
    }

    impl Setup {
        fn new() -> Self {
            let start = Moment {
                instant: Instant::now(),
                wall: "2026-11-20T12:00:00.25Z".parse().unwrap(),
            };
            Self {
                health: Arc::default(),
                metrics: Arc::new(Metrics::new()),
                start,
            }
        }

        fn at(&self, seconds: f64) -> Moment {
            let passed = Duration::from_secs_f64(seconds);
            Moment {
                instant: self.start.instant + passed,
                wall: self.start.wall + passed,
            }
        }

        async fn ask(&self, path: &str, seconds: f64) -> (u16, String) {
            let now = self.at(seconds);
            let router = router(
                Arc::clone(&self.health),
                Arc::clone(&self.metrics),
                move || now,
            );
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = router.oneshot(request).await.unwrap();
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (code, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn codes(&self, seconds: f64) -> (u16, u16) {
            (
                self.ask("/healthz", seconds).await.0,
                self.ask("/livez", seconds).await.0,
            )
        }
    }

    #[tokio::test]
    async fn an_agent_that_starts_is_healthy_and_does_not_claim_an_update() {
        let setup = Setup::new();
        let (code, body) = setup.ask("/livez", 100.0).await;
        assert_eq!(code, 200);
        assert_eq!(
            body,
            r#"{"lastUpdated":"2026-11-20T12:01:40.25Z","currentTime":"2026-11-20T12:01:40.25Z","healthy":true}"#
        );
    }

    #[tokio::test]
    async fn the_body_is_kube_proxys() {
        let setup = Setup::new();
        setup.health.updated(setup.at(0.75));
        let (code, body) = setup.ask("/healthz", 10.0).await;
        assert_eq!(code, 200);
        assert_eq!(
            body,
            concat!(
                r#"{"lastUpdated":"2026-11-20T12:00:10.25Z","currentTime":"2026-11-20T12:00:10.25Z","#,
                r#""nodeEligible":true,"healthy":true,"status":{"#,
                r#""IPv4":{"lastUpdated":"2026-11-20T12:00:01Z","healthy":true},"#,
                r#""IPv6":{"lastUpdated":"2026-11-20T12:00:01Z","healthy":true}}}"#
            )
        );
    }

    #[tokio::test]
    async fn an_update_may_wait_for_sixty_seconds() {
        let setup = Setup::new();
        setup.health.updated(setup.at(0.0));
        setup.health.queued(setup.at(100.0));
        setup.health.queued(setup.at(150.0));
        assert_eq!(setup.codes(159.999).await, (200, 200));
        assert_eq!(setup.codes(160.0).await, (503, 503));
        let (_, body) = setup.ask("/livez", 160.0).await;
        assert_eq!(
            body,
            concat!(
                r#"{"lastUpdated":"2026-11-20T12:00:00.25Z","currentTime":"2026-11-20T12:02:40.25Z","healthy":false,"status":{"#,
                r#""IPv4":{"lastUpdated":"2026-11-20T12:00:00.25Z","healthy":false},"#,
                r#""IPv6":{"lastUpdated":"2026-11-20T12:00:00.25Z","healthy":false}}}"#
            )
        );
        setup.health.updated(setup.at(161.0));
        assert_eq!(setup.codes(500.0).await, (200, 200));
    }

    #[tokio::test]
    async fn a_node_that_goes_away_fails_healthz_but_not_livez() {
        let setup = Setup::new();
        setup.health.node_eligible(false);
        assert_eq!(setup.codes(1.0).await, (503, 200));
        let (_, body) = setup.ask("/healthz", 1.0).await;
        assert_eq!(
            body,
            r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2026-11-20T12:00:01.25Z","nodeEligible":false,"healthy":true}"#
        );
        setup.health.node_eligible(true);
        assert_eq!(setup.codes(2.0).await, (200, 200));
    }

    #[tokio::test]
    async fn answers_are_counted_by_code() {
        let setup = Setup::new();
        setup.health.node_eligible(false);
        setup.codes(1.0).await;
        setup.codes(1.0).await;
        let text = setup.metrics.text().unwrap();
        for line in [
            r#"kubeproxy_proxy_healthz_total{code="200"} 0"#,
            r#"kubeproxy_proxy_healthz_total{code="503"} 2"#,
            r#"kubeproxy_proxy_livez_total{code="200"} 2"#,
            r#"kubeproxy_proxy_livez_total{code="503"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
