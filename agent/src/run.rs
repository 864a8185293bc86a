//! `weir run`: the agent. All wiring is here.

use std::{fs::File, future::Future, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};
use weir_core::plan::Capacity;

use crate::{
    api,
    attach::{self, CgroupRoot},
    bpffs::{self, Layout},
    cli::run::Options,
    dataplane::{Counters, Kernel, Object},
    health::{self, Moment},
    http, metrics,
    node::Node,
    source::{self, Source},
    sync::{self, Engine, Report},
};

/// How often to say that another agent still holds the node's lock.
const LOCK_REMINDER: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT. What it pinned stays and keeps working.
///
/// # Errors
/// When something that it cannot do without is missing: bpffs, cgroup v2, an eBPF feature, a listening port, a source. An API
/// server that is away is waited for.
pub async fn run(options: Options) -> Result<()> {
    let node_name = options.node_name()?;
    let shutdown = shutdown_signal()?;
    let (ended, _) = watch::channel(false);

    let layout = Layout::new(&options.bpffs);
    layout.create()?;
    let Some(_lock) = lock(&layout, shutdown.clone()).await? else {
        return Ok(());
    };
    let mut object = Object::open(&layout, &Capacity::default())?;
    object.spawn_log_reader()?;
    let kernel = Kernel::open(&layout)?;
    let counters = Arc::new(Counters::open(&layout)?);
    let root = CgroupRoot::open(options.cgroup_root.as_deref())?;
    let attached = attach::attach_socket_hooks(&mut object, &layout, &root)?;

    let report = Report::default();
    let mut engine = Engine::new(&node_name, kernel, report.clone());
    let leftovers = layout.clone();
    engine.after_first_sync(move || remove_other_versions(&leftovers));
    let (events, received) = mpsc::channel(source::EVENTS);
    let (handle, thread) = sync::spawn(engine, received)?;
    let source = open_source(&options, &node_name).await?;
    let node = Arc::new(Node {
        name: node_name,
        source: describe_source(&options),
        attached,
        engine: handle,
        counters,
        started: Moment::now(),
    });
    report.metrics.read_from(node.clone());

    let mut servers = JoinSet::new();
    let until_ended = || {
        let mut ended = ended.subscribe();
        async move {
            // An error means that the sender is gone, which is the end as well.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    };
    let socket = api::Socket::bind(&options.api_socket)?;
    servers.spawn(http::serve(
        socket,
        api::router(node.clone()),
        until_ended(),
    ));
    if let Some(listener) =
        http::bind("--metrics-bind-address", options.metrics_bind_address).await?
    {
        let router = metrics::router(report.metrics.clone());
        servers.spawn(http::serve(listener, router, until_ended()));
    }
    if let Some(listener) =
        http::bind("--healthz-bind-address", options.healthz_bind_address).await?
    {
        let router = health::router(report.health, report.metrics, Moment::now);
        servers.spawn(http::serve(listener, router, until_ended()));
    }

    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = node.name,
        source = node.source,
        "weir is running"
    );
    until(shutdown, source.run(events)).await;
    info!("ending; the kernel keeps balancing with what is programmed");
    // Receivers that are gone have nothing to end.
    let _ = ended.send(true);
    while servers.join_next().await.is_some() {}
    // The source's end has ended the events, and with them the thread, once it has applied what it has.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    Ok(())
}

/// Detaches and removes what a Weir with other table layouts left: its programs have worked until now.
fn remove_other_versions(layout: &Layout) {
    let others = layout.other_versions().unwrap_or_default();
    for directory in others {
        match bpffs::remove_tree(&directory) {
            Ok(removed) => info!(
                directory = %directory.display(),
                removed = removed.len(),
                "removed what another version of Weir left"
            ),
            Err(error) => warn!(
                directory = %directory.display(),
                %error,
                "cannot remove what another version of Weir left; `weir cleanup` removes everything"
            ),
        }
    }
}

async fn open_source(options: &Options, node_name: &str) -> Result<Source> {
    Ok(match &options.manifests {
        Some(directory) => Source::Manifests(source::manifests::Source::open(
            source::manifests::Options::new(directory.clone()),
        )?),
        None => Source::Kube(
            source::kube::Source::open(source::kube::Options {
                kubeconfig: options.kubeconfig.clone(),
                node_name: node_name.to_owned(),
                nodes: source::kube::Breadth::ThisNode,
                pods: source::kube::Breadth::ThisNode,
            })
            .await?,
        ),
    })
}

fn describe_source(options: &Options) -> String {
    match (&options.manifests, &options.kubeconfig) {
        (Some(directory), _) => format!("manifests {}", directory.display()),
        (None, Some(kubeconfig)) => format!("kubernetes, by {}", kubeconfig.display()),
        (None, None) => "kubernetes, by the pod's service account".to_owned(),
    }
}

/// Waits until this process is the node's only agent. `None`: asked to end before that.
async fn lock(layout: &Layout, mut shutdown: watch::Receiver<bool>) -> Result<Option<File>> {
    let mut waits = 0_u32;
    loop {
        if let Some(lock) = layout.try_lock()? {
            return Ok(Some(lock));
        }
        if waits.is_multiple_of(LOCK_REMINDER.as_millis() as u32 / 100) {
            warn!(
                directory = %layout.root().display(),
                "another agent runs on this node; waiting for it to end"
            );
        }
        waits += 1;
        tokio::select! {
            _ = shutdown.wait_for(|asked| *asked) => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

/// Becomes true with the first SIGTERM or SIGINT.
fn shutdown_signal() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let (asked, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        let _ = asked.send(true);
    });
    Ok(shutdown)
}

async fn until(mut shutdown: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = shutdown.wait_for(|asked| *asked) => {}
        () = work => {}
    }
}
