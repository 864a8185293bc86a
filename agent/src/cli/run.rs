//! The options of `weir run`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use super::{
    kube_proxy::Ignored,
    values::{ApiServer, Device, NodePortAddress, bind_address},
};
use crate::{
    http::BindAddress,
    log::{Format, Level},
    redirect::LocalRedirect,
};

/// Everything `weir run` can be told. Each option is also an environment variable; the option wins.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// This node's name in Kubernetes [default: the host's name, in lower case]
    #[arg(
        long,
        visible_alias = "hostname-override",
        value_name = "NAME",
        env = "WEIR_NODE_NAME"
    )]
    pub node_name: Option<String>,

    /// A configuration file of kube-proxy's: what Weir has as well is taken, options win, the rest is named in a warning
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub config: Option<PathBuf>,

    /// Detach and remove everything Weir ever left on this node and end, as `weir cleanup` does
    #[arg(
        long,
        env = "WEIR_CLEANUP",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true
    )]
    pub cleanup: bool,

    /// How to reach the API server [default: the service account of the pod it runs in]
    #[arg(
        long,
        value_name = "FILE",
        env = "WEIR_KUBECONFIG",
        conflicts_with = "manifests",
        help_heading = "Source"
    )]
    pub kubeconfig: Option<PathBuf>,

    /// Read Services, EndpointSlices, Nodes, Namespaces and Pods from the YAML files of a directory instead of an API
    /// server, and follow their changes
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_MANIFESTS",
        help_heading = "Source"
    )]
    pub manifests: Option<PathBuf>,

    /// Where API servers are, tried in turn, in place of the address in the kubeconfig or of the service account; the last
    /// ones known to work are remembered as well
    #[arg(
        long,
        visible_alias = "master",
        value_name = "URL",
        env = "WEIR_APISERVER",
        value_delimiter = ',',
        conflicts_with = "manifests",
        help_heading = "Source"
    )]
    pub apiserver: Vec<ApiServer>,

    /// On which of the node's addresses node ports are served: `primary`, or ranges of addresses; a range with 127.0.0.1 in
    /// it serves the node itself there
    #[arg(
        long,
        value_name = "CIDR",
        env = "WEIR_NODEPORT_ADDRESSES",
        value_delimiter = ',',
        default_value = "primary",
        help_heading = "Services"
    )]
    pub nodeport_addresses: Vec<NodePortAddress>,

    /// The node's devices to other machines, on which node ports, load balancer and external addresses are served; a * at
    /// the end stands for any end [default: those that have the node's addresses]
    #[arg(
        long,
        value_name = "NAME",
        env = "WEIR_DEVICES",
        value_delimiter = ',',
        help_heading = "Services"
    )]
    pub devices: Vec<Device>,

    /// Whether the external IPs of services are served; whoever may write a service can claim any address with them
    #[arg(
        long,
        value_name = "BOOL",
        env = "WEIR_EXTERNAL_IPS",
        action = clap::ArgAction::Set,
        default_value = "true",
        help_heading = "Services"
    )]
    pub external_ips: bool,

    /// Whether packets between pods of this node are handed over directly, past the node's own rules
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        env = "WEIR_LOCAL_REDIRECT",
        default_value = "auto",
        help_heading = "Services"
    )]
    pub local_redirect: LocalRedirect,

    /// The cgroup v2 directory below which processes are served: the root of the node [default: where cgroup2 is mounted]
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_CGROUP_ROOT",
        help_heading = "Kernel"
    )]
    pub cgroup_root: Option<PathBuf>,

    /// The bpf file system where tables and programs are pinned, so that they outlive the agent
    #[arg(long, value_name = "DIR", env = "WEIR_BPFFS", default_value = DEFAULT_BPFFS, help_heading = "Kernel")]
    pub bpffs: PathBuf,

    /// Room for frontends: addresses and ports of services, each counted once for this node and once for outside
    #[arg(
        long,
        value_name = "COUNT",
        env = "WEIR_MAX_FRONTENDS",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Capacity"
    )]
    pub max_frontends: Option<u32>,

    /// Room for slots: the endpoints of every service port, and as many again while they are replaced
    #[arg(
        long,
        value_name = "COUNT",
        env = "WEIR_MAX_SLOTS",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Capacity"
    )]
    pub max_slots: Option<u32>,

    /// Room for backends: distinct addresses and ports of endpoints
    #[arg(
        long,
        value_name = "COUNT",
        env = "WEIR_MAX_BACKENDS",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Capacity"
    )]
    pub max_backends: Option<u32>,

    /// Room for flows: each takes two, one for each direction; the least used goes when it is full
    #[arg(
        long,
        value_name = "COUNT",
        env = "WEIR_MAX_FLOWS",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Capacity"
    )]
    pub max_flows: Option<u32>,

    /// Where /metrics and /proxyMode are served; empty: nowhere
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "WEIR_METRICS_BIND_ADDRESS",
        default_value = "127.0.0.1:10249",
        value_parser = |text: &str| bind_address(text, 10249),
        help_heading = "Serving"
    )]
    pub metrics_bind_address: BindAddress,

    /// Where /healthz and /livez are served; empty: nowhere
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "WEIR_HEALTHZ_BIND_ADDRESS",
        default_value = "0.0.0.0:10256",
        value_parser = |text: &str| bind_address(text, 10256),
        help_heading = "Serving"
    )]
    pub healthz_bind_address: BindAddress,

    /// The socket that `weir status` and the other subcommands ask; only root can open it
    #[arg(long, value_name = "PATH", env = "WEIR_API_SOCKET", default_value = crate::api::DEFAULT_SOCKET, help_heading = "Serving")]
    pub api_socket: PathBuf,

    /// How log lines look
    #[arg(
        long,
        visible_alias = "logging-format",
        value_enum,
        value_name = "FORMAT",
        env = "WEIR_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: Format,

    /// What is logged: error, warn, info, debug or trace, also by module (info,weir::source=debug)
    #[arg(
        long,
        value_name = "LEVEL",
        env = "WEIR_LOG_LEVEL",
        default_value = "info",
        help_heading = "Logging"
    )]
    pub log_level: Level,

    /// Settings of kube-proxy's that Weir does not have.
    #[command(flatten)]
    pub kube_proxy: Ignored,
}

/// Where the bpf file system usually is.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

impl Options {
    /// This node's name: as given, or the host's name in lower case, as the kubelet and kube-proxy have it.
    ///
    /// # Errors
    /// When there is no name.
    pub fn node_name(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.node_name {
            return clean(name).context("--node-name is empty");
        }
        let system = rustix::system::uname();
        let host = system.nodename().to_string_lossy();
        clean(&host).context("this host has no name; give --node-name")
    }
}

fn clean(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase();
    (!name.is_empty()).then_some(name)
}

pub(super) fn run(options: Options) -> anyhow::Result<ExitCode> {
    if options.cleanup {
        return super::cleanup::remove(&options.bpffs, &options.api_socket, Default::default());
    }
    crate::log::init(options.log_format, &options.log_level)?;
    if let Some(warning) = options.kube_proxy.warning() {
        tracing::warn!("{warning}");
    }
    if options.kube_proxy.init_only {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("weir")
        .build()
        .context("cannot start the agent's threads")?;
    // Once more in the log, for whoever reads only that.
    if let Err(error) = runtime.block_on(crate::run::run(options)) {
        tracing::error!("the agent cannot go on: {error:#}");
        return Err(error);
    }
    Ok(ExitCode::SUCCESS)
}
