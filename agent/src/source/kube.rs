//! The objects of a Kubernetes API server: one watch per kind, each with a client and retries of its own.
//!
//! A watch lists in pages, so that no more than one page of JSON is in memory, and every object is reduced once it is
//! decoded. What fails is reported with what to do about it and tried again: after up to 2 s while nobody answers, 10 s
//! while the server refuses the agent, 30 s while it is in trouble, or what it asks for. While nobody answers, other servers
//! are tried in turn, if any are known. A server is noticed to be gone
//! within about half a minute, by TCP keepalive, and within five by the watch's own deadline if its kernel still answers.

mod announce;
mod client;
mod failure;
mod fold;
mod guard;
mod pace;
mod servers;
#[cfg(test)]
mod tests;
mod text;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::announce::{Announcement, Announcements, Announcer, Reason, announcements};
use self::servers::Servers;
use self::watch::Watch;
use super::Event;

/// How to reach the API server, and what to watch there.
#[derive(Clone, Debug)]
pub struct Options {
    /// A kubeconfig file; without one, the service account of the pod the agent runs in (`KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT` say where the server is).
    pub kubeconfig: Option<PathBuf>,
    /// This node's name, as its Node object has it.
    pub node_name: String,
    /// Which Nodes to watch. All nodes of a large cluster send a steady stream of status updates to every agent.
    pub nodes: Breadth,
    /// Which Pods to watch.
    pub pods: Breadth,
}

/// How much of a kind to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breadth {
    /// What belongs to this node.
    #[default]
    ThisNode,
    /// The whole cluster.
    Cluster,
}

/// Where else to look for an API server. Nothing by default, but for what the running agent learns.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    /// API servers to try in turn, in place of the address in the kubeconfig or the service account.
    pub servers: Vec<hyper::Uri>,
    /// Where the last known endpoints of `default/kubernetes` are kept, to be tried after the others.
    pub memory: Option<PathBuf>,
}

/// Why no API server is known at all. A server that is only away is no error.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kubeconfig is not there or not usable.
    #[error("the kubeconfig {path} cannot be used: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<KubeconfigError>,
    },
    /// Neither a kubeconfig nor a service account.
    #[error(
        "not in a pod with a service account ({0}): give --kubeconfig FILE to reach an API server, or --manifests DIR to \
         run without one"
    )]
    InCluster(#[source] InClusterError),
    /// The addresses, certificates or credentials do not make a client.
    #[error("the API server's certificates or the agent's credentials cannot be used: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// The watches, ready to run.
pub struct Source {
    options: Options,
    bootstrap: Bootstrap,
    announcements: Option<Announcements>,
}

impl Source {
    /// Checks that the configuration can be read, so that a mistake in it is found at once. Nothing is sent yet.
    ///
    /// # Errors
    /// When there is no usable kubeconfig or service account.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let config = configure(&options).await?;
        client::build(&config).map_err(|error| OpenError::Client(Box::new(error)))?;
        if config.proxy_url.is_some() {
            tracing::warn!(
                "the kubeconfig or the environment names a proxy for the API server: Weir connects directly"
            );
        }
        Ok(Self {
            options,
            bootstrap: Bootstrap::default(),
            announcements: None,
        })
    }

    /// With more API servers than the configured one.
    #[must_use]
    pub fn bootstrap(mut self, bootstrap: Bootstrap) -> Self {
        self.bootstrap = bootstrap;
        self
    }

    /// Makes Events of what is announced.
    #[must_use]
    pub fn announce(mut self, announcements: Announcements) -> Self {
        self.announcements = Some(announcements);
        self
    }

    /// Sends events until the receiver is dropped. Dropping the future ends the watches.
    pub async fn run(self, events: mpsc::Sender<Event>) {
        let Self {
            options,
            bootstrap,
            announcements,
        } = self;
        let servers = Arc::new(Servers::new(bootstrap));
        let only = |breadth, field: &str| match breadth {
            Breadth::ThisNode => format!("{field}={}", options.node_name),
            Breadth::Cluster => String::new(),
        };
        let watch = |page_size, fields| Watch {
            options: options.clone(),
            servers: Arc::clone(&servers),
            page_size,
            fields,
            events: events.clone(),
        };
        // Ends with the watches.
        let mut announcing = JoinSet::new();
        if let Some(announcements) = announcements {
            let servers = Arc::clone(&servers);
            announcing.spawn(announce::run(options.clone(), servers, announcements));
        }
        let mut watches = JoinSet::new();
        // Such a page is about a megabyte of JSON, of slices with many endpoints each a few; it is copied twice before it is
        // decoded. Smaller ones cost the server more in all.
        watches.spawn(watch(500, String::new()).follow::<Service>());
        watches.spawn(watch(250, String::new()).follow::<EndpointSlice>());
        watches.spawn(watch(100, only(options.nodes, "metadata.name")).follow::<Node>());
        watches.spawn(watch(500, String::new()).follow::<Namespace>());
        watches.spawn(watch(200, only(options.pods, "spec.nodeName")).follow::<Pod>());
        drop(events);
        while watches.join_next().await.is_some() {}
    }
}

async fn configure(options: &Options) -> Result<Config, OpenError> {
    match &options.kubeconfig {
        None => Config::incluster_env().map_err(OpenError::InCluster),
        Some(path) => {
            let unusable = |source| OpenError::Kubeconfig {
                path: path.clone(),
                source: Box::new(source),
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(unusable)
        }
    }
}
