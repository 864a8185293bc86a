//! The demo's world, and the agent in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use weir_world::{Peer, PeerCommand, PodSpec, Process, Signal, World};

const WEB: &str = include_str!("../../../manifests/demo/web.yaml");
const ENDPOINTS: &str = include_str!("../../../manifests/demo/web-endpoints.yaml");
const LATER: &str = include_str!("../../../manifests/demo/later/web-endpoints.yaml");

/// How long the agent may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node with pods `client` and `web-1` to `web-3`, at the addresses of `manifests/demo/`.
pub(super) struct Stage {
    world: World,
    directory: PathBuf,
    agent: Option<Process>,
    servers: Vec<(String, Peer)>,
}

impl Stage {
    pub(super) fn build() -> Result<Self> {
        let web = (1..=3).map(|n| {
            PodSpec::new(format!("web-{n}"))
                .namespace("demo")
                .host(10 + n)
        });
        let world = World::builder(PeerCommand::current_exe("demo-peer")?)
            .pods(web)
            .pod(PodSpec::new("client").namespace("demo").host(100))
            .build()
            .context("cannot build the demo's world")?;
        let mut servers = Vec::new();
        for n in 1..=3 {
            let name = format!("web-{n}");
            let peer = world.pod(&name)?.peer()?;
            peer.echo(8080)?;
            servers.push((name, peer));
        }
        let directory = world.node("node1")?.run_directory().to_path_buf();
        let stage = Self {
            world,
            directory,
            agent: None,
            servers,
        };
        fs::create_dir(stage.manifests())?;
        fs::write(stage.manifests().join("web.yaml"), WEB)?;
        fs::write(stage.manifests().join("web-endpoints.yaml"), ENDPOINTS)?;
        Ok(stage)
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.directory.join("manifests")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("weir.sock")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    pub(super) fn client(&self) -> Result<Peer> {
        Ok(self.world.pod("client")?.peer()?)
    }

    /// Starts the agent as any node would, and waits until the service is programmed.
    pub(super) fn start_agent(&mut self) -> Result<()> {
        let node = self.world.node("node1")?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = weir()?;
        command
            .arg("run")
            .args(["--node-name", "node1", "--log-level", "info"])
            .arg("--manifests")
            .arg(self.manifests())
            .arg("--cgroup-root")
            .arg(node.cgroup_root())
            .arg("--bpffs")
            .arg(node.bpffs())
            .arg("--api-socket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut agent = node.spawn(command)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_synced()? {
            if let Some(status) = agent.wait_for(Duration::ZERO)? {
                bail!("the agent ended ({status}):\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent is not ready after {PATIENCE:?}:\n{}",
                    self.log_tail()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// Whether the agent says that its tables are in sync.
    fn is_synced(&self) -> Result<bool> {
        let output = weir()?
            .args(["status", "-o", "json", "--api-socket"])
            .arg(self.socket())
            .stderr(Stdio::null())
            .output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(
            status["sync"]["last_age_seconds"].is_number()
                && status["sync"]["last_error"].is_null(),
        )
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Kills the agent the hard way.
    pub(super) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Replaces the endpoints by a rename, as editors and ConfigMaps do.
    pub(super) fn remove_endpoint(&self) -> Result<()> {
        let new = self.directory.join("web-endpoints.yaml");
        fs::write(&new, LATER)?;
        fs::rename(&new, self.manifests().join("web-endpoints.yaml"))?;
        Ok(())
    }

    pub(super) fn delete_pod(&mut self, name: &str) -> Result<()> {
        self.servers.retain(|(server, _)| server != name);
        Ok(self.world.remove_pod(name)?)
    }

    pub(super) fn how_to_play(&self) -> String {
        let weir = Path::new("/proc/self/exe")
            .canonicalize()
            .map_or_else(|_| "weir".into(), |path| path.display().to_string());
        let socket = self.socket().display().to_string();
        let netns = |place: &weir_world::Place| place.netns().path().display().to_string();
        let mut text = String::from("\nThe world stays up. Try, in another terminal:\n");
        for line in [
            format!("{weir} status --api-socket {socket}"),
            format!("{weir} services --api-socket {socket}"),
            format!("edit the files in {}", self.manifests().display()),
        ] {
            text.push_str(&format!("  {line}\n"));
        }
        if let Ok(pod) = self.world.pod("client") {
            text.push_str(&format!(
                "  sh -c 'echo $$ > {}/cgroup.procs; exec nsenter --net={} bash'   # a shell in pod client\n",
                pod.cgroup().display(),
                netns(&pod)
            ));
        }
        text.push_str("Ctrl-C ends it and cleans up.");
        text
    }

    /// Ends the agent in good order, runs `weir cleanup` as an operator would, and checks that nothing is left.
    pub(super) fn tear_down(mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.signal(Signal::TERM)?;
            if agent.wait_for(PATIENCE)?.is_none() {
                bail!("the agent does not end when told to:\n{}", self.log_tail());
            }
        }
        let node = self.world.node("node1")?;
        let output = weir()?
            .args(["cleanup", "--bpffs"])
            .arg(node.bpffs())
            .arg("--api-socket")
            .arg(self.socket())
            .output()?;
        if !output.status.success() {
            bail!(
                "weir cleanup failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let name = self.world.name().clone();
        self.servers.clear();
        drop(self.world);
        let left = weir_world::leftovers(&name)?;
        if !left.is_empty() {
            bail!("something was left behind: {left:?}");
        }
        Ok(())
    }
}

/// The running program.
fn weir() -> Result<Command> {
    let program = std::env::current_exe().context("cannot find the running program")?;
    Ok(Command::new(program))
}
