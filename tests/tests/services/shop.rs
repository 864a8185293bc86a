//! The world that the stories happen in.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use weir_tests::{
    agent::{Agent, PATIENCE, peer_command},
    manifests::{Endpoint, Manifests, endpoints_of},
};
use weir_world::{
    CgroupDriver, Node, Peer, Pod, PodSpec, Wiring, World,
    peer::{Exchange, Job, LoadReport, LoadSpec},
};

pub(crate) const V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
pub(crate) const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);
pub(crate) const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
pub(crate) const SERVERS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// A node with three servers on port 8080 and a client, and the service `web` on port 80.
pub(crate) struct Shop {
    pub(crate) world: World,
    pub(crate) manifests: Manifests,
    pub(crate) client: Peer,
    /// They serve as long as they are kept.
    _servers: Vec<Peer>,
}

impl Shop {
    pub(crate) fn open() -> Result<Self> {
        Self::open_as(Wiring::Routed, CgroupDriver::Cgroupfs)
    }

    pub(crate) fn open_as(wiring: Wiring, driver: CgroupDriver) -> Result<Self> {
        let world = World::builder(peer_command()?)
            .wiring(wiring)
            .cgroup_driver(driver)
            .pods(SERVERS.map(PodSpec::new))
            .pod(PodSpec::new("client"))
            .build()?;
        let servers = SERVERS.map(|name| -> Result<Peer> {
            let peer = world.pod(name)?.peer()?;
            peer.echo(8080)?;
            Ok(peer)
        });
        let manifests = Manifests::new(world.nodes()[0].run_directory())?;
        let shop = Self {
            client: world.pod("client")?.peer()?,
            manifests,
            _servers: servers.into_iter().collect::<Result<_>>()?,
            world,
        };
        shop.manifests
            .service("web", &ADDRESSES, &shop.endpoints(&SERVERS)?)?;
        Ok(shop)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.world.nodes()[0]
    }

    pub(crate) fn endpoints(&self, servers: &[&str]) -> Result<Vec<Endpoint>> {
        let pods = servers.iter().map(|name| self.world.pod(name));
        let pods: Vec<Pod> = pods.collect::<weir_world::Result<_>>()?;
        Ok(endpoints_of(&pods.iter().collect::<Vec<_>>(), 8080))
    }

    pub(crate) fn agent(&self) -> Result<Agent> {
        Agent::start(self.node(), self.manifests.path())
    }

    /// Load on the service, one family each, until it is stopped.
    pub(crate) fn load(&self, to: SocketAddr) -> Result<Job<LoadReport>> {
        let load = LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60))
            .workers(2)
            .pause(Duration::from_micros(200));
        Ok(self.client.load(load)?)
    }
}

pub(crate) fn both() -> [SocketAddr; 2] {
    [(V4, 80).into(), (V6, 80).into()]
}

/// Waits until the load has gone on for so many more exchanges.
pub(crate) fn more(job: &Job<LoadReport>, exchanges: u64) -> Result<()> {
    let start = job.report()?;
    let deadline = Instant::now() + PATIENCE;
    while job.report()?.ok < start.ok + exchanges {
        ensure!(
            Instant::now() < deadline,
            "the load stands still: {:?}",
            job.report()?
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
