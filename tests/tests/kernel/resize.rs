//! Tables of another size, interrupted resizes, and nonsense in the tables' place.

use std::{fs, net::IpAddr, ops::Range, time::Duration};

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData};
use weir::dataplane::{Counters, Dataplane, Kernel, Object, Sizes};
use weir_abi::{
    Flow, FlowKey, MemberKey, ServiceEntry, SourceRangeKey, Verdict,
    flow::kind,
    service::{backend_state, proto},
    table,
};
use weir_core::plan::{Capacity, Op, Snapshot};
use weir_world::peer::Exchange;

use super::stage::{CAPACITY, Stage, V4, V6, backend, key, set};

/// Opens the tables in another size, as an agent does when it starts.
fn reopen(stage: &mut Stage, wanted: impl Into<Sizes>) -> Result<()> {
    stage.object = Object::open(&stage.layout, wanted)?;
    stage.kernel = Kernel::open(&stage.layout)?;
    stage.counters = Counters::open(&stage.layout)?;
    assert!(!stage.layout.resize_dir().exists(), "something is left");
    Ok(())
}

/// Fills the tables with something of everything, at their beginnings and ends.
fn fill(stage: &mut Stage) -> Result<()> {
    stage.serve((V4, 80).into(), 1)?;
    let mut ops = Vec::new();
    for port in 1000..1200 {
        let key = key((V6, port).into());
        ops.push(set(
            key,
            ServiceEntry::new(&key, 2, 1, 1, Verdict::NoEndpoints),
        ));
    }
    for backend_id in 0..300 {
        let key = MemberKey {
            list: 4,
            backend_id,
        };
        ops.push(Op::SetMember { key });
    }
    for last in 0..50 {
        let addr = IpAddr::from([192, 0, 2, last]).into();
        let key = SourceRangeKey { id: 1, addr };
        ops.push(Op::SetSourceRange {
            key,
            prefix_len: 160,
        });
    }
    // A free id that flows may remember.
    let mut retired = backend((V4, 8080).into());
    (retired.state, retired.generation) = (backend_state::FREE, 7);
    ops.push(Op::WriteBackend {
        id: 99,
        backend: retired,
    });
    stage.apply(&ops)
}

fn sorted(mut snapshot: Snapshot, backends: usize) -> Snapshot {
    snapshot.services.sort_unstable_by_key(|(key, _)| *key);
    snapshot
        .members
        .sort_unstable_by_key(|key| (key.list, key.backend_id));
    snapshot
        .source_ranges
        .sort_unstable_by_key(|(key, _)| key.addr.0);
    snapshot.backends.truncate(backends);
    snapshot
}

#[test]
fn tables_grow_and_shrink_under_running_programs() -> Result<()> {
    let mut stage = Stage::open()?;
    fill(&mut stage)?;
    let before = sorted(stage.kernel.snapshot()?, 100);
    let small = Capacity {
        services: 201,
        slots: 2,
        backends: 100,
        ids: 3,
        members: 300,
        source_ranges: 50,
    };
    let large = Capacity {
        services: 4000,
        slots: 20_000,
        backends: 3000,
        ids: 1000,
        members: 9000,
        source_ranges: 900,
    };
    let mut translated = 0;
    for wanted in [large, small, large, CAPACITY] {
        let flows = wanted.services;
        reopen(
            &mut stage,
            Sizes {
                tables: wanted,
                flows,
            },
        )?;
        assert_eq!(stage.kernel.capacity(), wanted);
        let pinned = Object::pinned_map(&stage.layout, table::FLOWS)?.info()?;
        assert_eq!(pinned.max_entries(), flows);
        assert_eq!(sorted(stage.kernel.snapshot()?, 100), before);
        // Nobody attached anything since: the links' programs were replaced.
        assert!(stage.client.connect((V4, 80))?.ok());
        translated += 1;
        assert_eq!(stage.counters.service(1).translated, translated);
    }
    // What is written now is what the programs go by.
    stage.apply(&[Op::RemoveService {
        key: key((V4, 80).into()),
    }])?;
    let exchange = Exchange::tcp((V4, 80)).timeout(Duration::from_millis(200));
    assert!(!stage.client.exchange(exchange)?.ok());
    Ok(())
}

#[test]
fn a_table_does_not_shrink_below_what_is_in_use() -> Result<()> {
    let mut stage = Stage::open()?;
    fill(&mut stage)?;
    let before = sorted(stage.kernel.snapshot()?, 100);
    let tight = Capacity {
        services: 201,
        slots: 2,
        backends: 2,
        ids: 3,
        members: 300,
        source_ranges: 50,
    };
    let one_less = Capacity {
        services: tight.services - 1,
        slots: tight.slots - 1,
        backends: tight.backends - 1,
        ids: tight.ids - 1,
        members: tight.members - 1,
        source_ranges: tight.source_ranges - 1,
    };
    reopen(&mut stage, &one_less)?;
    assert_eq!(stage.kernel.capacity(), CAPACITY, "all keep their sizes");
    // Those that can, do.
    let mixed = Capacity {
        slots: tight.slots,
        members: 2 * CAPACITY.members,
        ..one_less
    };
    reopen(&mut stage, &mixed)?;
    let expected = Capacity {
        slots: tight.slots,
        members: 2 * CAPACITY.members,
        ..CAPACITY
    };
    assert_eq!(stage.kernel.capacity(), expected);
    assert_eq!(sorted(stage.kernel.snapshot()?, 100), before);
    reopen(&mut stage, &tight)?;
    assert_eq!(stage.kernel.capacity(), tight);
    assert!(stage.client.connect((V4, 80))?.ok());
    Ok(())
}

