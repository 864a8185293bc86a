//! A world with a follower in one of its nodes, and what the kernel shows of its work.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::{
    maps::{HashMap, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use weir::{
    bpf::{self, Direction},
    bpffs::Layout,
    dataplane::Config,
    pods::{Attacher, Choice, Endpoints, Follower, Options, Programs, View, follow},
    source::Event,
};
use weir_abi::{Address, Endpoint, NodeConfig, table};
use weir_core::{
    model::{Kind, Object, ObjectName, Pod as PodObject},
    state::Change,
};
use weir_world::{Node, PeerCommand, Pod, World, WorldBuilder};

/// How long anything may take. Nothing is measured by it: it only ends a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a classifier does with every packet.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Action {
    /// `TCX_NEXT`
    Next = -1,
    /// `TCX_DROP`
    Drop = 2,
}

/// A world, and a follower in its first node.
pub(crate) struct Stage {
    pub(crate) world: World,
    follower: RefCell<Option<Follower>>,
    pub(crate) devices: Choice,
}

/// Worlds whose pods hold nothing but a pause process, which waits for the end of its input.
pub(crate) fn world() -> WorldBuilder {
    World::builder(PeerCommand::new("cat"))
}

impl Stage {
    /// Builds the world and the node's tables. Nothing follows yet.
    pub(crate) fn new(builder: WorldBuilder) -> Result<Self> {
        let stage = Self {
            world: builder.build()?,
            follower: RefCell::default(),
            devices: Choice::Found,
        };
        let layout = stage.layout()?;
        layout.create()?;
        let hash = |key, value| create_map([1, key, value, 1024, 1]);
        let key = size_of::<Address>() as u32;
        bpf::pin(
            &hash(key, size_of::<Endpoint>() as u32)?,
            &layout.map(table::ENDPOINTS),
        )?;
        bpf::pin(&hash(8, 4)?, &layout.map(table::OPT_OUT))?;
        let config = create_map([2, 4, size_of::<NodeConfig>() as u32, 1, 1 << 10])?;
        bpf::pin(&config, &layout.map(table::CONFIG))?;
        Ok(stage)
    }

    /// A world of one node with a follower that has listed.
    pub(crate) fn following(builder: WorldBuilder) -> Result<Self> {
        let stage = Self::new(builder)?;
        stage.start(Action::Next)?;
        stage.tell(&Event::Listed(Kind::Pod))?;
        Ok(stage)
    }

    pub(crate) fn node(&self) -> Result<Node> {
        Ok(self.world.node("node1")?.clone())
    }

    pub(crate) fn layout(&self) -> Result<Layout> {
        Ok(Layout::new(&self.node()?.bpffs()))
    }

    /// Starts a follower whose programs all do that. It has not been told that all objects were listed.
    pub(crate) fn start(&self, action: Action) -> Result<()> {
        let layout = self.layout()?;
        let node = self.node()?;
        let options = Options {
            cgroup_root: node.cgroup_root().to_path_buf(),
            node_name: node.name().to_owned(),
            devices: self.devices.clone(),
        };
        let follower = node.run(|| -> Result<Follower> {
            let programs = Programs {
                to_pod: classifier(Action::Next)?,
                from_pod: classifier(action)?,
                to_net: classifier(Action::Next)?,
                from_net: classifier(Action::Next)?,
            };
            let endpoints = Endpoints::open(&layout, Endpoints::config(&layout)?)?;
            let sink = Attacher::new(layout, programs, endpoints);
            follow(options, Box::new(sink))
        })??;
        self.follower.replace(Some(follower));
        Ok(())
    }

    /// Ends the follower, as the end of its agent does. What it pinned stays.
    pub(crate) fn stop(&self) {
        self.follower.replace(None);
    }

    pub(crate) fn tell(&self, event: &Event) -> Result<()> {
        let follower = self.follower.borrow();
        follower
            .as_ref()
            .context("nobody follows")?
            .handle()
            .observe(event);
        Ok(())
    }

    /// Tells of a pod's object.
    pub(crate) fn tell_pod(&self, pod: &Pod, change: impl FnOnce(&mut PodObject)) -> Result<()> {
        let addresses = pod.addresses();
        let mut object = PodObject {
            name: ObjectName::new(pod.namespace(), pod.name()),
            uid: Some(Arc::from(pod.uid())),
            node: Some(Arc::from(pod.node().name())),
            host_network: false,
            finished: false,
            ips: vec![addresses.v4.into(), addresses.v6.into()],
            labels: Box::default(),
            terminating: false,
            opt_out: false,
        };
        change(&mut object);
        self.tell(&Event::Change(Change::Apply(Object::Pod(object))))
    }

    pub(crate) fn view(&self) -> Result<Arc<View>> {
        let follower = self.follower.borrow();
        Ok(follower.as_ref().context("nobody follows")?.handle().view())
    }

