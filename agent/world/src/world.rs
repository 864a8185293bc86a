//! Building worlds, changing them, and taking them down.

mod handles;
mod numbers;
mod plan;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::handles::PodParts;
pub use self::handles::{Client, Node, Pod};
use self::numbers::{HostNumbers, Identifiers};
use self::plan::{PodPlan, check};
use crate::cgroup::{self, CgroupDriver};
use crate::error::{Doing, Error, Result};
use crate::ip;
use crate::mounts::{cgroup2, mount_bpffs};
use crate::name::WorldName;
use crate::netns::NetNs;
use crate::peer::PeerCommand;
use crate::spawn::spawn;
use crate::spec::{PodSpec, WorldBuilder};
use crate::sweep::{destroy, leftovers, sweep};
use crate::wiring::{self, EVERYWHERE, FORWARDING, Wiring};

/// Nodes, pods and clients on one machine. Dropping it ends its processes and removes it.
#[derive(Debug)]
pub struct World {
    name: WorldName,
    wiring: Wiring,
    driver: CgroupDriver,
    peer: PeerCommand,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    pods: Mutex<Pods>,
}

#[derive(Debug)]
struct Pods {
    by_name: BTreeMap<String, Pod>,
    /// By node, in the nodes' order.
    hosts: Vec<HostNumbers>,
    identifiers: Identifiers,
    veths: u32,
}

impl World {
    /// A world of one node, to which the builder adds. `peer` is the program that [`crate::Place::peer`] starts.
    #[must_use]
    pub fn builder(peer: PeerCommand) -> WorldBuilder {
        WorldBuilder::new(peer)
    }

    pub(crate) fn build(spec: WorldBuilder) -> Result<Self> {
        check(&spec)?;
        sweep()?;
        let name = WorldName::fresh();
        let cgroup = cgroup2()?.join(name.to_string());
        // From here on, an early return drops the world and with it whatever has been built.
        let mut world = Self {
            pods: Mutex::new(Pods {
                by_name: BTreeMap::new(),
                hosts: (0..spec.nodes).map(|_| HostNumbers::default()).collect(),
                identifiers: Identifiers::new(name.seed()),
                veths: 0,
            }),
            name,
            wiring: spec.wiring,
            driver: spec.driver,
            peer: spec.peer,
            nodes: Vec::new(),
            clients: Vec::new(),
        };
        world.nodes = (1..=spec.nodes)
            .map(|number| world.plan_node(number, &cgroup))
            .collect();
        world.clients = (1..)
            .zip(&spec.clients)
            .map(|(number, client)| world.plan_client(number, client, &cgroup))
            .collect();
        world.wire_nodes()?;
        world.add_pods(spec.pods)?;
        Ok(world)
    }

    /// Name of the world, which all it makes begins with.
    #[must_use]
    pub fn name(&self) -> &WorldName {
        &self.name
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.ok_or_else(|| unknown("node", name))
    }

