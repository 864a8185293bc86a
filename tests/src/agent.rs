//! A real agent in a world: the built `weir` binary, run as a DaemonSet would run it on that node.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_world::{Node, PeerCommand, Place, Process, Signal};

/// How long anything may take that the agent should do at once. Nothing is measured by it: it only ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The built `weir` binary: `WEIR_BIN`, or the one beside the test binaries.
///
/// # Errors
/// When it was not built.
pub fn weir_bin() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WEIR_BIN") {
        return Ok(path.into());
    }
    let test = env::current_exe()?;
    let built = test
        .ancestors()
        .nth(2)
        .map(|profile| profile.join("weir"))
        .filter(|path| path.exists());
    built.context("the weir binary is missing: run `cargo xtask build`, or set WEIR_BIN")
}

/// The program of a world's peers.
///
/// # Errors
/// As [`weir_bin`].
pub fn peer_command() -> Result<PeerCommand> {
    Ok(PeerCommand::new(weir_bin()?).arg("demo-peer"))
}

/// A running agent. Dropping it kills it.
pub struct Agent {
    node: Node,
    process: Process,
}

impl Agent {
    /// Starts an agent on `node` that reads `manifests`, and waits until its tables are in sync.
    ///
    /// # Errors
    /// When it ends, or is not in sync in time; with its log.
    pub fn start(node: &Node, manifests: &Path) -> Result<Self> {
        let agent = Self::spawn(node, &["--manifests".as_ref(), manifests.as_os_str()])?;
        agent.wait_until_synced()?;
        Ok(agent)
    }

    /// Starts an agent on `node` with more arguments, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(node: &Node, arguments: &[&std::ffi::OsStr]) -> Result<Self> {
        Self::spawn_as(node, node.name(), arguments)
    }

    /// As [`Agent::spawn`], under another name than the world's: several worlds' nodes in one cluster need different ones.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_as(node: &Node, name: &str, arguments: &[&std::ffi::OsStr]) -> Result<Self> {
        Self::spawn_command(node, Self::command(node, name, arguments)?)
    }

    /// The command line of an agent of `node`.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn command(node: &Node, name: &str, arguments: &[&std::ffi::OsStr]) -> Result<Command> {
        let mut command = Command::new(weir_bin()?);
        command
            .arg("run")
            .args(["--node-name", name, "--log-level", "debug"])
            .arg("--cgroup-root")
            .arg(node.cgroup_root())
            .arg("--bpffs")
            .arg(node.bpffs())
            .arg("--api-socket")
            .arg(socket_path(node))
            .args(arguments);
        Ok(command)
    }

    /// Starts what is, in the end, an agent of `node` by a command made from [`Agent::command`], and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_command(node: &Node, mut command: Command) -> Result<Self> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_path(node))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = node.spawn(command)?;
        Ok(Self {
            node: node.clone(),
            process,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the tables hold what the source says, and nothing waits to be programmed.
    ///
    /// # Errors
    /// When it is not so in time; with the log.
    pub fn wait_until_synced(&self) -> Result<()> {
        self.wait_until("its tables are in sync", |agent| {
            let status = agent.status()?;
            let sync = &status["sync"];
            Ok(sync["last_age_seconds"].is_number()
                && sync["last_error"].is_null()
                && sync["pending"] == 0)
        })
    }

    /// Waits until `condition` holds; errors of it count as not yet.
    ///
    /// # Errors
    /// When it does not hold in time; with the last error and the log.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = condition(self);
            if matches!(result, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {PATIENCE:?} until {what}; last: {result:?}\n{}",
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What `weir status -o json` says.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    /// What `weir services -o json` says.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn services(&self) -> Result<Value> {
        self.ask(&["services"])
    }

    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let output = weir(&self.node, arguments, &["-o", "json"])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The number of a metric's sample, named with its labels as in the exposition.
    ///
    /// # Errors
    /// When the agent does not answer, or has no such sample.
    pub fn metric(&self, sample: &str) -> Result<f64> {
        let text = self.metrics()?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = value.with_context(|| format!("no sample {sample} in:\n{text}"))?;
        Ok(value.parse()?)
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = http_get(&self.node, (Ipv4Addr::LOCALHOST, 10249), "/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        Ok(body)
    }

    /// The agent's log so far, of all agents that ran on this node.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(&self.node)).unwrap_or_default()
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn terminate(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait_for(PATIENCE)?;
        let status = status.with_context(|| format!("it does not end:\n{}", self.log()))?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        let status = self.process.wait_for(PATIENCE)?;
        status.with_context(|| format!("it does not end:\n{}", self.log()))
    }
}

/// Runs a subcommand of `weir` against the agent of `node`.
///
/// # Errors
/// When it cannot be run; that it fails is in the output.
pub fn weir(node: &Node, arguments: &[&str], more: &[&str]) -> Result<Output> {
    let mut command = Command::new(weir_bin()?);
    command
        .args(arguments)
        .arg("--api-socket")
        .arg(socket_path(node))
        .args(more);
    Ok(command.output()?)
}

/// Runs `weir cleanup` on `node` and returns what it printed.
///
/// # Errors
/// When it fails.
pub fn cleanup(node: &Node) -> Result<String> {
    let bpffs = node.bpffs();
    let bpffs = bpffs.to_str().context("the path of bpffs is not UTF-8")?;
    let output = weir(node, &["cleanup", "--bpffs", bpffs], &[])?;
    ensure!(
        output.status.success(),
        "weir cleanup failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// One HTTP request from within a place: status and body.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub fn http_get(
    place: &Place,
    address: impl Into<SocketAddr>,
    path: &str,
) -> Result<(u16, String)> {
    let address = address.into();
    place.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n"
        )?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response
            .split_once("\r\n\r\n")
            .context("the answer is not HTTP")?;
        let status = head.split(' ').nth(1).context("the answer has no status")?;
        Ok((status.parse()?, body.to_owned()))
    })?
}

fn socket_path(node: &Node) -> PathBuf {
    node.run_directory().join("weir.sock")
}

fn log_path(node: &Node) -> PathBuf {
    node.run_directory().join("agent.log")
}