    /// `ENDPOINTS`, as the programs see it.
    pub(crate) fn endpoints(&self) -> Result<BTreeMap<IpAddr, u32>> {
        let map = MapData::from_pin(self.layout()?.map(table::ENDPOINTS))?;
        let map = HashMap::<_, Address, Endpoint>::try_from(Map::HashMap(map))?;
        let mut endpoints = BTreeMap::new();
        for entry in &map {
            let (address, endpoint) = entry?;
            endpoints.insert(address.into(), endpoint.ifindex);
        }
        Ok(endpoints)
    }

    /// Writes to `ENDPOINTS` what an earlier agent might have left there.
    pub(crate) fn leave_endpoint(&self, address: IpAddr, ifindex: u32) -> Result<()> {
        let map = MapData::from_pin(self.layout()?.map(table::ENDPOINTS))?;
        let mut map = HashMap::<_, Address, Endpoint>::try_from(Map::HashMap(map))?;
        let value = Endpoint { ifindex, flags: 0 };
        Ok(map.insert(Address::from(address), value, 0)?)
    }

    /// The cookies in `OPT_OUT`.
    pub(crate) fn opt_outs(&self) -> Result<Vec<u64>> {
        let map = MapData::from_pin(self.layout()?.map(table::OPT_OUT))?;
        let map = HashMap::<_, u64, u32>::try_from(Map::HashMap(map))?;
        Ok(map.keys().collect::<Result<_, _>>()?)
    }

    /// `CONFIG`, as the programs see it.
    pub(crate) fn config(&self) -> Result<NodeConfig> {
        let map = MapData::from_pin(self.layout()?.map(table::CONFIG))?;
        Ok(Config::new(&map)?.read()?)
    }

    /// Ids of the programs at an interface of the node, in the order in which they run.
    pub(crate) fn programs(&self, device: &str, direction: Direction) -> Result<Vec<u32>> {
        let direction = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let found = self
            .node()?
            .run(|| SchedClassifier::query_tcx(device, direction))?;
        Ok(found?
            .1
            .iter()
            .map(aya::programs::ProgramInfo::id)
            .collect())
    }

    /// Names of the pinned links.
    pub(crate) fn links(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.layout()?.links())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Whether everything of a pod is as it should be: its addresses lead to it, and one program sits at each of its hooks.
    pub(crate) fn serves(&self, pod: &Pod) -> Result<bool> {
        let endpoints = self.endpoints()?;
        let (v4, v6) = (pod.addresses().v4.into(), pod.addresses().v6.into());
        let ifindex = Some(&pod.host_ifindex());
        Ok(endpoints.get(&v4) == ifindex
            && endpoints.get(&v6) == ifindex
            && self.programs(pod.host_veth(), Direction::Ingress)?.len() == 1
            && self.programs(pod.host_veth(), Direction::Egress)?.len() == 1)
    }

    /// Waits until `condition` holds; errors of it count as not yet.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        condition: impl Fn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = condition(self);
            if matches!(result, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {PATIENCE:?} until {what}; last: {result:?}\nview: {:#?}\nendpoints: {:?}\nlinks: {:?}",
                    self.view(),
                    self.endpoints(),
                    self.links(),
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn wait_until_served(&self, pod: &Pod) -> Result<()> {
        self.wait_until(&format!("{} is served", pod.name()), |stage| {
            stage.serves(pod)
        })
    }
}

/// Loads `return action` as a classifier.
pub(crate) fn classifier(action: Action) -> io::Result<OwnedFd> {
    // `r0 = action; exit`: operation code, registers, offset, immediate value.
    let [a, b, c, d] = (action as i32).to_ne_bytes();
    let instructions = [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let (code, license) = (instructions.as_ptr() as u64, c"GPL".as_ptr() as u64);
    let mut attr = [0_u64; 16];
    // Program type 3 is a classifier; two instructions.
    attr[0] = 3 | 2 << 32;
    attr[1] = code;
    attr[2] = license;
    bpf_command(5, &attr)
}

/// Makes a map of this type, key size, value size, number of entries, flags.
fn create_map([kind, key, value, entries, flags]: [u32; 5]) -> io::Result<OwnedFd> {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let mut attr = [0_u64; 16];
    attr[..3].copy_from_slice(&[pair(kind, key), pair(value, entries), pair(flags, 0)]);
    bpf_command(0, &attr)
}

fn bpf_command(command: libc::c_long, attr: &[u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as is said, and they and what they point to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: a successful command returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The id of a loaded program.
pub(crate) fn program_id(program: &OwnedFd) -> Result<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
    Ok(id.context("not a program")?.trim().parse()?)
}

/// The id of a pinned link.
pub(crate) fn link_id(path: &Path) -> Result<u32> {
    let link = bpf::open_pinned(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("link_id:"));
    Ok(id.context("not a link")?.trim().parse()?)
}
