//! Building worlds, changing them, and taking them down.

mod numbers;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use self::numbers::{HostNumbers, Identifiers};
use crate::address;
use crate::cgroup::{self, CgroupDriver, Qos};
use crate::error::{Doing, Error, Result};
use crate::ip;
use crate::mounts::{cgroup2, mount_bpffs};
use crate::name::WorldName;
use crate::netns::NetNs;
use crate::peer::PeerCommand;
use crate::place::Place;
use crate::spawn::{Process, spawn};
use crate::spec::{PodSpec, WorldBuilder};
use crate::sweep::{self, bpffs_of};
use crate::wiring::{self, EVERYWHERE, FORWARDING, INTERFACE, Wiring};

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

/// A node. As a [`Place`] it is its host side: its own network namespace and `system.slice/host`.
#[derive(Clone, Debug)]
pub struct Node(Arc<NodeParts>);

#[derive(Debug)]
struct NodeParts {
    number: u8,
    host: Place,
    cgroup_root: PathBuf,
    run_directory: PathBuf,
}

/// A pod. As a [`Place`] it is its container: the pod's network namespace and the container's cgroup.
#[derive(Clone, Debug)]
pub struct Pod(Arc<PodParts>);

#[derive(Debug)]
struct PodParts {
    container: Place,
    namespace: String,
    uid: String,
    qos: Qos,
    node: Node,
    cgroup: PathBuf,
    container_id: String,
    host_number: u8,
    host_veth: String,
    host_ifindex: u32,
    pause: Mutex<Option<Process>>,
}

/// A machine outside of the cluster, on the network that joins the nodes.
#[derive(Clone, Debug)]
pub struct Client(Arc<Place>);

impl Deref for Node {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.0.host
    }
}

impl Deref for Pod {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.0.container
    }
}

impl Deref for Client {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.0
    }
}

impl Node {
    /// The cgroup that stands for the root of this node's hierarchy: what `--cgroup-root` is told.
    #[must_use]
    pub fn cgroup_root(&self) -> &Path {
        &self.0.cgroup_root
    }

    /// This node's own BPF file system: what `--bpffs` is told. What is pinned there goes away with the world.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        bpffs_of(&self.0.run_directory)
    }

    /// A directory of this node's own, for sockets and files. It goes away with the world.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        &self.0.run_directory
    }

    /// Prefixes of this node's pods, IPv4 first.
    #[must_use]
    pub fn pod_ranges(&self) -> [String; 2] {
        address::pod_ranges(self.0.number)
    }

    /// Name of the interface to the other nodes and the clients.
    #[must_use]
    pub fn uplink(&self) -> &'static str {
        INTERFACE
    }

    /// Index of an interface in this node's network namespace.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        Ok(ifindexes(self.netns(), &[interface])?[0])
    }
}

impl Pod {
    /// Its Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Its UID, in the form of an API object's `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// Its quality of service class.
    #[must_use]
    pub fn qos(&self) -> Qos {
        self.0.qos
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.0.node
    }

    /// The cgroup of the whole pod, above those of its sandbox and its container.
    #[must_use]
    pub fn pod_cgroup(&self) -> &Path {
        &self.0.cgroup
    }

    /// Id of its container: 64 hexadecimal digits.
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.0.container_id
    }

    /// Host part of its addresses, for [`PodSpec::host`] of a pod that reuses them.
    #[must_use]
    pub fn host_number(&self) -> u8 {
        self.0.host_number
    }

    /// Name of the host side of its veth, in its node's network namespace.
    #[must_use]
    pub fn host_veth(&self) -> &str {
        &self.0.host_veth
    }

    /// Interface index of the host side of its veth.
    #[must_use]
    pub fn host_ifindex(&self) -> u32 {
        self.0.host_ifindex
    }

    /// Kills every process of the pod, its pause process too, and leaves the rest as it is.
    ///
    /// # Errors
    /// The system's.
    pub fn kill_processes(&self) -> Result<()> {
        cgroup::kill(&self.0.cgroup)?;
        // Waits for the pause process, so that no zombie stays.
        lock(&self.0.pause).take();
        Ok(())
    }

    /// Deletes the veth and the name of the network namespace at once, under the feet of what runs in the pod, as a
    /// container runtime does that loses patience.
    ///
    /// # Errors
    /// It is gone already.
    pub fn delete_netns(&self) -> Result<()> {
        let deleted = self.node().ip(&[&format!("link del {}", self.host_veth())]);
        self.netns().forget();
        deleted
    }

    fn remove(&self) -> Result<()> {
        self.kill_processes()?;
        if self.netns().path().exists() {
            self.delete_netns()?;
        }
        cgroup::remove(&self.0.cgroup)
    }
}

impl World {
    /// A world of one node, to which the builder adds. `peer` is the program that [`Place::peer`] starts.
    #[must_use]
    pub fn builder(peer: PeerCommand) -> WorldBuilder {
        WorldBuilder::new(peer)
    }

    pub(crate) fn build(spec: WorldBuilder) -> Result<Self> {
        check(&spec)?;
        sweep::sweep()?;
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
        sweep::leftovers(&self.name)
    }

