//! The engine over tables in memory. Time is what the tests say it is: they jump from deadline to deadline.

mod faults;
mod flow;
mod model;
mod thread;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use k8s_openapi::api::{core::v1 as core_api, discovery::v1 as discovery_api};
use serde_json::json;
use weir_abi::{Address, Backend, ServiceEntry, ServiceKey, service::proto, service::scope};
use weir_core::{
    model::{EndpointSlice, Kind, Object, ObjectName, Service},
    plan::{Capacity, Op, Snapshot, TableCounts},
    state::Change,
};

use super::{Engine, Report};
use crate::{
    dataplane::{Dataplane, Error, GracePeriod, Memory},
    source::Event,
};

const ROOMY: Capacity = Capacity {
    services: 200,
    slots: 400,
    backends: 100,
    ids: 100,
    members: 100,
    source_ranges: 100,
};

/// Tables in memory, and every reader that there could be: whatever a program has read since the last grace period still
/// leads, after each single operation, to the whole list that it led to then.
struct Watched {
    memory: Memory,
    readable: Vec<(ServiceKey, ServiceEntry, Vec<Backend>)>,
    /// What waits for a grace period that is only begun, if not whoever begins it.
    waiter: Option<fn()>,
}

impl Watched {
    fn new(capacity: Capacity) -> Self {
        Self {
            memory: Memory::new(capacity),
            readable: Vec::new(),
            waiter: None,
        }
    }
}

impl Watched {
    /// Where a program that has read an entry is led. Of which generation a backend is matters only to who remembers it.
    fn led_to(&self, key: &ServiceKey, entry: &ServiceEntry) -> Vec<Backend> {
        let list = self.memory.follow(key, entry).unwrap();
        let whichever = |backend| Backend {
            generation: 0,
            ..backend
        };
        list.into_iter().map(whichever).collect()
    }
}

impl Dataplane for Watched {
    fn capacity(&self) -> Capacity {
        self.memory.capacity()
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.memory.snapshot()
    }

    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        self.memory.apply(op)?;
        if let Op::SetService { key, entry } = op {
            let list = self.led_to(key, entry);
            self.readable.push((*key, *entry, list));
        }
        for (key, entry, list) in &self.readable {
            assert_eq!(self.led_to(key, entry), *list, "after {op:?}");
        }
        Ok(())
    }

    fn grace_period(&mut self) {
        self.memory.grace_period();
        let memory = &self.memory;
        self.readable
            .retain(|(key, entry, _)| memory.entry(key) == Some(entry));
    }

    fn begin_grace_period(&mut self) -> GracePeriod {
        self.grace_period();
        self.waiter
            .map_or_else(GracePeriod::over, GracePeriod::watched_by)
    }
}

type Tested = Engine<Watched>;

fn engine(capacity: Capacity) -> Tested {
    engine_over(Watched::new(capacity))
}

fn engine_over(tables: Watched) -> Tested {
    Engine::new("node1", tables, Report::default())
}

/// An engine whose tables hold what `changes` ask for.
fn synced(capacity: Capacity, changes: &[Change]) -> Tested {
    let mut engine = engine(capacity);
    take(&mut engine, changes);
    list_all(&mut engine);
    engine.tick(Instant::now());
    until_quiet(&mut engine);
    engine
}

fn take(engine: &mut Tested, changes: &[Change]) {
    for change in changes {
        engine.handle(Event::Change(change.clone()));
    }
}

fn list_all(engine: &mut Tested) {
    for kind in Kind::ALL {
        engine.handle(Event::Listed(kind));
    }
}

/// Does what the engine's thread does when nothing more happens: waits for each deadline.
fn until_quiet(engine: &mut Tested) {
    for _ in 0..100 {
        let Some(at) = engine.next_deadline() else {
            return;
        };
        engine.tick(at);
    }
    panic!("the engine does not come to rest");
}

/// A ClusterIP service with TCP ports, each of a name and a number.
fn service(name: &str, addresses: &[&str], ports: &[(&str, u16)]) -> Change {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
        .collect();
    let object: core_api::Service = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIPs": addresses, "ports": ports},
    }))
    .unwrap();
    Change::Apply(Object::Service(Service::reduce(&object).unwrap()))
}

/// A slice named `name` of `service`; every port of it is `port`.
fn slice(name: &str, service: &str, ports: &[&str], port: u16, addresses: &[&str]) -> Change {
    let v6 = addresses
        .first()
        .is_some_and(|address| address.contains(':'));
    let ports: Vec<_> = ports
        .iter()
        .map(|name| json!({"name": name, "port": port, "protocol": "TCP"}))
        .collect();
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    slice_of(json!({
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    }))
}

fn slice_of(object: serde_json::Value) -> Change {
    let object: discovery_api::EndpointSlice = serde_json::from_value(object).unwrap();
    Change::Apply(Object::EndpointSlice(
        EndpointSlice::reduce(&object).unwrap(),
    ))
}

fn delete(kind: Kind, name: &str) -> Change {
    Change::Delete(kind, ObjectName::new("default", name))
}

/// The frontend of a ClusterIP.
fn frontend(address: &str, port: u16) -> ServiceKey {
    ServiceKey {
        addr: address.parse::<IpAddr>().unwrap().into(),
        port_be: port.to_be(),
        proto: proto::TCP,
        scope: scope::INTERNAL,
    }
}

/// The entry of an address as such.
fn any_port(address: &str) -> ServiceKey {
    let address: Address = address.parse::<IpAddr>().unwrap().into();
    ServiceKey::address_only(address, scope::INTERNAL)
}

/// The endpoints that a connect could reach, as `address:port`; `None` for what is not a service.
type Reachable = Option<BTreeSet<String>>;

fn reachable(engine: &Tested, key: &ServiceKey) -> Reachable {
    let backends = engine.dataplane.memory.resolve(key).unwrap()?;
    let names: BTreeSet<String> = backends.iter().map(name_of).collect();
    assert_eq!(names.len(), backends.len(), "{key:?} has a backend twice");
    Some(names)
}

fn name_of(backend: &Backend) -> String {
    let port = u16::from_be(backend.port_be);
    std::net::SocketAddr::new(backend.addr.into(), port).to_string()
}

fn endpoints(names: &[&str]) -> Reachable {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

fn view(engine: &Tested, keys: &[ServiceKey]) -> BTreeMap<ServiceKey, Reachable> {
    keys.iter()
        .map(|key| (*key, reachable(engine, key)))
        .collect()
}

fn counts(engine: &Tested) -> TableCounts {
    engine
        .programmed
        .as_ref()
        .expect("the engine is in sync")
        .counts()
}

/// Deletes every object and finds all the room given back.
fn assert_leaves_nothing(engine: &mut Tested) {
    for kind in [Kind::Service, Kind::EndpointSlice] {
        engine.handle(Event::Change(Change::Replace {
            kind,
            objects: Vec::new(),
            keep: Vec::new(),
        }));
    }
    engine.tick(Instant::now());
    until_quiet(engine);
    assert_eq!(engine.dataplane.memory.frontends(), 0);
    assert_eq!(engine.dataplane.memory.active_backends(), 0);
    assert_eq!(counts(engine), TableCounts::default());
    assert!(engine.service_ports().is_empty());
}

/// The value of a metric's sample.
fn metric(engine: &Tested, sample: &str) -> f64 {
    let text = engine.report.metrics.text().unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no sample {sample} in:\n{text}"));
    value.parse().unwrap()
}
