//! The programs in the kernel, with tables of their own, in a network namespace of their own: packets in, packets out.

use std::{fs, net::IpAddr, process::Command};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, lpm_trie::LpmTrie},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use rustix::thread::UnshareFlags;
use weir::dataplane::Object;
use weir_abi::{
    Address, AffinityKey, AffinityValue, Backend, Endpoint, Flow, FlowKey, MemberKey, NodeConfig,
    ServiceCounters, ServiceEntry, ServiceKey, SourceRangeKey, Verdict, config, table,
};

use crate::{frame::Packet, place::Place};

/// `TCX_NEXT`, `TCX_DROP`, `TCX_REDIRECT`.
pub(crate) const NEXT: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

/// Masquerade ports of the node.
pub(crate) const PORTS: std::ops::RangeInclusive<u16> = 61000..=61999;

const PROGRAMS: [&str; 4] = [
    "weir_from_pod",
    "weir_to_pod",
    "weir_from_net",
    "weir_to_net",
];

/// Small tables: a test fills few elements, and the full ones are many megabytes each.
const CAPACITY: u32 = 1024;

/// Loaded programs and their tables.
pub(crate) struct Rig {
    pub(crate) place: Place,
    ebpf: Ebpf,
    pub(crate) services: HashMap<MapData, ServiceKey, ServiceEntry>,
    pub(crate) slots: Array<MapData, u32>,
    backends: Array<MapData, Backend>,
    pub(crate) members: HashMap<MapData, MemberKey, u32>,
    pub(crate) affinity: HashMap<MapData, AffinityKey, AffinityValue>,
    pub(crate) ranges: LpmTrie<MapData, SourceRangeKey, u32>,
    endpoints: HashMap<MapData, Address, Endpoint>,
    flows: HashMap<MapData, FlowKey, Flow>,
    config: Array<MapData, NodeConfig>,
    counters: PerCpuArray<MapData, ServiceCounters>,
    verdicts: PerCpuArray<MapData, u64>,
    /// Where the next service's slots begin.
    pub(crate) next_slot: u32,
    /// The device that packets are at.
    device: u32,
}

/// What became of a packet.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) code: i32,
    pub(crate) frame: Vec<u8>,
}

