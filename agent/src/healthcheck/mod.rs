//! The health check ports of services (`spec.healthCheckNodePort`), answered as kube-proxy answers them
//! (`pkg/proxy/healthcheck/service_health.go` of Kubernetes 1.36).
//!
//! A cloud's load balancer asks each node's port whether to send a service's external traffic there: yes (200) while the
//! node has ready endpoints of its own and its service proxy is healthy, else no (503). The body names the service, and a
//! header gives the number of endpoints, by which some load balancers weigh nodes. Path and method do not matter.
//!
//! Each service has a server of its own. A port that is taken is tried again, by every [`HealthChecks::set`] and by the clock,
//! until it is had or no longer wanted: most often the one who holds it is kube-proxy on its way out.

mod answer;
mod server;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle};
use weir_core::model::ObjectName;

use self::server::Server;
use crate::health::Health;

/// How soon a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is wanted of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service's `healthCheckNodePort`.
    pub port: u16,
    /// How many ready endpoints it has on this node.
    pub local_endpoints: usize,
}

/// A port that cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error(
    "the health check of service {service} cannot listen at {address}: {error}; load balancers take this node for one without \
     endpoints of it; it is tried again"
)]
pub struct PortError {
    /// The service.
    pub service: ObjectName,
    /// Where it is to listen.
    pub address: SocketAddr,
    /// Why it cannot.
    pub error: io::Error,
}

/// The servers of all services. Dropping it closes them.
pub struct HealthChecks {
    shared: Arc<Shared>,
    retries: JoinHandle<()>,
}

struct Shared {
    runtime: Handle,
    health: Arc<Health>,
    addresses: Vec<IpAddr>,
    report: Box<dyn Fn(&PortError) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    desired: BTreeMap<ObjectName, HealthCheck>,
    open: BTreeMap<ObjectName, Open>,
    /// Services whose port could not be had, and the error that was reported.
    failed: BTreeMap<ObjectName, (SocketAddr, Option<i32>)>,
}

/// A service that is answered for.
struct Open {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    /// One for each address.
    servers: Vec<Server>,
}

impl HealthChecks {
    /// Answers for nobody yet. Servers listen on `addresses` (those that `--nodeport-addresses` chose); on all of the node's
    /// when there are none. `health` says whether the proxy is healthy; `report` is told of every port that cannot be had,
    /// once until that changes. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(
        health: Arc<Health>,
        addresses: Vec<IpAddr>,
        report: impl Fn(&PortError) + Send + Sync + 'static,
    ) -> Self {
        let runtime = Handle::current();
        let shared = Arc::new(Shared {
            runtime: runtime.clone(),
            health,
            addresses,
            report: Box::new(report),
            state: Mutex::default(),
        });
        let retrying = Arc::clone(&shared);
        let retries = runtime.spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                let mut state = retrying.lock();
                if !state.failed.is_empty() {
                    retrying.open_missing(&mut state);
                }
            }
        });
        Self { shared, retries }
    }

    /// From now on exactly these services are answered for. Ports that are no longer wanted are closed before others are
    /// opened, so that a port can pass from one service to another. Does not block; may be called from any thread.
    pub fn set(&self, desired: BTreeMap<ObjectName, HealthCheck>) {
        let mut state = self.shared.lock();
        let State { open, failed, .. } = &mut *state;
        open.retain(|service, open| {
            desired
                .get(service)
                .is_some_and(|new| new.port == open.port)
        });
        failed.retain(|service, (address, _)| {
            desired
                .get(service)
                .is_some_and(|new| new.port == address.port())
        });
        for (service, open) in open {
            let count = desired.get(service).map_or(0, |new| new.local_endpoints);
            open.local_endpoints.store(count, Ordering::Relaxed);
        }
        state.desired = desired;
        self.shared.open_missing(&mut state);
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.retries.abort();
        self.shared.lock().open.clear();
    }
}

impl fmt::Debug for HealthChecks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("HealthChecks")
            .field("desired", &state.desired)
            .field("failed", &state.failed)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_missing(&self, state: &mut State) {
        let _runtime = self.runtime.enter();
        let State {
            desired,
            open,
            failed,
        } = state;
        for (service, check) in desired {
            if open.contains_key(service) {
                continue;
            }
            match self.open(service, *check) {
                Ok(opened) => {
                    open.insert(service.clone(), opened);
                    if failed.remove(service).is_some() {
                        tracing::info!(%service, port = check.port, "the health check listens now");
                    }
                }
                Err(error) => {
                    let reason = (error.address, error.error.raw_os_error());
                    if failed.insert(service.clone(), reason) != Some(reason) {
                        tracing::warn!("{error}");
                        (self.report)(&error);
                    }
                }
            }
        }
    }

    /// Listens on every address, or on none.
    fn open(&self, service: &ObjectName, check: HealthCheck) -> Result<Open, PortError> {
        let mut opened = Open {
            port: check.port,
            local_endpoints: Arc::new(AtomicUsize::new(check.local_endpoints)),
            servers: Vec::new(),
        };
        let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = if self.addresses.is_empty() {
            &everywhere[..]
        } else {
            &self.addresses
        };
        for address in addresses {
            let address = SocketAddr::new(*address, check.port);
            let listener = server::listen(address).map_err(|error| PortError {
                service: service.clone(),
                address,
                error,
            })?;
            let router = answer::router(
                service.clone(),
                Arc::clone(&opened.local_endpoints),
                Arc::clone(&self.health),
            );
            opened.servers.push(Server::start(listener, router));
        }
        Ok(opened)
    }
}

#[cfg(test)]
mod tests;
