//! `/metrics`.
//!
//! Where kube-proxy measures the same thing, the name, type and buckets are kube-proxy's (`pkg/proxy/metrics/metrics.go` of
//! Kubernetes 1.36), so that its dashboards and SLOs keep working. Its `ip_family` label is left out: one sync programs
//! both families.

mod exposition;
mod http;
mod kernel;
mod process;

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets, linear_buckets},
    },
    registry::Registry,
};
use weir_core::model::Kind;

pub use http::router;
pub use kernel::{Kernel, TableFill};

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Seconds = Gauge<f64, AtomicU64>;

/// A probe of the health port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`
    Healthz,
    /// `/livez`
    Livez,
}

/// Which of a service's two traffic policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// `internalTrafficPolicy`
    Internal,
    /// `externalTrafficPolicy`
    External,
}

/// One sync under way: when it started, and what it takes along.
#[derive(Debug)]
#[must_use = "a sync that started is done or failed"]
pub struct Syncing {
    started: Instant,
    services: i64,
    endpoints: i64,
}

/// Everything the agent measures. Values that live in the kernel are read when they are asked for.
pub struct Metrics {
    registry: Registry,
    kernel: Arc<OnceLock<Arc<dyn Kernel>>>,

    sync: Histogram,
    sync_full: Histogram,
    sync_partial: Histogram,
    programming: Histogram,
    last_synced: Seconds,
    last_queued: Seconds,
    services_pending: Gauge,
    services_changed: Counter,
    endpoints_pending: Gauge,
    endpoints_changed: Counter,
    no_local_endpoints: Family<Labels<1>, Gauge>,
    healthz: Family<Labels<1>, Counter>,
    livez: Family<Labels<1>, Counter>,