impl Rig {
    /// A node with both families, whose local pods 1 to 4 are known, and which hands packets to them directly.
    pub(crate) fn new(place: Place) -> Self {
        let device = own_network();
        let mut loader = EbpfLoader::new();
        for map in [
            table::SERVICES,
            table::BACKENDS,
            table::SERVICE_COUNTERS,
            table::ENDPOINTS,
            table::FLOWS,
            table::FRAGMENTS,
            table::AFFINITY,
            table::MEMBERS,
            table::DATAGRAM_ORIGINS,
        ] {
            loader.map_max_entries(map, CAPACITY);
        }
        loader.map_max_entries(table::SLOTS, 1 << 16);
        let mut ebpf = loader.load(Object::bytes()).expect("the object loads");
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).expect("the object has the program");
            let program: &mut SchedClassifier = program.try_into().expect("a tc program");
            load(program);
        }
        let mut take = |name| ebpf.take_map(name).expect("the object has the map");
        let mut rig = Self {
            services: take(table::SERVICES).try_into().expect("a hash"),
            slots: take(table::SLOTS).try_into().expect("an array"),
            backends: take(table::BACKENDS).try_into().expect("an array"),
            members: take(table::MEMBERS).try_into().expect("a hash"),
            affinity: take(table::AFFINITY).try_into().expect("a hash"),
            ranges: take(table::SOURCE_RANGES).try_into().expect("a trie"),
            endpoints: take(table::ENDPOINTS).try_into().expect("a hash"),
            flows: take(table::FLOWS).try_into().expect("a hash"),
            config: take(table::CONFIG).try_into().expect("an array"),
            counters: take(table::SERVICE_COUNTERS).try_into().expect("an array"),
            verdicts: take(table::VERDICTS).try_into().expect("an array"),
            ebpf,
            place,
            next_slot: 1,
            device,
        };
        let [v4, v6] = Place::BOTH.map(Place::node);
        let node = NodeConfig {
            masquerade_v4: v4.into(),
            masquerade_v6: v6.into(),
            netns_cookie: 0,
            epoch: 1,
            flags: config::flags::LOCAL_REDIRECT,
            masquerade_port_first: *PORTS.start(),
            masquerade_port_last: *PORTS.end(),
            reserved: 0,
        };
        rig.config.set(0, node, 0).expect("CONFIG is written");
        for n in 1..=4 {
            rig.set_pod(place.pod(n), 100 + u32::from(n));
        }
        rig
    }

    fn run(&self, program: &str, frame: &[u8], segment: u32) -> Out {
        self.try_run(program, frame, segment)
            .unwrap_or_else(|error| panic!("the kernel runs {} bytes: {error}", frame.len()))
    }

    /// Runs a program on a frame; on a buffer that was put together of segments of that size, if that is not 0.
    fn try_run(&self, program: &str, frame: &[u8], segment: u32) -> Result<Out, ProgramError> {
        /// Offsets in `struct __sk_buff`.
        const IFINDEX: usize = 40;
        const GSO_SIZE: usize = 176;
        let mut context = [0; 192];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.device.to_ne_bytes());
        context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&segment.to_ne_bytes());
        let program = self
            .ebpf
            .program(program)
            .expect("the object has the program");
        let program: &SchedClassifier = program.try_into().expect("a tc program");
        let mut out = vec![0; frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Out {
            code: result.return_value.cast_signed(),
            frame: out,
        })
    }

    /// Something a pod sends.
    pub(crate) fn pod_sends(&self, packet: &Packet) -> Out {
        self.run("weir_from_pod", &packet.frame(), 0)
    }

    /// Something that comes in from outside.
    pub(crate) fn arrives(&self, packet: &Packet) -> Out {
        self.run("weir_from_net", &packet.frame(), 0)
    }

    /// Something that the node's stack sends to a pod.
    pub(crate) fn node_sends_pod(&self, packet: &Packet) -> Out {
        self.run("weir_to_pod", &packet.frame(), 0)
    }

    /// Something that the node's stack sends out.
    pub(crate) fn node_sends_out(&self, packet: &Packet) -> Out {
        self.run("weir_to_net", &packet.frame(), 0)
    }

    /// Any bytes, at any of the hooks.
    pub(crate) fn raw(&self, hook: usize, frame: &[u8]) -> Out {
        self.run(PROGRAMS[hook], frame, 0)
    }

    /// The same, unless the kernel itself takes the bytes for too few to be a packet.
    pub(crate) fn any(&self, hook: usize, frame: &[u8]) -> Option<Out> {
        self.try_run(PROGRAMS[hook], frame, 0).ok()
    }

    /// From outside, in segments of that size.
    pub(crate) fn arrives_in_segments(&self, packet: &Packet, size: u32) -> Out {
        self.run("weir_from_net", &packet.frame(), size)
    }

    /// Changes the network namespace.
    pub(crate) fn ip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) {
        ip(arguments);
    }

    pub(crate) fn set_pod(&mut self, addr: IpAddr, ifindex: u32) {
        let endpoint = Endpoint { ifindex, flags: 0 };
        self.endpoints
            .insert(Address::from(addr), endpoint, 0)
            .expect("ENDPOINTS is written");
    }

    pub(crate) fn remove_pod(&mut self, addr: IpAddr) {
        self.endpoints
            .remove(&Address::from(addr))
            .expect("ENDPOINTS is written");
    }

    pub(crate) fn set_backend(&mut self, id: u32, backend: Backend) {
        self.backends
            .set(id, backend, 0)
            .expect("BACKENDS is written");
    }

    pub(crate) fn backend(&self, id: u32) -> Backend {
        self.backends.get(&id, 0).expect("BACKENDS is read")
    }

    /// The node's netfilter translates destinations as well, or does not.
    pub(crate) fn others_translate(&mut self, they_do: bool) {
        let mut config = self.config.get(&0, 0).expect("CONFIG is read");
        config.flags &= !config::flags::OTHERS_TRANSLATE;
        config.flags |= u32::from(they_do) * config::flags::OTHERS_TRANSLATE;
        self.config.set(0, config, 0).expect("CONFIG is written");
    }

    /// Retires a backend, as user space does.
    pub(crate) fn retire(&mut self, id: u32) {
        let mut backend = self.backend(id);
        backend.state = weir_abi::service::backend_state::FREE;
        backend.generation += 1;
        self.set_backend(id, backend);
    }

    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut NodeConfig)) {
        let mut config = self.config.get(&0, 0).expect("CONFIG is read");
        change(&mut config);
        self.config.set(0, config, 0).expect("CONFIG is written");
    }

    /// Everything that is remembered.
    pub(crate) fn flows(&self) -> Vec<(FlowKey, Flow)> {
        self.flows
            .iter()
            .collect::<Result<_, _>>()
            .expect("FLOWS is read")
    }

    /// What is remembered of packets like this one.
    pub(crate) fn flow(&self, proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Option<Flow> {
        self.flows.get(&flow_key(proto, src, dst), 0).ok()
    }

    /// Changes what is remembered.
    pub(crate) fn change_flows(&mut self, change: impl Fn(&mut Flow)) {
        for (key, mut flow) in self.flows() {
            change(&mut flow);
            self.flows.insert(key, flow, 0).expect("FLOWS is written");
        }
    }

    /// Forgets it, as a full table does.
    pub(crate) fn evict(&mut self, proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) {
        self.flows
            .remove(&flow_key(proto, src, dst))
            .expect("the flow is there");
    }

    /// How often the verdict was given.
    pub(crate) fn count(&self, verdict: Verdict) -> u64 {
        let values = self
            .verdicts
            .get(&(verdict as u32), 0)
            .expect("VERDICTS is read");
        values.iter().sum()
    }

    /// Connections of a service port: sent to a backend, and refused.
    pub(crate) fn counters(&self, id: u32) -> (u64, u64) {
        let values = self.counters.get(&id, 0).expect("SERVICE_COUNTERS is read");
        (
            values.iter().map(|v| v.translated).sum(),
            values.iter().map(|v| v.refused).sum(),
        )
    }
}