    fn count(&self) -> u8 {
        self.nodes
            .iter()
            .map(|node| node.0.number)
            .max()
            .unwrap_or(0)
    }

    fn netns(&self, place: &str) -> NetNs {
        NetNs::named(format!("{}-{place}", self.name))
    }

    fn plan_node(&self, number: u8, cgroup: &Path) -> Node {
        let name = format!("node{number}");
        let cgroup_root = cgroup.join(&name);
        Node(Arc::new(NodeParts {
            number,
            run_directory: Path::new(sweep::RUN)
                .join(self.name.to_string())
                .join(&name),
            host: Place {
                netns: self.netns(&name),
                cgroup: cgroup_root.join("system.slice/host"),
                addresses: address::node(number),
                peer: self.peer.clone(),
                name,
            },
            cgroup_root,
        }))
    }

    fn plan_client(&self, number: u8, name: &str, cgroup: &Path) -> Client {
        Client(Arc::new(Place {
            name: name.to_owned(),
            netns: self.netns(&format!("client-{name}")),
            cgroup: cgroup.join("clients").join(name),
            addresses: address::client(number),
            peer: self.peer.clone(),
        }))
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

    fn plan_pods(&self, pods: &mut Pods, specs: Vec<PodSpec>) -> Result<Vec<PodPlan>> {
        // Explicit addresses first, so that none of the free ones is given away that a later pod asks for.
        let mut taken = pods.hosts.clone();
        let mut names = std::collections::BTreeSet::new();
        for spec in &specs {
            check_name(&spec.name)?;
            if pods.by_name.contains_key(&spec.name) || !names.insert(spec.name.clone()) {
                return Err(Error::Refused(format!(
                    "there are two pods named {:?}",
                    spec.name
                )));
            }
            if let Some(host) = spec.host {
                taken[self.index_of(&spec.node)?].take(host)?;
            }
        }
        let mut plans = Vec::with_capacity(specs.len());
        for spec in specs {
            let node = self.index_of(&spec.node)?;
            let host = match spec.host {
                Some(host) => host,
                None => taken[node].take_any()?,
            };
            pods.veths += 1;
            let node = self.nodes[node].clone();
            let uid = spec.uid.unwrap_or_else(|| pods.identifiers.uid());
            let container_id = pods.identifiers.container();
            let root = node.cgroup_root();
            plans.push(PodPlan {
                container: Place {
                    netns: self.netns(&format!("pod-{}", spec.name)),
                    cgroup: root.join(self.driver.container(spec.qos, &uid, &container_id)),
                    addresses: address::pod(node.0.number, host),
                    peer: self.peer.clone(),
                    name: spec.name,
                },
                cgroup: root.join(self.driver.pod(spec.qos, &uid)),
                sandbox: spec.pause.then(|| {
                    let sandbox = pods.identifiers.container();
                    root.join(self.driver.container(spec.qos, &uid, &sandbox))
                }),
                namespace: spec.namespace,
                qos: spec.qos,
                uid,
                container_id,
                host_number: host,
                host_veth: format!("veth{}", pods.veths),
                node,
            });
        }
        pods.hosts = taken;
        Ok(plans)
    }

    fn index_of(&self, node: &str) -> Result<usize> {
        let found = self.nodes.iter().position(|other| other.name() == node);
        found.ok_or_else(|| unknown("node", node))
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
        if let Err(error) = sweep::destroy(&self.name) {
            eprintln!("{} is not removed whole: {error}", self.name);
        }
    }
}

struct PodPlan {
    container: Place,
    namespace: String,
    uid: String,
    qos: Qos,
    node: Node,
    cgroup: PathBuf,
    sandbox: Option<PathBuf>,
    container_id: String,
    host_number: u8,
    host_veth: String,
}

fn check(spec: &WorldBuilder) -> Result<()> {
    let most = address::MOST_NODES;
    if spec.nodes == 0 || spec.nodes > most || spec.clients.len() > most.into() {
        return Err(Error::Refused(format!(
            "a world has 1 to {most} nodes and at most {most} external clients"
        )));
    }
    for (index, client) in spec.clients.iter().enumerate() {
        check_name(client)?;
        if spec.clients[..index].contains(client) {
            return Err(Error::Refused(format!(
                "there are two external clients named {client:?}"
            )));
        }
    }
    Ok(())
}

/// Names become names of files and namespaces.
fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && !name.starts_with('.');
    if fits {
        Ok(())
    } else {
        Err(Error::Refused(format!(
            "{name:?} is no name: letters, digits, dashes and dots are"
        )))
    }
}

fn add_namespaces<'a>(namespaces: impl Iterator<Item = &'a NetNs>) -> Result<()> {
    let lines: Vec<String> = namespaces
        .map(|netns| format!("netns add {}", netns.name()))
        .collect();
    ip::batch(None, &lines)
}

fn ifindexes(netns: &NetNs, names: &[&str]) -> Result<Vec<u32>> {
    netns.run(|| {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)
            .doing(|| "open a socket".to_owned())?;
        names
            .iter()
            .map(|name| {
                name_to_index(&any, name).doing(|| format!("find {name} in {}", netns.name()))
            })
            .collect()
    })?
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