    sync_failures: Counter,
    watch_events: Family<Labels<1>, Counter>,
    watch_failures: Family<Labels<1>, Counter>,
    watch_last_event: Family<Labels<1>, Seconds>,
    skipped: Family<Labels<1>, Gauge>,
    skipped_ever: Family<Labels<1>, Counter>,
    unprogrammed: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let sync_buckets = || exponential_buckets(0.001, 2.0, 15);
        let programming_buckets = linear_buckets(0.25, 0.25, 2)
            .chain(linear_buckets(1.0, 1.0, 59))
            .chain(linear_buckets(60.0, 5.0, 12))
            .chain(linear_buckets(120.0, 30.0, 7));
        let mut metrics = Self {
            registry: Registry::default(),
            kernel: Arc::default(),
            sync: Histogram::new(sync_buckets()),
            sync_full: Histogram::new(sync_buckets()),
            sync_partial: Histogram::new(sync_buckets()),
            programming: Histogram::new(programming_buckets),
            last_synced: Seconds::default(),
            last_queued: Seconds::default(),
            services_pending: Gauge::default(),
            services_changed: Counter::default(),
            endpoints_pending: Gauge::default(),
            endpoints_changed: Counter::default(),
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            sync_failures: Counter::default(),
            watch_events: Family::default(),
            watch_failures: Family::default(),
            watch_last_event: Family::default(),
            skipped: Family::default(),
            skipped_ever: Family::default(),
            unprogrammed: Gauge::default(),
        };
        metrics.start_at_zero();
        metrics.register();
        metrics
    }

    /// From now on each scrape also reads the kernel's tables.
    pub fn read_from(&self, kernel: Arc<dyn Kernel>) {
        if self.kernel.set(kernel).is_err() {
            tracing::warn!("the metrics already have a kernel to read from");
        }
    }

    /// The exposition in Prometheus' text format. Reads the kernel: may take milliseconds.
    ///
    /// # Errors
    /// None that writing to a `String` could have.
    pub fn text(&self) -> Result<String, fmt::Error> {
        exposition::text(&self.registry)
    }

    /// `n` changes of that kind were seen that a sync must program. Kinds other than Service and EndpointSlice only set
    /// the time.
    pub fn sync_queued(&self, kind: Kind, n: u32) {
        match kind {
            Kind::Service => {
                self.services_pending.inc_by(n.into());
                self.services_changed.inc_by(n.into());
            }
            Kind::EndpointSlice => {
                self.endpoints_pending.inc_by(n.into());
                self.endpoints_changed.inc_by(n.into());
            }
            Kind::Node | Kind::Namespace | Kind::Pod => {}
        }
        self.last_queued.set(unix_now());
    }

    /// A sync of everything queued so far begins.
    pub fn sync_started(&self) -> Syncing {
        Syncing {
            started: Instant::now(),
            services: self.services_pending.get(),
            endpoints: self.endpoints_pending.get(),
        }
    }

    /// The kernel holds what `sync` took along. `full`: every service was compared, not only those that changed.
    pub fn sync_done(&self, sync: &Syncing, full: bool) -> Duration {
        self.services_pending.dec_by(sync.services);
        self.endpoints_pending.dec_by(sync.endpoints);
        self.last_synced.set(unix_now());
        self.observe_sync(sync, full)
    }

    /// `sync` did not succeed; what it took along is still pending.
    pub fn sync_failed(&self, sync: &Syncing, full: bool) -> Duration {
        self.sync_failures.inc();
        self.observe_sync(sync, full)
    }

    fn observe_sync(&self, sync: &Syncing, full: bool) -> Duration {
        let took = sync.started.elapsed();
        let of_its_extent = if full {
            &self.sync_full
        } else {
            &self.sync_partial
        };
        for histogram in [&self.sync, of_its_extent] {
            histogram.observe(took.as_secs_f64());
        }
        took
    }

    /// A slice's change is programmed, that long after the time in its last-change-trigger-time annotation. For each slice
    /// of a sync that has the annotation, but not for those of the first list.
    pub fn programming_latency(&self, latency: Duration) {
        self.programming.observe(latency.as_secs_f64());
    }

    /// How many service ports have that policy `Local` and no endpoint on this node.
    pub fn no_local_endpoints(&self, policy: TrafficPolicy, service_ports: usize) {
        self.no_local_endpoints
            .get_or_create(&[("traffic_policy", policy.label())])
            .set(gauge(service_ports));
    }

    /// A probe was answered.
    pub fn probed(&self, probe: Probe, good: bool) {
        let code = [("code", if good { "200" } else { "503" })];
        match probe {
            Probe::Healthz => self.healthz.get_or_create(&code).inc(),
            Probe::Livez => self.livez.get_or_create(&code).inc(),
        };
    }

    /// `n` objects of that kind came from the source: changes, or the content of a list.
    pub fn watch_events(&self, kind: Kind, n: u64) {
        self.watch_events.get_or_create(&of(kind)).inc_by(n);
        self.watch_last_event
            .get_or_create(&of(kind))
            .set(unix_now());
    }

    /// A watch or list of that kind failed; the source tries again.
    pub fn watch_failed(&self, kind: Kind) {
        self.watch_failures.get_or_create(&of(kind)).inc();
    }

    /// One more version of an object was malformed and skipped.
    pub fn object_skipped(&self, kind: Kind) {
        self.skipped_ever.get_or_create(&of(kind)).inc();
    }

    /// How many objects of that kind are skipped now.
    pub fn objects_skipped_now(&self, kind: Kind, objects: usize) {
        self.skipped.get_or_create(&of(kind)).set(gauge(objects));
    }

    /// How many services are not programmed as they should be now.
    pub fn services_unprogrammed_now(&self, services: usize) {
        self.unprogrammed.set(gauge(services));
    }

    /// A series that appears only with its first event cannot show an increase from none to one.
    fn start_at_zero(&self) {
        for kind in Kind::ALL {
            for family in [&self.watch_events, &self.watch_failures, &self.skipped_ever] {
                drop(family.get_or_create(&of(kind)));
            }
            drop(self.skipped.get_or_create(&of(kind)));
        }
        for policy in [TrafficPolicy::Internal, TrafficPolicy::External] {
            self.no_local_endpoints(policy, 0);
        }
        for code in ["200", "503"] {
            drop(self.healthz.get_or_create(&[("code", code)]));
            drop(self.livez.get_or_create(&[("code", code)]));
        }
    }

    /// Counters are registered without the `_total` that the exposition appends.
    #[rustfmt::skip]
    fn register(&mut self) {
        let r = &mut self.registry;
        let k = r.sub_registry_with_prefix("kubeproxy");
        k.register("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", self.sync.clone());
        k.register("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs", self.sync_full.clone());
        k.register("sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for partial resyncs", self.sync_partial.clone());
        k.register("network_programming_duration_seconds", "In Cluster Network Programming Latency in seconds", self.programming.clone());
        k.register("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced", self.last_synced.clone());
        k.register("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", self.last_queued.clone());
        k.register("sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes", self.services_pending.clone());
        k.register("sync_proxy_rules_service_changes", "Cumulative proxy rules Service changes", self.services_changed.clone());
        k.register("sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes", self.endpoints_pending.clone());
        k.register("sync_proxy_rules_endpoint_changes", "Cumulative proxy rules Endpoint changes", self.endpoints_changed.clone());
        k.register("sync_proxy_rules_no_local_endpoints_total", "Number of services with a Local traffic policy and no endpoints", self.no_local_endpoints.clone());
        k.register("proxy_healthz", "Cumulative proxy healthz HTTP status", self.healthz.clone());
        k.register("proxy_livez", "Cumulative proxy livez HTTP status", self.livez.clone());

        let w = r.sub_registry_with_prefix("weir");
        w.register("sync_failures", "Syncs that did not succeed and were tried again", self.sync_failures.clone());
        w.register("watch_events", "Objects received, by kind: changes, and the content of lists", self.watch_events.clone());
        w.register("watch_failures", "Lists and watches that failed and were tried again, by kind", self.watch_failures.clone());
        w.register("watch_last_event_timestamp_seconds", "When the last object of that kind was received", self.watch_last_event.clone());
        w.register("objects_skipped", "Malformed objects that are skipped now, by kind", self.skipped.clone());
        // Its own family in the text format, where a counter's family has the full name.
        w.register("objects_skipped", "Versions of objects that were malformed and skipped, by kind", self.skipped_ever.clone());
        w.register("services_unprogrammed", "Services that do not fit into the tables, or do not get all their addresses", self.unprogrammed.clone());
        w.register("build_info", "Always 1; labels tell the agent's version and that of its kernel tables", build_info());

        r.register_collector(Box::new(kernel::Collector(Arc::clone(&self.kernel))));
        r.register_collector(Box::new(process::Collector::new()));
    }
}

impl TrafficPolicy {
    fn label(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

fn build_info() -> Family<[(&'static str, String); 2], ConstGauge> {
    let info = Family::new_with_constructor((|| ConstGauge::new(1)) as fn() -> ConstGauge);
    let abi = weir_abi::VERSION.to_string();
    drop(info.get_or_create(&[
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("abi", abi),
    ]));
    info
}

fn of(kind: Kind) -> Labels<1> {
    [("kind", kind.label())]
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests;
