//! What the kernel's tables say, read by a way of its own, and what they should say, by a model too simple to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1 as core_api, discovery::v1 as discovery_api};
use serde_json::{Value, json};
use weir::{
    bpffs::Layout,
    dataplane::{Dataplane as _, Kernel},
};
use weir_abi::{
    service::{backend_state, flags, proto, scope},
    table,
};
use weir_core::{
    model::{EndpointSlice, Object, Service},
    plan::Snapshot,
};

/// A frontend on this node: address, port and protocol.
pub(crate) type Frontend = (SocketAddr, u8);

/// Where each frontend leads.
pub(crate) type Lists = BTreeMap<Frontend, BTreeSet<SocketAddr>>;

/// What was read.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) lists: Lists,
    /// Every backend that is in use.
    pub(crate) backends: BTreeSet<Frontend>,
    /// Members of the lists of services with session affinity.
    pub(crate) members: usize,
}

/// What should be read.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) lists: Lists,
    /// Every backend of a list.
    backends: BTreeSet<Frontend>,
    /// Those that may be in use beside them: endpoints without a list, which serve whom they have.
    known: BTreeSet<Frontend>,
    members: usize,
}

impl Expected {
    pub(crate) fn is(&self, seen: &Seen) -> bool {
        seen.lists == self.lists
            && seen.members == self.members
            && seen.backends.is_superset(&self.backends)
            && seen.backends.is_subset(&self.known)
    }
}

/// Reads the pinned tables.
///
/// # Errors
/// When something in them is not whole: an entry that leads to nothing or to anything free, a list without its members.
pub(crate) fn read(layout: &Layout) -> Result<Seen> {
    let snapshot = Kernel::open(layout)?.snapshot()?;
    let backend = |id: u32| -> Result<Frontend> {
        let backend = snapshot.backends.get(id as usize);
        let backend = backend.filter(|backend| backend.state == backend_state::ACTIVE);
        let backend = backend.with_context(|| format!("backend {id} is free"))?;
        let at = SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be));
        Ok((at, backend.proto))
    };
    let mut lists = Lists::new();
    for (key, entry) in &snapshot.services {
        ensure!(entry.is_sealed_for(key), "{key:?} is not sealed");
        let start = entry.slots_offset as usize;
        let slots = snapshot
            .slots
            .get(start..start + entry.slots_count as usize);
        let slots = slots.with_context(|| format!("{key:?} leads beyond the slots"))?;
        let mut list = BTreeSet::new();
        for id in slots {
            let (at, proto) = backend(*id).with_context(|| format!("{key:?}"))?;
            ensure!(
                proto == key.proto,
                "{key:?} leads to another protocol's {at}"
            );
            ensure!(list.insert(at), "{key:?} has {at} twice");
            ensure!(
                entry.flags & flags::AFFINITY == 0 || is_member(&snapshot, entry.list, *id),
                "{key:?} does not know {at} as a member"
            );
        }
        if key.scope == scope::INTERNAL && key.proto != proto::ANY {
            let at = SocketAddr::new(key.addr.into(), u16::from_be(key.port_be));
            lists.insert((at, key.proto), list);
        }
    }
    let in_use = (0..).zip(&snapshot.backends);
    let in_use = in_use.filter(|(_, backend)| backend.state != backend_state::FREE);
    Ok(Seen {
        lists,
        backends: in_use.map(|(id, _)| backend(id)).collect::<Result<_>>()?,
        members: snapshot.members.len(),
    })
}

fn is_member(snapshot: &Snapshot, list: u32, backend_id: u32) -> bool {
    let mut members = snapshot.members.iter();
    members.any(|member| (member.list, member.backend_id) == (list, backend_id))
}

/// Something random.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end` (splitmix64).
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
const PORTS: [(&str, &str, u8, u16); 4] = [
    ("http", "TCP", proto::TCP, 80),
    ("dns", "UDP", proto::UDP, 53),
    ("admin", "TCP", proto::TCP, 81),
    ("log", "UDP", proto::UDP, 514),
];
const TARGET: u16 = 8080;

/// What the cluster holds.
#[derive(Clone, Default)]
pub(crate) struct Model {
    services: BTreeMap<&'static str, ServiceModel>,
    /// By name.
    slices: BTreeMap<String, SliceModel>,
}

#[derive(Clone)]
struct ServiceModel {
    /// Its addresses: no two services have the same.
    number: u8,
    /// How many of the ports it has.
    ports: usize,
    sticky: bool,
}

#[derive(Clone)]
struct SliceModel {
    service: &'static str,
    v6: bool,
    ports: usize,
    endpoints: BTreeMap<IpAddr, Endpoint>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Ready,
    Terminating,
    Unready,
}

impl Model {
    /// Changes something, and returns the name of the object that has changed: see [`Model::object`].
    pub(crate) fn change(&mut self, random: &mut Random) -> String {
        let name = NAMES[random.below(NAMES.len())];
        match random.below(10) {
            0 => {
                self.services.remove(name);
                format!("service-{name}")
            }
            1..4 => {
                let others = self.services.iter().filter(|(other, _)| **other != name);
                let taken: BTreeSet<u8> = others.map(|(_, service)| service.number).collect();
                let free: Vec<u8> = (1..14).filter(|number| !taken.contains(number)).collect();
                let service = ServiceModel {
                    number: free[random.below(free.len())],
                    ports: 1 + random.below(PORTS.len()),
                    sticky: random.one_in(3),
                };
                self.services.insert(name, service);
                format!("service-{name}")
            }
            _ => self.change_slice(name, random),
        }
    }