#[test]
fn flows_come_along() -> Result<()> {
    let mut stage = Stage::detached()?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
    let flow = |number: u32, last_seen: u64| {
        let key = FlowKey {
            src: IpAddr::from([10, 244, (number >> 8) as u8, number as u8]).into(),
            dst: IpAddr::V4(V4).into(),
            sport_be: 1000,
            dport_be: 53,
            proto: proto::UDP,
            reserved: [0; 3],
        };
        let flow = Flow {
            to: key.reversed(),
            last_seen,
            packets: number.into(),
            bytes: 1,
            backend_id: number,
            generation: 1,
            epoch: 1,
            ifindex: 0,
            service_id: 1,
            kind: kind::FORWARD,
            flags: 0,
            reserved: [0; 2],
        };
        (key, flow)
    };
    let open = |stage: &Stage| -> Result<HashMap<MapData, FlowKey, Flow>> {
        let map = Map::LruHashMap(Object::pinned_map(&stage.layout, table::FLOWS)?);
        Ok(HashMap::try_from(map)?)
    };
    let sizes = |flows| Sizes {
        tables: CAPACITY,
        flows,
    };
    let mut flows = open(&stage)?;
    // In use, and long ago.
    for number in 0..20_000 {
        let (key, flow) = flow(number, now);
        flows.insert(key, flow, 0)?;
    }
    for number in 20_000..30_000 {
        let (key, flow) = flow(number, now - 500_000_000_000);
        flows.insert(key, flow, 0)?;
    }
    let has = |flows: &HashMap<MapData, FlowKey, Flow>, numbers: Range<u32>| -> Result<()> {
        for number in numbers {
            let (key, expected) = flow(number, now);
            let found = flows.get(&key, 0)?;
            assert_eq!(
                (found.packets, found.backend_id),
                (expected.packets, number)
            );
        }
        Ok(())
    };
    reopen(&mut stage, sizes(100_000))?;
    has(&open(&stage)?, 0..30_000)?;
    // Those in use, with some to spare as the kernel hands out places by the hundred.
    reopen(&mut stage, sizes(25_000))?;
    let flows = open(&stage)?;
    has(&flows, 0..20_000)?;
    let (old, _) = flow(25_000, now);
    assert!(flows.get(&old, 0).is_err(), "what is not in use gave way");
    for size in [20_000, 19_999, 1] {
        reopen(&mut stage, sizes(size))?;
        let pinned = Object::pinned_map(&stage.layout, table::FLOWS)?;
        assert_eq!(pinned.info()?.max_entries(), 25_000, "it is kept");
        has(&open(&stage)?, 0..20_000)?;
    }
    Ok(())
}

#[test]
fn an_interrupted_resize_is_finished() -> Result<()> {
    let mut stage = Stage::open()?;
    fill(&mut stage)?;
    let before = sorted(stage.kernel.snapshot()?, 100);
    // As if the agent had been killed when it had made one table, or when one had changed places with its old one.
    let large = Capacity {
        services: 2000,
        ..CAPACITY
    };
    for exchanged in [false, true] {
        let layout = stage.layout.clone();
        fs::create_dir(layout.resize_dir())?;
        let services = MapData::from_pin(layout.map(table::SERVICES))?;
        services.pin(layout.resized(table::SERVICES))?;
        if exchanged {
            let flows = MapData::from_pin(layout.map(table::FLOWS))?;
            flows.pin(layout.resized(table::FLOWS))?;
        }
        reopen(&mut stage, if exchanged { &CAPACITY } else { &large })?;
        assert_eq!(sorted(stage.kernel.snapshot()?, 100), before);
        assert!(stage.client.connect((V4, 80))?.ok());
    }
    Ok(())
}

#[test]
fn nonsense_where_tables_should_be_is_replaced() -> Result<()> {
    let mut stage = Stage::open()?;
    stage.serve((V4, 80).into(), 1)?;
    let layout = stage.layout.clone();
    let maps = |name| layout.map(name);
    // A table under another one's name, a directory, a link, and a symbolic link to nowhere.
    fs::remove_file(maps(table::SERVICES))?;
    Object::pinned_map(&layout, table::SLOTS)?.pin(maps(table::SERVICES))?;
    fs::remove_file(maps(table::FLOWS))?;
    fs::create_dir_all(maps(table::FLOWS).join("deep"))?;
    fs::remove_file(maps(table::MEMBERS))?;
    fs::rename(layout.link("connect6"), maps(table::MEMBERS))?;
    fs::remove_file(maps(table::CONFIG))?;
    std::os::unix::fs::symlink("/nowhere", maps(table::CONFIG))?;
    // The same among the links.
    Object::pinned_map(&layout, table::SLOTS)?.pin(layout.link("connect6"))?;
    fs::remove_file(layout.link("getpeername4"))?;
    fs::create_dir(layout.link("getpeername4"))?;
    Object::pinned_map(&layout, table::SLOTS)?.pin(layout.link("from_pod-1"))?;
    reopen(&mut stage, &CAPACITY)?;
    assert!(stage.kernel.snapshot()?.services.is_empty());
    stage.serve((V4, 80).into(), 1)?;
    stage.serve((V6, 80).into(), 2)?;
    let root = stage.node().cgroup_root().to_path_buf();
    stage.attach(&root)?;
    assert!(stage.client.connect((V4, 80))?.ok());
    assert!(stage.client.connect((V6, 80))?.ok());
    Ok(())
}
