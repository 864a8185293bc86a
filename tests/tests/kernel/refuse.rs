//! What is refused, and under which name it is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use weir::{
    bpffs::Layout,
    dataplane::{Dataplane, Kernel},
};
use weir_abi::{
    Backend, ServiceEntry, ServiceKey, Verdict, service::backend_state, service::scope,
};
use weir_core::plan::Op;
use weir_tests::{agent::Agent, manifests::Manifests};

use super::stage::{CAPACITY, Stage, V4, V6, backend, key, set};

/// Connects, is refused, and is counted once: for the node as `verdict`, for the service port `id` as refused.
fn assert_refused(stage: &Stage, to: SocketAddr, verdict: Verdict, id: u32) -> Result<()> {
    let (verdicts, service) = (stage.verdicts(), stage.counters.service(id));
    let outcome = stage.client.connect(to)?;
    assert_eq!(
        outcome.errno(),
        Some("ECONNREFUSED"),
        "{verdict:?} at {to}: {outcome:?}"
    );
    let mut expected = verdicts;
    expected[verdict as usize] += 1;
    assert_eq!(stage.verdicts(), expected, "{verdict:?} at {to}");
    let counted = stage.counters.service(id);
    assert_eq!(counted.refused, service.refused + 1, "{verdict:?} at {to}");
    assert_eq!(counted.translated, service.translated);
    Ok(())
}

#[test]
fn each_reason_refuses_at_once_and_is_counted() -> Result<()> {
    let mut stage = Stage::open()?;
    for (number, address) in [(1, IpAddr::from(V4)), (2, V6.into())] {
        stage.serve(SocketAddr::new(address, 80), number)?;
        for (port, verdict) in [(81, Verdict::NoEndpoints), (82, Verdict::NoLocalEndpoints)] {
            let to = SocketAddr::new(address, port);
            let (key, id) = (key(to), u32::from(port) + number);
            stage.apply(&[set(key, ServiceEntry::new(&key, id, 0, 0, verdict))])?;
            assert_refused(&stage, to, verdict, id)?;
        }
        // An address's own entry is for all the ports that have none.
        let unknown = SocketAddr::new(address, 83);
        let any_port = ServiceKey::address_only(address.into(), scope::INTERNAL);
        let entry = ServiceEntry::new(&any_port, 0, 0, 0, Verdict::UnknownPort);
        stage.apply(&[set(any_port, entry)])?;
        assert_refused(&stage, unknown, Verdict::UnknownPort, 0)?;
        assert!(stage.client.connect((address, 80))?.ok());
        stage.apply(&[Op::RemoveService { key: any_port }])?;
        let before = stage.verdicts();
        assert_ne!(
            stage.client.exchange(short(unknown))?.errno(),
            Some("ECONNREFUSED"),
            "nothing of ours any more"
        );
        assert_eq!(stage.verdicts(), before);
    }
    let mapped: SocketAddr = (V4.to_ipv6_mapped(), 81).into();
    assert_refused(&stage, mapped, Verdict::NoEndpoints, 82)?;
    Ok(())
}

#[test]
fn what_is_no_services_on_an_address_with_services_is_left_alone() -> Result<()> {
    let mut stage = Stage::open()?;
    let own = stage.target(stage.server.addresses().v4.into());
    // As a node port makes it of a node's address: other ports are its own.
    let any_port = ServiceKey::address_only(own.ip().into(), scope::INTERNAL);
    let entry = ServiceEntry::new(&any_port, 0, 0, 0, Verdict::Pass);
    stage.apply(&[set(any_port, entry)])?;
    let before = stage.verdicts();
    assert_eq!(
        stage.client.connect(own)?.answered_by.as_deref(),
        Some("server")
    );
    assert_eq!(stage.verdicts(), before);
    Ok(())
}

fn short(to: SocketAddr) -> weir_world::peer::Exchange {
    weir_world::peer::Exchange::tcp(to).timeout(std::time::Duration::from_millis(200))
}

/// An entry with any verdict, and a good seal.
fn sealed(key: &ServiceKey, id: u32, verdict: u8, offset: u32, count: u32) -> ServiceEntry {
    let mut entry = ServiceEntry::new(key, id, offset, count, Verdict::Translate);
    entry.verdict = verdict;
    entry.seal = entry.seal_for(key);
    entry
}

