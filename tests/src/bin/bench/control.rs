//! The control side: a first sync, and one change, through the real code path into real maps.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::json;
use weir::{
    bpffs::Layout,
    dataplane::{Kernel, Object},
    source::Event,
    sync::{Engine, Report},
};
use weir_abi::table;
use weir_core::{
    model::{EndpointSlice, Kind, Object as ClusterObject, Service},
    plan::Capacity,
    state::Change,
};
use weir_world::{PeerCommand, World};

use crate::usage;

/// How many single changes are timed.
const CHANGES: u32 = 2000;

/// What one first sync took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FirstSync {
    /// From the decoded objects to the last map write.
    pub(crate) wall: Duration,
    /// CPU time of the same.
    pub(crate) cpu: Duration,
    /// Anonymous memory that the agent's state takes afterwards (`RssAnon`), in bytes.
    pub(crate) anonymous: u64,
    /// From a slice event to the map write: median.
    pub(crate) change_p50: Duration,
    /// The same: 99th of 100.
    pub(crate) change_p99: Duration,
}

/// Measures the engine alone, without a source, and prints a table.
pub(crate) fn bench(sizes: &[u32], runs: u32) -> Result<()> {
    println!(
        "First sync and one change, from decoded objects into real maps; {runs} runs, the median\n\n\
         | services x endpoints | first sync: wall | CPU | anonymous memory | one slice change: median | 99th of 100 |\n\
         | --- | --- | --- | --- | --- | --- |"
    );
    for &services in sizes {
        // As many as the default capacity has room for.
        let endpoints = if services > 10_000 { 5 } else { 10 };
        let mut runs = (0..runs)
            .map(|_| first_sync(services, endpoints))
            .collect::<Result<Vec<_>>>()?;
        runs.sort_by_key(|run| run.cpu);
        let run = &runs[runs.len() / 2];
        println!(
            "| {services} x {endpoints} | {:.3} s | {:.3} s | {:.1} MB | {:.0} us | {:.0} us |",
            run.wall.as_secs_f64(),
            run.cpu.as_secs_f64(),
            run.anonymous as f64 / 1e6,
            run.change_p50.as_secs_f64() * 1e6,
            run.change_p99.as_secs_f64() * 1e6,
        );
    }
    Ok(())
}

/// Measures in a process of its own.
fn first_sync(services: u32, endpoints: u32) -> Result<FirstSync> {
    let output = Command::new(std::env::current_exe()?)
        .args(["first-sync", &services.to_string(), &endpoints.to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "first-sync failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// That process.
pub(crate) fn first_sync_child(services: u32, endpoints: u32) -> Result<()> {
    // Only for its private bpf file system.
    let world = World::builder(PeerCommand::new("/bin/false")).build()?;
    let layout = Layout::new(&world.nodes()[0].bpffs());
    layout.create()?;
    let _object = Object::open(&layout, &Capacity::default())?;
    let mut engine = Engine::new("node1", Kernel::open(&layout)?, Report::default());

    let mut spent = Spent::default();
    for number in 0..services {
        let (service, slice) = (service(number)?, slice(number, endpoints, 0)?);
        spent.on(|| -> Result<()> {
            let service = ClusterObject::Service(Service::reduce(&service)?);
            engine.handle(Event::Change(Change::Apply(service)));
            let slice = ClusterObject::EndpointSlice(EndpointSlice::reduce(&slice)?);
            engine.handle(Event::Change(Change::Apply(slice)));
            Ok(())
        })?;
    }
    spent.on(|| {
        for kind in Kind::ALL {
            engine.handle(Event::Listed(kind));
        }
        engine.tick(Instant::now());
    });
    let tables = engine.tables();
    ensure!(
        tables
            .iter()
            .any(|t| t.name == table::SLOTS && t.entries == u64::from(services * endpoints)),
        "the tables are not filled: {tables:?}"
    );
    let anonymous = usage::anonymous(std::process::id())?;

    let mut changes = Vec::new();
    for round in 0..CHANGES {
        let changed = slice(round % services, endpoints, 1 + round / services)?;
        let start = Instant::now();
        let changed = ClusterObject::EndpointSlice(EndpointSlice::reduce(&changed)?);
        engine.handle(Event::Change(Change::Apply(changed)));
        engine.sync();
        changes.push(start.elapsed());
        // What is due between changes: grace periods.
        engine.tick(Instant::now());
    }
    changes.sort_unstable();
    let result = FirstSync {
        wall: spent.wall,
        cpu: spent.cpu,
        anonymous,
        change_p50: changes[changes.len() / 2],
        change_p99: changes[changes.len() * 99 / 100],
    };
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

/// Time spent on what is measured; making the objects is not.
#[derive(Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

impl Spent {
    fn on<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, cpu) = (Instant::now(), cpu_time());
        let result = work();
        self.wall += start.elapsed();
        self.cpu += cpu_time().saturating_sub(cpu);
        result
    }
}

fn service(number: u32) -> Result<core::Service> {
    let name = format!("service-{number}");
    let address = format!(
        "10.{}.{}.{}",
        64 + number / 62500,
        number / 250 % 250,
        1 + number % 250
    );
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {
            "clusterIP": address, "clusterIPs": [address],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }))?)
}

/// `version` other than 0: the last endpoint has moved to another address.
fn slice(number: u32, endpoints: u32, version: u32) -> Result<discovery::EndpointSlice> {
    let name = format!("service-{number}");
    let endpoints = (0..endpoints).map(|n| {
        let id = number * endpoints + n;
        let moved = if n + 1 == endpoints { version } else { 0 };
        let address = format!(
            "{}.{}.{}.{}",
            10 + moved,
            128 + id / 62500,
            id / 250 % 250,
            1 + id % 250
        );
        json!({
            "addresses": [address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node{}", id % 100),
            "zone": format!("zone-{}", id % 3),
            "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("{name}-{n}")},
        })
    });
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "bench",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))?)
}

pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