impl Out {
    /// The stack goes on with it.
    #[track_caller]
    pub(crate) fn passes(&self, expected: &Packet) {
        self.is(NEXT, &expected.frame());
    }

    /// It goes to a pod or next hop directly.
    #[track_caller]
    pub(crate) fn redirected(&self, expected: &Packet) {
        self.is(REDIRECT, &expected.frame());
    }

    #[track_caller]
    pub(crate) fn dropped(&self) {
        assert_eq!(self.code, DROP, "{}", hex(&self.frame));
    }

    #[track_caller]
    pub(crate) fn is(&self, code: i32, frame: &[u8]) {
        let same = self.code == code && self.frame == frame;
        let (got, wanted) = (hex(&self.frame), hex(frame));
        assert!(
            same,
            "\n   got {:2} {got}\nwanted {code:2} {wanted}",
            self.code
        );
    }
}

fn flow_key(proto: u8, src: (IpAddr, u16), dst: (IpAddr, u16)) -> FlowKey {
    FlowKey {
        src: src.0.into(),
        dst: dst.0.into(),
        sport_be: src.1.to_be(),
        dport_be: dst.1.to_be(),
        proto,
        reserved: [0; 3],
    }
}

fn hex(bytes: &[u8]) -> String {
    let word = |pair: &[u8]| pair.iter().map(|b| format!("{b:02x}")).collect::<String>();
    bytes.chunks(2).map(word).collect::<Vec<_>>().join(" ")
}

/// A signal for the process makes the kernel give up a verification (EAGAIN).
fn load(program: &mut SchedClassifier) {
    for _ in 0..10 {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => return result.expect("the kernel takes the program"),
        }
    }
    panic!("the kernel was interrupted ten times while it verified a program");
}

fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) {
    let mut ip = Command::new("ip");
    let done = ip.args(arguments).output().expect("iproute2 is installed");
    assert!(
        done.status.success(),
        "{ip:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Moves this thread, which is the test's own, to a new network namespace with one device and routes; both go with it. The
/// device's index.
fn own_network() -> u32 {
    // SAFETY: no file descriptor is affected.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .expect("a network namespace (tests need root)");
    // In the thread's own namespace, as these are the thread's own files.
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{path}"), "1").expect("forwarding is switched on");
    }
    for arguments in [
        "link set lo up",
        "link add eth0 address 02:00:00:00:00:01 type veth peer name far",
        "link set far up",
        "link set eth0 mtu 1500 up",
        "address add 172.18.0.2/24 dev eth0",
        "address add fd18::2/64 dev eth0 nodad",
        "route add default via 172.18.0.1",
        "route add default via fd18::1",
        "route add 10.244.1.0/24 via 172.18.0.3 mtu lock 1400",
        "route add fd45::/64 via fd18::3 mtu lock 1400",
    ] {
        ip(arguments.split(' '));
    }
    rustix::net::netdevice::name_to_index(
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .expect("a socket"),
        "eth0",
    )
    .expect("the device is there")
}
