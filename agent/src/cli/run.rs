//! The options of `weir run`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use crate::{
    http::BindAddress,
    log::{Format, Level},
};

/// Everything `weir run` can be told. Each option is also an environment variable; the option wins.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// This node's name in Kubernetes [default: the host's name, in lower case]
    #[arg(long, value_name = "NAME", env = "WEIR_NODE_NAME")]
    pub node_name: Option<String>,

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

    /// Where /metrics and /proxyMode are served; empty: nowhere
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "WEIR_METRICS_BIND_ADDRESS",
        default_value = "127.0.0.1:10249",
        help_heading = "Serving"
    )]
    pub metrics_bind_address: BindAddress,

    /// Where /healthz and /livez are served; empty: nowhere
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "WEIR_HEALTHZ_BIND_ADDRESS",
        default_value = "0.0.0.0:10256",
        help_heading = "Serving"
    )]
    pub healthz_bind_address: BindAddress,

    /// The socket that `weir status` and the other subcommands ask; only root can open it
    #[arg(long, value_name = "PATH", env = "WEIR_API_SOCKET", default_value = crate::api::DEFAULT_SOCKET, help_heading = "Serving")]
    pub api_socket: PathBuf,

    /// How log lines look
    #[arg(
        long,
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
    crate::log::init(options.log_format, &options.log_level)?;
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
