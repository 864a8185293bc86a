//! The real kube-proxy on a node of a world, as a DaemonSet would run it there.

use std::{
    env, fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_world::{Node, Process, Signal};

use crate::control_plane::{Cluster, Identity, Proxy};

/// How long it may take to end. It needs far less.
const PATIENCE: Duration = Duration::from_secs(30);

/// The programs that kube-proxy's iptables mode runs.
const IPTABLES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

/// What kube-proxy programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// nftables.
    Nftables,
    /// iptables, by the machine's own `iptables` (on today's distributions: nft's tables underneath).
    Iptables,
    /// iptables, by `iptables-legacy` with the kernel's old tables.
    IptablesLegacy,
}

impl Mode {
    /// As `--proxy-mode` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables | Self::IptablesLegacy => "iptables",
        }
    }
}

/// A running kube-proxy. Dropping it kills it; what it programmed stays in the node's network namespace.
#[derive(Debug)]
pub struct KubeProxy {
    node: Node,
    process: Process,
    api: Proxy,
}

impl KubeProxy {
    /// Starts kube-proxy on a world's node, which the cluster knows by `name`, and waits for nothing. The Node should have
    /// addresses and pod ranges in the API: without them kube-proxy waits half a minute.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(cluster: &Cluster, node: &Node, name: &str, mode: Mode) -> Result<Self> {
        Self::start_with(cluster, node, name, mode, &[])
    }

    /// As [`KubeProxy::start`], with further arguments.
    ///
    /// # Errors
    /// As [`KubeProxy::start`].
    pub fn start_with(
        cluster: &Cluster,
        node: &Node,
        name: &str,
        mode: Mode,
        arguments: &[&str],
    ) -> Result<Self> {
        // A client in the node's namespace reaches the API server at its own loopback address, with no network between.
        let api = cluster.proxy_in(node.netns().path())?;
        let kubeconfig = cluster.kubeconfig(api.url(), &Identity::User("system:kube-proxy"))?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_path(node))?;
        let mut command = command(cluster, mode)?;
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--hostname-override={name}"))
            .arg(format!("--proxy-mode={}", mode.name()))
            .arg("--detect-local-mode=NodeCIDR")
            // The kernel's limit is the machine's own.
            .arg("--conntrack-max-per-core=0")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self {
            process: node.spawn(command)?,
            node: node.clone(),
            api,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What stands between it and the API server.
    #[must_use]
    pub fn api(&self) -> &Proxy {
        &self.api
    }

    /// Sends it a signal: SIGSTOP, so that what it has programmed stays as it is.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.process.signal(signal)?)
    }

    /// The log so far, of all kube-proxies that ran on this node.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(&self.node)).unwrap_or_default()
    }

    /// Ends it in good order. What it programmed stays.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait_for(PATIENCE)?;
        status.with_context(|| format!("kube-proxy does not end:\n{}", self.log()))?;
        Ok(())
    }
}

/// Removes what kube-proxies of all modes have left on a node, by `kube-proxy --cleanup`.
///
/// # Errors
/// When it cannot be run, or fails.
pub fn cleanup(cluster: &Cluster, node: &Node, mode: Mode) -> Result<()> {
    let mut command = command(cluster, mode)?;
    command.arg("--cleanup").stdin(Stdio::null());
    let output = node.run(|| command.output())??;
    ensure!(
        output.status.success(),
        "kube-proxy --cleanup failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs the multi-call binary by kube-proxy's name: it is by that name that a process is known.
fn command(cluster: &Cluster, mode: Mode) -> Result<Command> {
    let binary = cluster.directory().join("bin").join("kube-proxy");
    link(
        Path::new(cluster.kubectl_command(&[]).get_program()),
        &binary,
    )?;
    let mut command = Command::new(&binary);
    command.arg0("kube-proxy");
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env_remove(variable);
    }
    if mode == Mode::IptablesLegacy {
        command.env("PATH", legacy_first(cluster)?);
    }
    Ok(command)
}

/// A search path in which `iptables` is the legacy one.
fn legacy_first(cluster: &Cluster) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let legacy = env::split_paths(&path)
        .map(|directory| directory.join("xtables-legacy-multi"))
        .find(|program| program.is_file())
        .context("there is no xtables-legacy-multi: install iptables")?;
    let directory = cluster.directory().join("iptables-legacy");
    for program in IPTABLES {
        link(&legacy, &directory.join(program))?;
    }
    let directories = [directory].into_iter().chain(env::split_paths(&path));
    Ok(env::join_paths(directories)?)
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if let Some(directory) = at.parent() {
        fs::create_dir_all(directory)?;
    }
    match symlink(to, at) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.with_context(|| format!("cannot link {}", at.display())),
    }
}

fn log_path(node: &Node) -> PathBuf {
    node.run_directory().join("kube-proxy.log")
}