    /// The external client of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn client(&self, name: &str) -> Result<&Client> {
        let found = self.clients.iter().find(|client| client.name() == name);
        found.ok_or_else(|| unknown("external client", name))
    }

    /// The pod of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let found = lock(&self.pods).by_name.get(name).cloned();
        found.ok_or_else(|| unknown("pod", name))
    }

    /// All pods, by name.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        lock(&self.pods).by_name.values().cloned().collect()
    }

    /// Adds a pod to the running world.
    ///
    /// # Errors
    /// Its name or address is taken, or its node is unknown.
    pub fn add_pod(&self, pod: PodSpec) -> Result<Pod> {
        let name = pod.name.clone();
        self.add_pods([pod])?
            .pop()
            .ok_or_else(|| unknown("pod", &name))
    }

    /// Adds pods to the running world: quicker than one by one.
    ///
    /// # Errors
    /// A name or address is taken, or a node is unknown: then none is added.
    pub fn add_pods(&self, specs: impl IntoIterator<Item = PodSpec>) -> Result<Vec<Pod>> {
        let mut pods = lock(&self.pods);
        let plans = self.plan_pods(&mut pods, specs.into_iter().collect())?;
        let netns = plans.iter().map(|plan| &plan.container.netns);
        add_namespaces(netns)?;
        for node in &self.nodes {
            let here = || plans.iter().filter(|plan| plan.node.name() == node.name());
            let lines: Vec<String> = here()
                .flat_map(|plan| {
                    self.wiring.host_side(
                        node.0.number,
                        plan.container.addresses,
                        &plan.host_veth,
                        plan.container.netns.name(),
                    )
                })
                .collect();
            ip::batch(Some(node.netns()), &lines)?;
        }
        let mut made = Vec::with_capacity(plans.len());
        for plan in plans {
            let pod = self.realise(plan)?;
            pods.by_name.insert(pod.name().to_owned(), pod.clone());
            made.push(pod);
        }
        Ok(made)
    }

    /// Ends a pod: its processes, its veth, its network namespace, its cgroup. Its address is free again.
    ///
    /// # Errors
    /// There is no such pod, or something of it could not be removed.
    pub fn remove_pod(&self, name: &str) -> Result<()> {
        let mut pods = lock(&self.pods);
        let pod = pods.by_name.remove(name);
        let pod = pod.ok_or_else(|| unknown("pod", name))?;
        let node = usize::from(pod.node().0.number) - 1;
        pods.hosts[node].free(pod.host_number());
        drop(pods);
        pod.remove()
    }

    /// What exists of this world outside of its namespaces; the same as [`crate::leftovers`] of its name.
    ///
    /// # Errors
    /// The system's.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>> {
        leftovers(&self.name)
    }

    fn count(&self) -> u8 {
        self.nodes
            .iter()
            .map(|node| node.0.number)
            .max()
            .unwrap_or(0)
    }

    /// Makes the nodes and clients and joins them.
    fn wire_nodes(&self) -> Result<()> {
        let lan = self.netns("lan");
        let nodes = self.nodes.iter().map(|node| node.netns());
        let clients = self.clients.iter().map(|client| client.netns());
        add_namespaces(nodes.clone().chain(clients.clone()).chain([&lan]))?;

        ip::sysctls(&lan, FORWARDING)?;
        ip::sysctls(&lan, EVERYWHERE)?;
        let mut lines = wiring::lan(self.count());
        for (number, netns) in nodes.chain(clients).enumerate() {
            lines.extend(wiring::lan_port(&format!("port{number}"), netns.name()));
        }
        // Interfaces take a namespace's defaults when they are made, so these come first.
        for node in &self.nodes {
            ip::sysctls(node.netns(), FORWARDING)?;
            ip::sysctls(node.netns(), EVERYWHERE)?;
        }
        for client in &self.clients {
            ip::sysctls(client.netns(), EVERYWHERE)?;
        }
        ip::batch(Some(&lan), &lines)?;

        for node in &self.nodes {
            let lines = self.wiring.node(node.0.number, self.count());
            ip::batch(Some(node.netns()), &lines)?;
            cgroup::create(node.cgroup())?;
            fs::create_dir_all(node.run_directory())
                .doing(|| format!("create {}", node.run_directory().display()))?;
            mount_bpffs(&node.bpffs())?;
        }
        for client in &self.clients {
            ip::batch(Some(client.netns()), &wiring::client(client.addresses()))?;
            cgroup::create(client.cgroup())?;
        }
        Ok(())
    }

    /// Makes the pod's side of what its node has already.
    fn realise(&self, plan: PodPlan) -> Result<Pod> {
        ip::sysctls(&plan.container.netns, EVERYWHERE)?;
        let lines = self
            .wiring
            .pod_side(plan.node.0.number, plan.container.addresses);
        ip::batch(Some(&plan.container.netns), &lines)?;
        let ifindex = plan.node.ifindex(&plan.host_veth)?;
        cgroup::create(&plan.container.cgroup)?;
        let pause = plan
            .sandbox
            .map(|sandbox| {
                cgroup::create(&sandbox)?;
                let mut command = self.peer.command();
                // It sleeps until its input ends, which is held open with the handle.
                command.stdin(Stdio::piped()).stdout(Stdio::null());
                spawn(command, &plan.container.netns, &sandbox)
            })
            .transpose()?;
        Ok(Pod(Arc::new(PodParts {
            container: plan.container,
            namespace: plan.namespace,
            uid: plan.uid,
            qos: plan.qos,
            node: plan.node,
            cgroup: plan.cgroup,
            container_id: plan.container_id,
            host_number: plan.host_number,
            host_veth: plan.host_veth,
            host_ifindex: ifindex,
            pause: Mutex::new(pause),
        })))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = destroy(&self.name) {
            eprintln!("{} is not removed whole: {error}", self.name);
        }
    }
}

fn add_namespaces<'a>(namespaces: impl Iterator<Item = &'a NetNs>) -> Result<()> {
    let lines: Vec<String> = namespaces
        .map(|netns| format!("netns add {}", netns.name()))
        .collect();
    ip::batch(None, &lines)
}

fn unknown(kind: &'static str, name: &str) -> Error {
    Error::Unknown {
        kind,
        name: name.to_owned(),
    }
}

/// A panic of another test thread does not make what the lock guards unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
