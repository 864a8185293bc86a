//! One running control plane.

use std::{
    ffi::OsString,
    fmt, fs,
    future::Future,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use kube::Client;
use rustix::process::Signal;
use serde_json::json;

use super::{
    Namespace, Netns, Node, NodeGuard, Process, Proxy, binary,
    components::{API_PORT, Components, administrator, command},
    etcd, eventually,
    io::Io,
    netns::Keeper,
    pki::{ADMINISTRATORS, Pki},
    scratch::Scratch,
};

/// The addresses on the loopback device of the control plane's namespace, besides 127.0.0.1 and ::1. The
/// first is where the API server says that it is.
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Whom a kubeconfig lets its holder be.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// May do everything.
    Administrator,
    /// A user of this name, by certificate, in no group: may do what is granted to that name.
    User(&'a str),
    /// A service account, which must exist, by a token: its namespace and its name.
    ServiceAccount(&'a str, &'a str),
}

/// A control plane: see the module's description for how to get one.
pub struct Cluster {
    // In the order in which they are to be dropped.
    api_server: Mutex<Option<Process>>,
    controllers: Mutex<Vec<Process>>,
    _etcd: Process,
    io: Io,
    keeper: Keeper,
    components: Components,
    pki: Pki,
    administrator: PathBuf,
    binary: PathBuf,
    logs: PathBuf,
    scratch: Scratch,
    counter: AtomicUsize,
}

impl Cluster {
    /// Starts a control plane and waits until it answers.
    ///
    /// # Errors
    /// When it has not been built or does not start.
    pub fn start() -> Result<Self> {
        let binary = binary::find()?;
        let scratch = Scratch::new()?;
        let logs = std::env::var_os("WEIR_CONTROL_PLANE_LOGS")
            .map_or_else(|| scratch.path().join("logs"), PathBuf::from);
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let keeper = Keeper::new(&ADDRESSES)?;
        let url = url(API_PORT);
        let pki = Pki::new(scratch.path().join("pki"))?;
        let components = Components::new(&pki, scratch.path(), &url, &ADDRESSES)?;
        let administrator = administrator(&pki, &url)?;

        let start = |name: &str, arguments: &[_]| {
            let log = logs.join(format!("{name}.log"));
            Process::start(&keeper, name, command(&binary, name, arguments), log)
        };
        let etcd = start("etcd", &components.etcd)?;
        let api_server = start("kube-apiserver", &components.api_server)?;
        let io = Io::new(keeper.netns(), &administrator)?;
        let cluster = Self {
            api_server: Mutex::new(Some(api_server)),
            controllers: Mutex::default(),
            _etcd: etcd,
            io,
            keeper,
            components,
            pki,
            administrator,
            binary,
            logs,
            scratch,
            counter: AtomicUsize::new(0),
        };
        cluster.wait_until_ready()?;
        for (name, arguments) in [
            (
                "kube-controller-manager",
                &cluster.components.controller_manager,
            ),
            ("kube-scheduler", &cluster.components.scheduler),
        ] {
            let process = cluster.start_component(name, arguments)?;
            lock(&cluster.controllers).push(process);
        }
        Ok(cluster)
    }

    /// The network namespace everything runs in. Nothing outside it reaches the API server.
    pub fn netns(&self) -> &Netns {
        self.keeper.netns()
    }

    /// Runs `work` on a thread of its own inside the namespace.
    ///
    /// # Errors
    /// When the kernel refuses to enter it.
    pub fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns().run(work)
    }

    /// A directory for a test's own files; it goes when the control plane does.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The API server's URL.
    pub fn url(&self) -> String {
        url(API_PORT)
    }

    /// A proxy of the API server's inside its namespace, to spoil one client's connections; see
    /// [`Proxy`].
    ///
    /// # Errors
    /// When no port is free.
    pub fn proxy(&self) -> Result<Proxy> {
        self.proxy_at(self.netns(), ADDRESSES[0])
    }

    /// A proxy that listens on the loopback addresses of the network namespace at `netns`, a world's
    /// node's for example: so a client in there reaches the API server without a network between them.
    ///
    /// # Errors
    /// When there is no such namespace, or no port is free in it.
    pub fn proxy_in(&self, netns: &Path) -> Result<Proxy> {
        self.proxy_at(&Netns::open(netns)?, Ipv4Addr::LOCALHOST.into())
    }

    fn proxy_at(&self, netns: &Netns, host: IpAddr) -> Result<Proxy> {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
        Proxy::new(self.io.runtime(), netns, &host.to_string(), target)
    }

    /// Writes a kubeconfig of `identity`'s for the API server at `url`, which is [`Cluster::url`] or
    /// [`Proxy::url`].
    ///
    /// # Errors
    /// When a service account does not exist, or the file cannot be written.
    pub fn kubeconfig(&self, url: &str, identity: &Identity<'_>) -> Result<PathBuf> {
        let file = format!("client-{}", self.count());
        let user = match *identity {
            Identity::Administrator => self
                .pki
                .client(&file, "weir-tests", Some(ADMINISTRATORS))?
                .user(),
            Identity::User(name) => self.pki.client(&file, name, None)?.user(),
            Identity::ServiceAccount(namespace, name) => {
                let token = self.kubectl(&["-n", namespace, "create", "token", name])?;
                json!({ "token": token.trim() })
            }
        };
        self.pki
            .kubeconfig(&format!("{file}.kubeconfig"), url, &user)
    }

    /// Starts `command` inside the namespace. Its output goes to a log that [`Process::log`] reads. It
    /// dies with this test's process at the latest.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let file = format!("{name}-{}", self.count());
        self.start_process(name, command, &file)
    }

    fn start_process(&self, name: &str, command: Command, file: &str) -> Result<Process> {
        let log = self.logs.join(format!("{file}.log"));
        Process::start(&self.keeper, name, command, log)
    }

    /// Starts `agent run` against the API server at the kubeconfig's URL, with further arguments.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn spawn_agent(
        &self,
        agent: &Path,
        kubeconfig: &Path,
        arguments: &[&str],
    ) -> Result<Process> {
        let mut command = Command::new(agent);
        command
            .arg("run")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(arguments);
        self.spawn("agent", command)
    }

    /// Runs kubectl as administrator and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message is its own.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, "")
    }

    /// Runs kubectl as administrator with `input` at its standard input, as for `apply -f -`.
    ///
    /// # Errors
    /// When it fails; the message is its own.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.netns().confine(&mut command);
        let mut child = command.spawn().context("cannot start kubectl")?;
        let stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // kubectl may well end without reading it all: then its own message counts.
                stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
            });
            child.wait_with_output()
        })
        .context("cannot wait for kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        String::from_utf8(output.stdout).context("kubectl printed something that is no text")
    }

    /// A kubectl as administrator that has still to be run, by [`Cluster::spawn`] if it is to go on while
    /// the test does.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.binary, "kubectl", &[]);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.administrator)
            .env("HOME", self.scratch.path());
        command
    }

    /// Applies YAML or JSON, server-side, any number of documents. Objects without a namespace go to
    /// `default`; [`Namespace::apply`] is for a test's own.
    ///
    /// # Errors
    /// When the API server refuses one of them.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_with(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            manifests,
        )
    }

    /// Puts objects straight into etcd, past the API server's admission and defaults, which makes tens of thousands of them a
    /// matter of seconds. Each goes by its key, such as `/registry/services/specs/NAMESPACE/NAME`, and is the JSON of
    /// its stored version. The API server sees them as it sees its own.
    ///
    /// # Errors
    /// When etcd refuses.
    pub fn store(&self, objects: &[(String, String)]) -> Result<()> {
        self.in_netns(|| etcd::put(objects))?
    }

    /// Runs `work` with an administrator's client on the control plane's own runtime, the only one whose
    /// threads are inside the namespace, and waits for it. Not to be called from in there.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<F, T>(&self, work: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        self.io.run(work)
    }

    /// Makes an API namespace of a name that begins with `prefix`, ready for pods. All that is
    /// in it is deleted when the value is dropped.
    ///
    /// # Errors
    /// When the API server refuses, or the controllers do not fill it.
    pub fn namespace(&self, prefix: &str) -> Result<Namespace<'_>> {
        Namespace::new(self, format!("{prefix}-{}", self.count()))
    }

    /// Makes a Node, ready, which is deleted when the value is dropped. Nodes are in no namespace:
    /// tests that share the control plane need names of their own for them.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn node(&self, node: &Node) -> Result<NodeGuard<'_>> {
        NodeGuard::new(self, node)
    }

    fn start_component(&self, name: &str, arguments: &[OsString]) -> Result<Process> {
        self.start_process(name, command(&self.binary, name, arguments), name)
    }

    pub(super) fn start_api_server(&self) -> Result<()> {
        let mut api_server = lock(&self.api_server);
        if !runs(&mut api_server) {
            let arguments = &self.components.api_server;
            *api_server = Some(self.start_component("kube-apiserver", arguments)?);
            drop(api_server);
            self.wait_until_ready()?;
            self.signal_controllers(Signal::CONT)?;
        }
        Ok(())
    }

    pub(super) fn stop_api_server(&self, at_once: bool) -> Result<()> {
        let process = lock(&self.api_server)
            .take()
            .context("the API server does not run")?;
        self.signal_controllers(Signal::STOP)?;
        if at_once {
            process.kill()?;
        } else {
            process.stop()?;
        }
        Ok(())
    }

    /// Freezes the controllers and the scheduler, for who needs none of what they do and wants the CPU for something else.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn pause_controllers(&self) -> Result<()> {
        self.signal_controllers(Signal::STOP)
    }

    /// While the API server is away its controllers are frozen: else they would wait longer and longer
    /// before they try again, up to half a minute, and every test for them.
    fn signal_controllers(&self, signal: Signal) -> Result<()> {
        lock(&self.controllers)
            .iter_mut()
            .try_for_each(|controller| controller.signal(signal))
    }

    pub(super) fn api_server_runs(&self) -> bool {
        runs(&mut lock(&self.api_server))
    }

    pub(super) fn compact(&self) -> Result<u64> {
        self.in_netns(etcd::compact)?
    }

    fn wait_until_ready(&self) -> Result<()> {
        eventually("the API server is ready", || {
            if let Some(process) = lock(&self.api_server).as_mut()
                && let Some(status) = process.status()?
            {
                bail!("the API server has ended ({status})");
            }
            let ready = self.run(|client| async move {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                anyhow::Ok(client.request_text(request).await?)
            });
            Ok(ready.is_ok().then_some(()))
        })
        .with_context(|| {
            let log = lock(&self.api_server).as_ref().map(Process::log_tail);
            format!("the API server's last words:\n{}", log.unwrap_or_default())
        })
    }

    fn count(&self) -> usize {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("directory", &self.directory())
            .field("netns", &self.netns().path())
            .finish_non_exhaustive()
    }
}

fn url(port: u16) -> String {
    format!("https://{}:{port}", ADDRESSES[0])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runs(process: &mut Option<Process>) -> bool {
    process
        .as_mut()
        .is_some_and(|process| matches!(process.status(), Ok(None)))
}
