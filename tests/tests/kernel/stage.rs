//! A node with a server and a client, programs at its hooks, and nobody but the test to write the tables.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir::{
    attach::{Attached, CgroupRoot, attach_socket_hooks},
    bpffs::Layout,
    dataplane::{Counters, Dataplane, Kernel, Object},
};
use weir_abi::{
    Backend, ServiceEntry, ServiceKey, Verdict,
    service::{backend_state, proto, scope},
};
use weir_core::plan::{Capacity, Op};
use weir_tests::agent::{PATIENCE, peer_command};
use weir_world::{Node, Peer, Place, Pod, PodSpec, World};

pub(crate) const V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
pub(crate) const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);
/// Where the server listens.
pub(crate) const TARGET: u16 = 8080;

pub(crate) const CAPACITY: Capacity = Capacity {
    services: 1000,
    slots: 5000,
    backends: 1000,
    ids: 100,
    members: 5000,
    source_ranges: 100,
};

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) server: Pod,
    pub(crate) client: Peer,
    pub(crate) kernel: Kernel,
    pub(crate) counters: Counters,
    pub(crate) object: Object,
    pub(crate) layout: Layout,
    _serving: Peer,
}

impl Stage {
    /// With programs at the root of the node's cgroups.
    pub(crate) fn open() -> Result<Self> {
        let mut stage = Self::detached()?;
        let root = stage.node().cgroup_root().to_path_buf();
        stage.attach(&root)?;
        Ok(stage)
    }

    /// With tables, but nothing attached.
    pub(crate) fn detached() -> Result<Self> {
        let world = World::builder(peer_command()?)
            .pod(PodSpec::new("server"))
            .pod(PodSpec::new("client"))
            .build()?;
        let server = world.pod("server")?;
        let serving = server.peer()?;
        serving.echo(TARGET)?;
        let layout = Layout::new(&world.nodes()[0].bpffs());
        layout.create()?;
        let object = Object::open(&layout, &CAPACITY)?;
        Ok(Self {
            server,
            client: world.pod("client")?.peer()?,
            kernel: Kernel::open(&layout)?,
            counters: Counters::open(&layout)?,
            object,
            layout,
            world,
            _serving: serving,
        })
    }

    pub(crate) fn attach(&mut self, cgroup: &std::path::Path) -> Result<Vec<Attached>> {
        let root = CgroupRoot::open(Some(cgroup))?;
        attach_socket_hooks(&mut self.object, &self.layout, &root)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.world.nodes()[0]
    }

    pub(crate) fn apply(&mut self, ops: &[Op]) -> Result<()> {
        for op in ops {
            self.kernel.apply(op).with_context(|| format!("{op:?}"))?;
        }
        Ok(())
    }

    /// The server's address of the family of `like`.
    pub(crate) fn target(&self, like: IpAddr) -> SocketAddr {
        let addresses = self.server.addresses();
        match like {
            IpAddr::V4(_) => (addresses.v4, TARGET).into(),
            IpAddr::V6(_) => (addresses.v6, TARGET).into(),
        }
    }

    /// Makes the server the only backend of a frontend, under the same number as id, backend and slot.
    pub(crate) fn serve(&mut self, frontend: SocketAddr, number: u32) -> Result<()> {
        let target = self.target(frontend.ip());
        let key = key(frontend);
        self.apply(&[
            Op::WriteBackend {
                id: number,
                backend: backend(target),
            },
            Op::WriteSlots {
                offset: number,
                ids: vec![number],
            },
            set(
                key,
                ServiceEntry::new(&key, number, number, 1, Verdict::Translate),
            ),
        ])
    }

    /// How often each verdict was given.
    pub(crate) fn verdicts(&self) -> [u64; Verdict::ALL.len()] {
        Verdict::ALL.map(|verdict| self.counters.verdict(verdict))
    }

    /// The verdicts that were given at all, and how often.
    pub(crate) fn given(&self) -> Vec<(Verdict, u64)> {
        let given = Verdict::ALL.into_iter().zip(self.verdicts());
        given.filter(|(_, count)| *count > 0).collect()
    }

    /// What the helper `sockets` saw, run in the client's pod.
    pub(crate) fn sockets(&self, arguments: &[&str]) -> Result<Value> {
        run(&*self.world.pod("client")?, arguments)
    }
}

fn run(place: &Place, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sockets"));
    command.args(arguments).stdout(Stdio::piped());
    let mut process = place.spawn(command)?;
    let status = process.wait_for(PATIENCE)?;
    let mut text = String::new();
    let output = process.child().stdout.as_mut();
    output.context("no pipe")?.read_to_string(&mut text)?;
    ensure!(
        status.is_some_and(|s| s.success()),
        "{arguments:?}: {status:?} {text}"
    );
    Ok(serde_json::from_str(&text)?)
}

/// The key of a TCP frontend.
pub(crate) fn key(frontend: SocketAddr) -> ServiceKey {
    ServiceKey {
        addr: frontend.ip().into(),
        port_be: frontend.port().to_be(),
        proto: proto::TCP,
        scope: scope::INTERNAL,
    }
}

/// A backend in use.
pub(crate) fn backend(at: SocketAddr) -> Backend {
    Backend {
        addr: at.ip().into(),
        port_be: at.port().to_be(),
        proto: proto::TCP,
        state: backend_state::ACTIVE,
        generation: 0,
    }
}

pub(crate) fn set(key: ServiceKey, entry: ServiceEntry) -> Op {
    Op::SetService { key, entry }
}