#[test]
fn tables_that_do_not_fit_together_are_refused_as_such() -> Result<()> {
    const FREE: u32 = 900;
    const EMPTY: u32 = 901;
    const TRANSLATE: u8 = Verdict::Translate as u8;
    let mut stage = Stage::open()?;
    let target = stage.target(V4.into());
    let free = Backend {
        state: backend_state::FREE,
        ..backend(target)
    };
    stage.apply(&[
        Op::WriteBackend {
            id: 50,
            backend: backend(target),
        },
        Op::WriteBackend {
            id: FREE,
            backend: free,
        },
        Op::WriteSlots {
            offset: 50,
            ids: vec![50, FREE, EMPTY, CAPACITY.backends, u32::MAX],
        },
    ])?;
    let to = |n: u8| SocketAddr::from((Ipv4Addr::new(10, 96, 1, n), 80));
    let good = key(to(1));
    stage.apply(&[set(good, sealed(&good, 50, TRANSLATE, 50, 1))])?;
    assert!(
        stage.client.connect(to(1))?.ok(),
        "the rest of this test changes one thing at a time"
    );

    let wrong = [
        ("an unknown verdict", 77, 50, 1),
        ("no slots", TRANSLATE, 50, 0),
        ("a slot out of range", TRANSLATE, CAPACITY.slots, 1),
        ("a slot far out of range", TRANSLATE, u32::MAX, 1),
        ("a free backend", TRANSLATE, 51, 1),
        ("a backend never written", TRANSLATE, 52, 1),
        ("a backend out of range", TRANSLATE, 53, 1),
        ("a backend far out of range", TRANSLATE, 54, 1),
    ];
    for (n, (what, verdict, offset, count)) in (2..).zip(wrong) {
        println!("{what}");
        let (key, id) = (key(to(n)), u32::from(n));
        stage.apply(&[set(key, sealed(&key, id, verdict, offset, count))])?;
        assert_refused(&stage, to(n), Verdict::InconsistentTables, id)?;
    }

    // Nothing of an entry is believed whose seal is not that of its key, its id included.
    let moved = key(to(100));
    let stolen = ServiceEntry::new(&good, 50, 50, 1, Verdict::Translate);
    stage.apply(&[set(moved, stolen)])?;
    assert_refused(&stage, to(100), Verdict::InconsistentTables, 0)?;
    let mut torn = ServiceEntry::new(&moved, 50, 50, 1, Verdict::Translate);
    torn.slots_offset = 51;
    stage.apply(&[set(moved, torn)])?;
    assert_refused(&stage, to(100), Verdict::InconsistentTables, 0)?;
    // An id without a counter is no reason to refuse.
    let uncounted = ServiceEntry::new(&moved, CAPACITY.ids, 50, 1, Verdict::Translate);
    stage.apply(&[set(moved, uncounted)])?;
    assert!(stage.client.connect(to(100))?.ok());
    Ok(())
}

#[test]
fn the_agent_logs_what_its_programs_say() -> Result<()> {
    let stage = Stage::detached()?;
    let node = stage.node().clone();
    let manifests = Manifests::new(node.run_directory())?;
    let to = SocketAddr::from((V4, 80));
    let key = key(to);
    let mut entry = ServiceEntry::new(&key, 7, 0, 1, Verdict::Translate);
    entry.seal ^= 1;

    // The programs of a successor write to a log of their own.
    for round in 1..=2 {
        let agent = Agent::start(&node, manifests.path())?;
        // It has given the tables its own sizes.
        let mut kernel = Kernel::open(&Layout::new(&node.bpffs()))?;
        kernel.apply(&set(key, entry))?;
        let outcome = stage.client.connect(to)?;
        assert_eq!(outcome.errno(), Some("ECONNREFUSED"), "{outcome:?}");
        let said = format!("process {})", stage.client.id());
        agent.wait_until("the log tells of it", |agent| {
            let log = agent.log();
            let records = log.lines().filter(|line| {
                line.contains("service tables are inconsistent") && line.contains(&said)
            });
            Ok(records.filter(|line| line.contains("ERROR")).count() == round)
        })?;
        let counted = agent.metric(r#"weir_verdicts_total{verdict="inconsistent_tables"}"#)?;
        assert_eq!(counted, round as f64);
        agent.kill();
    }
    Ok(())
}
