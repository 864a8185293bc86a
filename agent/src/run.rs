//! `weir run`: the agent. All wiring is here.

use std::{fs::File, future::Future, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};
use weir_abi::table;
use weir_core::{
    plan::Capacity,
    settings::{NodePortAddresses, Settings},
};

use crate::{
    api,
    attach::{self, CgroupRoot},
    bpffs::{self, Layout},
    capabilities::{self, BPF, NET_ADMIN, PERFMON},
    cli::{run::Options, values::NodePorts},
    dataplane::{Config, Counters, Kernel, Object, Sizes},
    health::{self, Moment},
    healthcheck::HealthChecks,
    http, masquerade, metrics,
    node::Node,
    pods, redirect,
    sockets::Reaper,
    source::{self, Source},
    sync::{self, Effects, Engine, Report},
};

/// How often to say that another agent still holds the node's lock.
const LOCK_REMINDER: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT. What it pinned stays and keeps working.
///
/// # Errors
/// When something that it cannot do without is missing: bpffs, cgroup v2, an eBPF feature, a listening port, a source. An API
/// server that is away is waited for.
pub async fn run(options: Options) -> Result<()> {
    if let Some(why) = capabilities::lacking(&[BPF, NET_ADMIN, PERFMON]) {
        bail!("{why}");
    }
    let node_name = options.node_name()?;
    let shutdown = shutdown_signal()?;
    let (ended, _) = watch::channel(false);

    let layout = Layout::new(&options.bpffs);
    layout.create()?;
    let Some(_lock) = lock(&layout, shutdown.clone()).await? else {
        return Ok(());
    };
    let mut object = Object::open(&layout, sizes(&options))?;
    object.spawn_log_reader()?;
    let kernel = Kernel::open(&layout)?;
    let counters = Arc::new(Counters::open(&layout)?);
    let root = CgroupRoot::open(options.cgroup_root.as_deref())?;
    let config = kernel.config();
    configure(&config)?;
    redirect::follow(options.local_redirect, config.clone());
    let attached = attach::attach_socket_hooks(&mut object, &layout, &root)?;
    let follower = follow_pods(
        &mut object,
        &layout,
        &root,
        config.clone(),
        &node_name,
        &options,
    )?;

    let report = Report::default();
    let node_ports = NodePorts::new(&options.nodeport_addresses)?;
    let settings = settings(&options, &node_ports)?;
    let mut engine = Engine::new(&node_name, kernel, report.clone());
    let (announcer, announcements) = source::kube::announcements();
    engine.with_effects(Effects {
        pods: Some(follower.handle()),
        reaper: Some(reaper(follower.handle())?),
        health_checks: Some(health_checks(&report, &settings)),
        config: Some(config),
        announcer: Some(announcer),
    });
    engine.set_settings(settings);
    let leftovers = layout.clone();
    engine.after_first_sync(move || remove_other_versions(&leftovers));
    let (events, received) = mpsc::channel(source::EVENTS);
    let (handle, thread) = sync::spawn(engine, received)?;
    let source = open_source(&options, &node_name, announcements).await?;
    let node = Arc::new(Node {
        name: node_name,
        source: describe_source(&options),
        attached,
        pods: Some(follower.handle()),
        engine: handle,
        counters,
        layout: layout.clone(),
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

fn sizes(options: &Options) -> Sizes {
    let default = Capacity::default();
    let services = options.max_frontends.unwrap_or(default.services);
    let slots = options.max_slots.unwrap_or(default.slots);
    // What is not asked for by itself grows with what is.
    let tables = Capacity {
        services,
        slots,
        backends: options.max_backends.unwrap_or(default.backends),
        ids: default.ids.max(services / (default.services / default.ids)),
        members: default
            .members
            .max(slots / (default.slots / default.members)),
        source_ranges: default.source_ranges,
    };
    Sizes {
        tables,
        flows: options.max_flows.unwrap_or(table::FLOWS_CAPACITY),
    }
}

/// What the packet programs know of the node before its Node object is known.
fn configure(config: &Config) -> Result<()> {
    let cookie = pods::netns_cookie().context("cannot identify this network namespace")?;
    let ports = masquerade::ports()?;
    config.update(|config| {
        config.netns_cookie = cookie;
        config.masquerade_port_first = *ports.start();
        config.masquerade_port_last = *ports.end();
    })?;
    Ok(())
}

fn follow_pods(
    object: &mut Object,
    layout: &Layout,
    root: &CgroupRoot,
    config: Config,
    node_name: &str,
    options: &Options,
) -> Result<pods::Follower> {
    let programs = pods::Programs::load(object)?;
    let endpoints = pods::Endpoints::open(layout, config)?;
    let sink = pods::Attacher::new(layout.clone(), programs, endpoints);
    let devices = if options.devices.is_empty() {
        pods::Choice::Found
    } else {
        pods::Choice::Named(options.devices.clone())
    };
    let options = pods::Options {
        cgroup_root: root.path.clone(),
        node_name: node_name.to_owned(),
        devices,
    };
    pods::follow(options, Box::new(sink))
}

fn settings(options: &Options, node_ports: &NodePorts) -> Result<Settings> {
    let addresses = crate::netlink::addresses().context("cannot list this node's addresses")?;
    Ok(Settings {
        node_port_addresses: match node_ports.among(&addresses) {
            None => NodePortAddresses::Primary,
            Some(listed) => NodePortAddresses::Listed(listed),
        },
        loopback_node_ports: node_ports.loopback(),
        external_ips: options.external_ips,
    })
}

fn health_checks(report: &Report, settings: &Settings) -> HealthChecks {
    let addresses = match &settings.node_port_addresses {
        NodePortAddresses::Primary => Vec::new(),
        NodePortAddresses::Listed(listed) => listed.clone(),
    };
    HealthChecks::new(report.health.clone(), addresses, |error| warn!("{error}"))
}

/// Ends connections to deleted endpoints in this node's own network namespace and those of its pods.
fn reaper(pods: pods::Handle) -> Result<Reaper> {
    let reaper = Reaper::start(move || pods.view().namespaces.clone(), |_| {});
    reaper.context("cannot start the thread that ends connections")
}

async fn open_source(
    options: &Options,
    node_name: &str,
    announcements: source::kube::Announcements,
) -> Result<Source> {
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
            .await?
            .announce(announcements)
            .bootstrap(source::kube::Bootstrap {
                servers: options
                    .apiserver
                    .iter()
                    .map(|server| server.0.clone())
                    .collect(),
                memory: Some(options.api_socket.with_file_name("apiservers.json")),
            }),
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
