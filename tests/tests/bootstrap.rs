//! The API server is found although the configured one is away.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{sync::mpsc, time::timeout};
use weir::source::{
    Event,
    kube::{Bootstrap, Breadth, Options, Source},
};
use weir_core::{model::Kind, state::Change};
use weir_tests::control_plane::{self, Cluster, Identity, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// A source that runs inside the control plane's namespace, and what it says.
struct Running {
    events: mpsc::Receiver<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(cluster: &Cluster, kubeconfig: &Path, bootstrap: Bootstrap) -> Result<Self> {
        let options = Options {
            kubeconfig: Some(kubeconfig.to_owned()),
            node_name: "bootstrap".to_owned(),
            nodes: Breadth::ThisNode,
            pods: Breadth::ThisNode,
        };
        cluster.run(|_| async move {
            let source = Source::open(options).await?.bootstrap(bootstrap);
            let (sender, events) = mpsc::channel(1024);
            let task = tokio::spawn(source.run(sender));
            Ok(Self { events, task })
        })
    }

    /// Waits for an event of which `is` is true.
    fn wait(mut self, cluster: &Cluster, what: &str, is: fn(&Event) -> bool) -> Result<Self> {
        let what = what.to_owned();
        cluster.run(|_| async move {
            let found = async {
                while let Some(event) = self.events.recv().await {
                    if is(&event) {
                        return Ok(self);
                    }
                }
                anyhow::bail!("the source has ended")
            };
            timeout(PATIENCE, found)
                .await
                .with_context(|| format!("waited in vain until {what}"))?
        })
    }

    fn stop(self) {
        self.task.abort();
    }
}

fn is_listed(event: &Event) -> bool {
    matches!(event, Event::Listed(Kind::EndpointSlice))
}

fn has_failed(event: &Event) -> bool {
    matches!(event, Event::WatchFailed { .. })
}

fn is_late(event: &Event) -> bool {
    match event {
        Event::Change(Change::Apply(object)) => {
            object.kind() == Kind::Namespace && object.name().name.starts_with("late-")
        }
        Event::Change(Change::Replace { kind, objects, .. }) => {
            *kind == Kind::Namespace
                && objects
                    .iter()
                    .any(|object| object.name().name.starts_with("late-"))
        }
        _ => false,
    }
}

#[test]
fn several_addresses_are_tried_in_turn_at_the_start_and_later() -> Result<()> {
    let cluster = control_plane::shared()?;
    let (first, second) = (cluster.proxy()?, cluster.proxy()?);
    let kubeconfig = cluster.kubeconfig("https://192.0.2.1:1", &Identity::Administrator)?;
    let servers = [first.url(), second.url()].map(str::parse);
    let servers = servers.into_iter().collect::<Result<Vec<_>, _>>()?;
    first.refuse();
    let bootstrap = Bootstrap {
        servers,
        memory: None,
    };
    let running = Running::start(&cluster, &kubeconfig, bootstrap)?;
    let running = running.wait(&cluster, "the second server has answered", is_listed)?;
    ensure!(second.open() > 0 && first.accepted() == 0);

    // The next to be tried is the one that the cluster itself has named meanwhile.
    second.refuse();
    let _late = cluster.namespace("late")?;
    running
        .wait(&cluster, "changes are seen again", is_late)?
        .stop();
    ensure!(first.accepted() == 0 && second.open() == 0);
    Ok(())
}

#[test]
fn the_last_known_servers_are_found_after_a_restart_without_the_configured_one() -> Result<()> {
    let cluster = control_plane::shared()?;
    let proxy = cluster.proxy()?;
    let kubeconfig = cluster.kubeconfig(proxy.url(), &Identity::Administrator)?;
    let memory: PathBuf = cluster.directory().join("bootstrap/run/apiservers.json");
    let bootstrap = Bootstrap {
        servers: Vec::new(),
        memory: Some(memory.clone()),
    };
    let running = Running::start(&cluster, &kubeconfig, bootstrap.clone())?;
    let running = running.wait(&cluster, "the configured server has answered", is_listed)?;
    let kept = eventually("the API server is remembered", || {
        Ok(std::fs::read_to_string(&memory).ok())
    })?;
    assert_eq!(kept, r#"{"apiservers":["192.0.2.1:6443"]}"#);
    running.stop();

    proxy.refuse();
    let accepted = proxy.accepted();
    let running = Running::start(&cluster, &kubeconfig, bootstrap)?;
    let running = running.wait(&cluster, "the remembered server has answered", is_listed)?;
    running.stop();
    assert_eq!(proxy.accepted(), accepted);

    // The memory is what has done it.
    let running = Running::start(&cluster, &kubeconfig, Bootstrap::default())?;
    let mut running = running.wait(&cluster, "the configured server is found away", has_failed)?;
    let listed =
        std::iter::from_fn(|| running.events.try_recv().ok()).any(|event| is_listed(&event));
    ensure!(!listed, "nobody answers at {}", proxy.url());
    proxy.restore()?;
    running
        .wait(&cluster, "the configured server has answered", is_listed)?
        .stop();
    Ok(())
}
