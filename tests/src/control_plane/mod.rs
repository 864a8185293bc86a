//! The real Kubernetes control plane, in a network namespace of its own.
//!
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler run once per test binary. Its tests
//! share them, each in an API namespace of its own; a test that is going to disturb the others asks to
//! be alone.
//!
//! ```no_run
//! use weir_tests::control_plane::{self, Identity, Node, Pod, Service};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = control_plane::shared()?;
//! let namespace = cluster.namespace("spread")?;
//! let _node = cluster.node(&Node::new("spread-1").internal_ips(&["192.0.2.11"]))?;
//! namespace.service(&Service::new("web").select("app", "web").port("http", 80, 8080))?;
//! namespace.pod(&Pod::new("web-1").label("app", "web").node("spread-1").ips(&["198.51.100.1"]))?;
//! namespace.wait_for_endpoints("web", "198.51.100.1 is ready", |endpoints| {
//!     endpoints.ready() == ["198.51.100.1"]
//! })?;
//!
//! let proxy = cluster.proxy()?;
//! let kubeconfig = cluster.kubeconfig(proxy.url(), &Identity::Administrator)?;
//! let mut agent = std::process::Command::new("weir");
//! agent.arg("run").arg("--kubeconfig").arg(kubeconfig);
//! let agent = cluster.spawn("agent", agent)?;
//! proxy.cut(); // and the agent has to come again
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is left however the test's process ends, SIGKILL included: the processes are killed by the
//! kernel, with them the network namespace goes, and files are removed by a child that waits for it.
//! With `WEIR_CONTROL_PLANE_LOGS=DIR` the components' logs are written to DIR and stay.

mod binary;
mod cluster;
mod components;
mod endpoints;
mod etcd;
mod io;
mod namespace;
mod netns;
mod node;
mod objects;
mod pki;
mod process;
mod proxy;
mod scratch;

use std::{
    ops::Deref,
    sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};

pub use cluster::{ADDRESSES, Cluster, Identity};
pub use endpoints::Endpoints;
pub use namespace::Namespace;
pub use netns::Netns;
pub use node::NodeGuard;
pub use objects::{Node, Pod, Service};
pub use process::Process;
pub use proxy::Proxy;

static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
static USERS: RwLock<()> = RwLock::new(());

/// The control plane, while other tests use it as well.
#[derive(Debug)]
pub struct Shared {
    cluster: &'static Cluster,
    _users: RwLockReadGuard<'static, ()>,
}

/// The control plane, while nobody else uses it.
#[derive(Debug)]
pub struct Exclusive {
    cluster: &'static Cluster,
    _users: RwLockWriteGuard<'static, ()>,
}

/// This test binary's control plane, started if it is the first use.
///
/// # Errors
/// When it has not been built or does not start; the message holds the log of the component at fault.
pub fn shared() -> Result<Shared> {
    Ok(Shared {
        _users: USERS.read().unwrap_or_else(PoisonError::into_inner),
        cluster: the_cluster()?,
    })
}

/// The same control plane for a test that counts all nodes, stops the API server or compacts etcd.
/// Waits until no other test uses it; so a test must not ask while it holds a [`Shared`]. When it is
/// dropped, the API server runs again.
///
/// # Errors
/// As [`shared`].
pub fn exclusive() -> Result<Exclusive> {
    Ok(Exclusive {
        _users: USERS.write().unwrap_or_else(PoisonError::into_inner),
        cluster: the_cluster()?,
    })
}

fn the_cluster() -> Result<&'static Cluster> {
    CLUSTER
        .get_or_init(|| Cluster::start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|message| anyhow!("the control plane did not start: {message}"))
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Deref for Exclusive {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Exclusive {
    /// Ends the API server in good order and waits until it is gone. Its port refuses connections.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop_api_server(&self) -> Result<()> {
        self.cluster.stop_api_server(false)
    }

    /// Kills the API server (SIGKILL).
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_api_server(&self) -> Result<()> {
        self.cluster.stop_api_server(true)
    }

    /// Starts the API server, unless it runs, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.cluster.start_api_server()
    }

    /// Restarts the API server.
    ///
    /// # Errors
    /// As [`Exclusive::stop_api_server`] and [`Exclusive::start_api_server`].
    pub fn restart_api_server(&self) -> Result<()> {
        self.stop_api_server()?;
        self.start_api_server()
    }

    /// Makes every resource version so far a thing of the past: a watch that goes on from one is
    /// answered 410 Gone. Compacts etcd, and restarts the API server if it runs, since that
    /// would go on serving recent versions out of its own memory.
    ///
    /// # Errors
    /// When etcd refuses or the API server does not come back.
    pub fn expire_resource_versions(&self) -> Result<()> {
        let running = self.cluster.api_server_runs();
        if running {
            self.stop_api_server()?;
        }
        self.cluster.compact()?;
        if running {
            self.start_api_server()?;
        }
        Ok(())
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.start_api_server() {
            eprintln!("the API server does not run again after a test that stopped it: {error:#}");
        }
    }
}

/// How long [`eventually`] waits: a guard against waiting for ever, far above what anything takes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Calls `look` until it finds something, which it returns.
///
/// # Errors
/// When it has found nothing for [`PATIENCE`], naming `what` was waited for, or at once when `look` fails.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