    fn change_slice(&mut self, service: &'static str, random: &mut Random) -> String {
        let (part, v6) = (random.below(2) as u8, random.one_in(2));
        let name = format!("slice-{service}-{part}-{}", if v6 { 6 } else { 4 });
        if random.one_in(8) {
            self.slices.remove(&name);
            return name;
        }
        let mut endpoints = BTreeMap::new();
        for _ in 0..random.below(7) {
            let host = 1 + random.below(30) as u8;
            // The parts of a service's list have nothing in common, those of different services do.
            let address: IpAddr = if v6 {
                Ipv6Addr::new(0xfd00, 0xa, 0, part.into(), 0, 0, 0, host.into()).into()
            } else {
                Ipv4Addr::new(10, 0, part, host).into()
            };
            let kinds = [Endpoint::Ready, Endpoint::Terminating, Endpoint::Unready];
            let kind = kinds[random.below(6).saturating_sub(3)];
            endpoints.insert(address, kind);
        }
        let slice = SliceModel {
            service,
            v6,
            ports: 1 + random.below(PORTS.len()),
            endpoints,
        };
        self.slices.insert(name.clone(), slice);
        name
    }

    /// The object of that name; `None` if there is none (any more).
    pub(crate) fn object(&self, name: &str) -> Option<Value> {
        match name.strip_prefix("service-") {
            Some(service) => self.service(service),
            None => self.slice(name),
        }
    }

    /// The names of all objects.
    pub(crate) fn objects(&self) -> Vec<String> {
        let services = self.services.keys().map(|name| format!("service-{name}"));
        services.chain(self.slices.keys().cloned()).collect()
    }

    fn service(&self, name: &str) -> Option<Value> {
        let service = self.services.get(name)?;
        let ips = cluster_ips(service.number);
        let ports = PORTS[..service.ports].iter();
        let ports: Vec<Value> = ports
            .map(|(name, protocol, _, port)| json!({"name": name, "protocol": protocol, "port": port}))
            .collect();
        let affinity = if service.sticky { "ClientIP" } else { "None" };
        Some(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "clusterIP": ips[0], "clusterIPs": ips, "ports": ports, "sessionAffinity": affinity,
            },
        }))
    }

    fn slice(&self, name: &str) -> Option<Value> {
        let slice = self.slices.get(name)?;
        let ports = PORTS[..slice.ports].iter();
        let ports: Vec<Value> = ports
            .map(|(name, protocol, ..)| json!({"name": name, "protocol": protocol, "port": TARGET}))
            .collect();
        let endpoints = slice.endpoints.iter().map(|(address, kind)| {
            json!({"addresses": [address], "conditions": {
                "ready": *kind == Endpoint::Ready,
                "serving": *kind != Endpoint::Unready,
                "terminating": *kind == Endpoint::Terminating,
            }})
        });
        Some(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": slice.service},
            },
            "addressType": if slice.v6 { "IPv6" } else { "IPv4" },
            "ports": ports,
            "endpoints": endpoints.collect::<Vec<_>>(),
        }))
    }

    /// Where each frontend should lead: to the endpoints that are ready, or else to those that end and serve until then.
    pub(crate) fn expected(&self) -> Expected {
        let (mut lists, mut backends, mut members) = (Lists::new(), BTreeSet::new(), 0);
        for (name, service) in &self.services {
            for (index, (_, _, proto, port)) in PORTS.iter().enumerate().take(service.ports) {
                for address in cluster_ips(service.number) {
                    let of_kind = |kind| -> BTreeSet<SocketAddr> {
                        let slices = self.slices.values().filter(|slice| {
                            slice.service == *name
                                && slice.v6 == address.is_ipv6()
                                && index < slice.ports
                        });
                        let endpoints = slices.flat_map(|slice| &slice.endpoints);
                        let of_kind = endpoints.filter(|(_, found)| **found == kind);
                        of_kind
                            .map(|(address, _)| (*address, TARGET).into())
                            .collect()
                    };
                    let ready = of_kind(Endpoint::Ready);
                    let list = if ready.is_empty() {
                        of_kind(Endpoint::Terminating)
                    } else {
                        ready
                    };
                    backends.extend(list.iter().map(|at| (*at, *proto)));
                    if service.sticky {
                        members += list.len();
                    }
                    lists.insert(((address, *port).into(), *proto), list);
                }
            }
        }
        let mut known = backends.clone();
        for slice in self.slices.values() {
            for (_, _, proto, _) in &PORTS[..slice.ports] {
                let endpoints = slice.endpoints.keys();
                known.extend(endpoints.map(|address| ((*address, TARGET).into(), *proto)));
            }
        }
        Expected {
            lists,
            backends,
            known,
            members,
        }
    }
}

fn cluster_ips(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 96, 0, number).into(),
        Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()).into(),
    ]
}

/// What a source makes of an object.
pub(crate) fn reduce(object: Value) -> Result<Object> {
    Ok(if object["kind"] == "Service" {
        let object: core_api::Service = serde_json::from_value(object)?;
        Object::Service(Service::reduce(&object)?)
    } else {
        let object: discovery_api::EndpointSlice = serde_json::from_value(object)?;
        Object::EndpointSlice(EndpointSlice::reduce(&object)?)
    })
}

/// That the tables are there at all, for a test that would otherwise compare nothing with nothing.
pub(crate) fn exist(layout: &Layout) -> bool {
    layout.map(table::SERVICES).exists()
}
