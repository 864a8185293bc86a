//! Worlds are set up, and on the way it is measured what their control planes take for it: until everything is programmed,
//! and for one endpoint that comes or goes.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use weir_tests::control_plane::Cluster;
use weir_world::{Addresses, Wiring};

use crate::{
    contender::{Contender, Proxying, Way},
    objects::{self, FIXED, NAMESPACE, SWITCHED},
    ratio::Summary,
    site::{PATIENCE, Site},
    usage,
};

/// What a proxy's control plane took on one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) contender: Contender,
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    /// How it was run, where there is a choice, or why it is not measured.
    pub(crate) note: Option<String>,
    /// Seconds from the start of its process until everything is programmed.
    pub(crate) ready: Option<f64>,
    /// CPU seconds of the same, until there is nothing left to do.
    pub(crate) ready_cpu: Option<f64>,
    /// Anonymous memory afterwards, in bytes.
    pub(crate) anonymous: Option<u64>,
    /// Seconds from the API server's answer to a change of one endpoint until connections notice.
    pub(crate) change: Option<Summary>,
    /// CPU seconds of the same, and of what the proxy does afterwards because of it.
    pub(crate) change_cpu: Option<Summary>,
}

/// One API server for all worlds.
pub(crate) struct Registry {
    cluster: Cluster,
    services: u32,
}

impl Registry {
    /// Starts it; there is no service yet but the fixed ones.
    pub(crate) fn start() -> Result<Self> {
        let cluster = Cluster::start()?;
        cluster.apply(&format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {{\"name\": \"{NAMESPACE}\"}}}}"
        ))?;
        cluster.pause_controllers()?;
        Ok(Self {
            cluster,
            services: 0,
        })
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Adds services until there are so many; first of all the nodes as every site has them.
    pub(crate) fn grow(&mut self, services: u32, site: &Site) -> Result<()> {
        if self.services == 0 {
            let fixed = objects::fixed(site.near.addresses, site.far.addresses);
            self.cluster.store(&fixed)?;
            let nodes = site.nodes().iter();
            let nodes: Vec<_> = nodes
                .map(|node| objects::node(node.name(), node.addresses(), &node.pod_ranges()))
                .collect();
            self.cluster.store(&nodes)?;
            self.services = FIXED;
        }
        ensure!(
            services >= self.services,
            "sizes have to grow, and be {FIXED} at least"
        );
        // In parts, for they are large.
        let mut from = self.services;
        while from < services {
            let to = services.min(from + 5_000);
            self.cluster.store(&objects::filling(from..to))?;
            from = to;
        }
        self.services = services;
        self.wait_until_quiet()
    }

    /// Waits until the API server has done with what is new, lest that slow down who is measured next.
    fn wait_until_quiet(&self) -> Result<()> {
        const LONG_ENOUGH: Duration = Duration::from_secs(40);
        const SECOND: Duration = Duration::from_secs(1);
        const LITTLE: Duration = Duration::from_millis(80);
        let start = Instant::now();
        let mut before = usage::cpu_of_children("kube")?;
        while start.elapsed() < LONG_ENOUGH {
            thread::sleep(SECOND);
            let now = usage::cpu_of_children("kube")?;
            if now.saturating_sub(before) < LITTLE {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Gives the switched service an endpoint, or takes it.
    fn switch(&self, on: bool, near: Addresses) -> Result<()> {
        let patch = objects::switch(on, near);
        self.cluster
            .run(|client| async move {
                let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
                let name = objects::slice_name(SWITCHED, "IPv4");
                slices
                    .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await
            })
            .map(drop)
            .context("cannot change a slice")
    }
}

/// Sets up a world with a proxy on both nodes, and measures the first one's control plane if that is `wanted`. Without a site
/// if the proxy cannot do so many services.
pub(crate) fn stand_up(
    registry: &Registry,
    contender: Contender,
    wiring: Wiring,
    wanted: bool,
) -> Result<(Option<Site>, Standing)> {
    let services = registry.services;
    let mut standing = Standing {
        contender,
        services,
        endpoints: objects::endpoints(services),
        note: None,
        ready: None,
        ready_cpu: None,
        anonymous: None,
        change: None,
        change_cpu: None,
    };
    let way = match contender.way(services) {
        Ok(way) => way,
        Err(why) => {
            standing.note = Some(why.to_owned());
            return Ok((None, standing));
        }
    };
    if way == Way::KubeProxy(weir_tests::kube_proxy::Mode::IptablesLegacy) {
        standing.note =
            Some("iptables-legacy: with nft's tables it is not ready in minutes".to_owned());
    }
    let mut site = Site::build(contender, wiring)?;
    let start = Instant::now();
    site.start(registry.cluster(), 0, way)?;
    if !site.wait_until_programmed(0)? {
        let log = site.proxy().map(Proxying::log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        eprintln!(
            "{}: not ready; its last words: {tail:#?}",
            contender.title()
        );
        standing.note = Some(format!("not ready in {} s", PATIENCE.as_secs()));
        return Ok((None, standing));
    }
    standing.ready = Some(start.elapsed().as_secs_f64());
    let proxy = site.proxy()?;
    if wanted {
        // The time of children counts once they have ended.
        standing.ready_cpu = Some(settled(proxy)?.as_secs_f64());
        standing.anonymous = Some(usage::anonymous(proxy.id())?);
        let (walls, cpus) = changes(registry, &site)?;
        standing.change = Summary::of(walls);
        standing.change_cpu = Summary::of(cpus);
    }
    site.start(registry.cluster(), 1, way)?;
    let programmed = site.wait_until_programmed(1)?;
    ensure!(
        programmed,
        "{} programs the first node but not the second",
        contender.title()
    );
    for proxy in site.proxies() {
        settled(proxy)?;
        proxy.settle()?;
    }
    Ok((Some(site), standing))
}

/// Takes an endpoint and gives it back, a few times: wall and CPU seconds of each change.
fn changes(registry: &Registry, site: &Site) -> Result<(Vec<f64>, Vec<f64>)> {
    /// Enough for those whose changes take long.
    const LONG_ENOUGH: Duration = Duration::from_secs(8);
    const MOST: usize = 4;
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let mut on = true;
    let mut before = settled(site.proxy()?)?;
    // It ends as it began.
    while !on || (walls.len() < MOST && start.elapsed() < LONG_ENOUGH) {
        on = !on;
        registry.switch(on, site.near.addresses)?;
        let answered = Instant::now();
        while site.is_switched_on()? != on {
            ensure!(
                answered.elapsed() < PATIENCE,
                "{} does not notice that an endpoint has changed",
                site.contender.title()
            );
            thread::sleep(Duration::from_micros(500));
        }
        walls.push(answered.elapsed().as_secs_f64());
        let after = settled(site.proxy()?)?;
        cpus.push(after.saturating_sub(before).as_secs_f64());
        before = after;
    }
    Ok((walls, cpus))
}

/// Waits until a proxy has nothing more to do; its CPU time then.
fn settled(proxy: &Proxying) -> Result<Duration> {
    const NEXT_TO_NOTHING: Duration = Duration::from_millis(30);
    let quiet = proxy.quiet();
    let deadline = Instant::now() + PATIENCE;
    let mut before = usage::cpu(proxy.id())?;
    loop {
        thread::sleep(quiet);
        let now = usage::cpu(proxy.id())?;
        if now.saturating_sub(before) < NEXT_TO_NOTHING || Instant::now() > deadline {
            return Ok(now);
        }
        before = now;
    }
}
