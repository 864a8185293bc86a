//! Plans, executed one operation at a time on a small kernel.

mod admission;
mod adoption;
mod cases;
mod churn;
mod kernel;
mod scale;

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_abi::service::{proto, scope};
use weir_abi::{Address, ServiceKey, Verdict};

use super::*;
use crate::backend::BackendAddr;
use crate::compile::{DesiredPort, DesiredService, Frontend};
use crate::model::TrafficPolicy;
use kernel::{Kernel, Seen};

const ROOMY: Capacity = Capacity {
    services: 1000,
    slots: 1000,
    backends: 1000,
    ids: 1000,
    members: 1000,
    source_ranges: 1000,
};

/// The frontend `10.96.0.{last}:{port}`, from within.
fn key(last: u8, port: u16) -> ServiceKey {
    ServiceKey {
        addr: IpAddr::from([10, 96, 0, last]).into(),
        port_be: port.to_be(),
        proto: proto::TCP,
        scope: scope::INTERNAL,
    }
}

/// The endpoint `10.0.x.y:80`.
fn backend(number: u16) -> BackendAddr {
    let [high, low] = number.to_be_bytes();
    BackendAddr {
        addr: IpAddr::from([10, 0, high, low]).into(),
        port_be: 80_u16.to_be(),
        proto: proto::TCP,
    }
}

fn backends(numbers: &[u16]) -> Vec<BackendAddr> {
    numbers.iter().copied().map(backend).collect()
}

fn name(service: &str) -> ObjectName {
    ObjectName::new("shop", service)
}

/// A port of which each frontend has a list of its own; an empty one is for no endpoints.
fn port(port_name: &str, frontends: &[(ServiceKey, &[u16])]) -> DesiredPort {
    let mut port = DesiredPort {
        port_name: port_name.into(),
        proto: proto::TCP,
        ..DesiredPort::default()
    };
    for &(key, numbers) in frontends {
        let list = (!numbers.is_empty()).then(|| {
            port.lists.push(backends(numbers));
            port.lists.len() - 1
        });
        port.frontends.push(frontend(key, list));
    }
    port
}

/// A frontend with a list, or without endpoints. The first list is the one for policy Cluster.
fn frontend(key: ServiceKey, list: Option<usize>) -> Frontend {
    Frontend {
        key,
        verdict: list.map_or(Verdict::NoEndpoints, |_| Verdict::Translate),
        list,
        policy: match list {
            None | Some(0) => TrafficPolicy::Cluster,
            Some(_) => TrafficPolicy::Local,
        },
        open: false,
        guarded: false,
    }
}

fn desired(service: &str, ports: Vec<DesiredPort>) -> DesiredService {
    DesiredService {
        name: name(service),
        ports,
    }
}

/// A service with one port and one frontend.
fn simple(service: &str, key: ServiceKey, numbers: &[u16]) -> DesiredService {
    desired(service, vec![port("http", &[(key, numbers)])])
}

/// A service that is gone.
fn gone(service: &str) -> DesiredService {
    desired(service, Vec::new())
}

/// The addresses behind a frontend.
fn leads_to(kernel: &Kernel, key: ServiceKey) -> Option<Vec<BackendAddr>> {
    match kernel.seen().get(&key)? {
        Seen::List(list) => Some(addresses(list)),
        _ => Some(Vec::new()),
    }
}

fn addresses(list: &[Option<Backend>]) -> Vec<BackendAddr> {
    let address = |backend: &Backend| BackendAddr {
        addr: backend.addr,
        port_be: backend.port_be,
        proto: backend.proto,
    };
    list.iter().flatten().map(address).collect()
}

/// An agent and its kernel.
struct World {
    kernel: Kernel,
    programmed: Programmed,
}

impl World {
    fn new(capacity: Capacity) -> Self {
        Self {
            kernel: Kernel::new(capacity),
            programmed: Programmed::new(capacity),
        }
    }

    /// Plans and applies; gives back the plan's operations and errors.
    fn plan(
        &mut self,
        desired: impl IntoIterator<Item = DesiredService>,
    ) -> (Vec<Op>, Vec<PlanError>) {
        let plan = self.programmed.plan(desired.into_iter());
        let ops = plan.ops.iter().chain(&plan.after_grace).cloned().collect();
        let errors = plan.errors.clone();
        self.kernel.run(&mut self.programmed, plan);
        (ops, errors)
    }

    fn plan_leftovers(&mut self) {
        let plan = self.programmed.plan_leftovers();
        self.kernel.run(&mut self.programmed, plan);
        // Services that do not fit keep what they had.
        self.kernel.leftovers = self.programmed.errors().next().is_some();
        self.kernel.assert_agrees(&self.programmed);
    }

    /// A new agent finds the tables as they are.
    fn restart(&mut self) {
        self.kernel.grace();
        self.kernel.leftovers = true;
        let capacity = self.kernel.capacity;
        self.programmed = Programmed::adopt(capacity, self.kernel.snapshot());
    }

    fn assert_empty(&mut self) {
        if self.programmed.wants_plan() {
            self.plan([]);
        }
        assert!(
            self.kernel.services.is_empty(),
            "{:?}",
            self.kernel.services
        );
        assert_eq!(self.programmed.counts(), TableCounts::default());
        assert!(self.kernel.members.is_empty() && self.kernel.source_ranges.is_empty());
        assert_eq!(self.programmed.errors().count(), 0);
        assert_eq!(self.programmed.service_ports().count(), 0);
    }

    /// The ids of the ports, by service and port name.
    fn ids(&self) -> BTreeMap<String, u32> {
        let ports = self.programmed.service_ports();
        ports
            .map(|(port, id)| (format!("{} {}", port.name, port.port_name), id))
            .collect()
    }
}
