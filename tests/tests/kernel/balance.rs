//! What is translated, what applications see of it, and that it is counted.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use weir_abi::{ServiceCounters, ServiceEntry, Verdict};
use weir_core::plan::Op;
use weir_world::peer::{Exchange, LoadSpec};

use super::stage::{Stage, V4, V6, backend, key, set};

#[test]
fn connections_of_every_family_are_translated_and_keep_the_name_they_asked_for() -> Result<()> {
    let mut stage = Stage::open()?;
    stage.serve((V4, 80).into(), 1)?;
    stage.serve((V6, 80).into(), 2)?;
    let host = stage.node().peer()?;
    let mapped: SocketAddr = (V4.to_ipv6_mapped(), 80).into();
    for client in [&stage.client, &host] {
        for to in [(V4, 80).into(), (V6, 80).into(), mapped] {
            let outcome = client.connect(to)?;
            assert_eq!(
                outcome.answered_by.as_deref(),
                Some("server"),
                "{to}: {outcome:?}"
            );
            assert_eq!(outcome.peer, Some(to), "{outcome:?}");
        }
    }
    let counted = |translated| ServiceCounters {
        translated,
        refused: 0,
    };
    assert_eq!(
        stage.counters.service(1),
        counted(4),
        "IPv4, plain and mapped"
    );
    assert_eq!(stage.counters.service(2), counted(2));
    assert_eq!(stage.given(), [(Verdict::Translate, 6)]);

    // What is no service is not touched and not counted.
    let direct = stage.target(V4.into());
    let outcome = stage.client.connect(direct)?;
    assert_eq!(
        (outcome.ok(), outcome.peer),
        (true, Some(direct)),
        "{outcome:?}"
    );
    assert_eq!(stage.given(), [(Verdict::Translate, 6)]);
    Ok(())
}

#[test]
fn all_slots_are_used_and_none_beside_them() -> Result<()> {
    let mut stage = Stage::open()?;
    let serving = stage.server.peer()?;
    let mut ops = Vec::new();
    // Five servers in one pod. The slots on either side of the range name the first and the last of them.
    for id in 1..=5_u16 {
        serving.echo_as(&format!("s{id}"), 9000 + id)?;
        let at = (stage.server.addresses().v4, 9000 + id).into();
        let backend = backend(at);
        ops.push(Op::WriteBackend {
            id: id.into(),
            backend,
        });
    }
    ops.push(Op::WriteSlots {
        offset: 10,
        ids: vec![1, 2, 3, 4, 5],
    });
    let web = key((V4, 80).into());
    ops.push(set(
        web,
        ServiceEntry::new(&web, 1, 11, 3, Verdict::Translate),
    ));
    stage.apply(&ops)?;
    let load = LoadSpec::new(Exchange::tcp((V4, 80)), Duration::from_secs(60)).count(300);
    let report = stage.client.load(load)?.wait()?;
    let names: Vec<&str> = report.answered_by.keys().map(String::as_str).collect();
    assert_eq!(names, ["s2", "s3", "s4"], "{report:?}");
    assert_eq!(report.ok, 300);
    Ok(())
}

#[test]
fn counters_are_exact_under_parallel_load() -> Result<()> {
    const EACH: u64 = 400;
    let mut stage = Stage::open()?;
    stage.serve((V4, 80).into(), 1)?;
    stage.serve((V6, 80).into(), 2)?;
    let lonely: SocketAddr = (V4, 81).into();
    let lonely_key = key(lonely);
    let refused = ServiceEntry::new(&lonely_key, 3, 0, 0, Verdict::NoEndpoints);
    stage.apply(&[set(lonely_key, refused)])?;

    let host = stage.node().peer()?;
    let mut jobs = Vec::new();
    for client in [&stage.client, &host] {
        for to in [(V4, 80).into(), (V6, 80).into(), lonely] {
            let load = LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60));
            jobs.push((to, client.load(load.workers(3).count(EACH))?));
        }
    }
    for (to, job) in jobs {
        let report = job.wait()?;
        if to == lonely {
            assert_eq!(report.failed.get("ECONNREFUSED"), Some(&EACH), "{report:?}");
        } else {
            assert_eq!(report.ok, EACH, "{to}: {report:?}");
        }
    }
    assert_eq!(
        stage.given(),
        [
            (Verdict::Translate, 4 * EACH),
            (Verdict::NoEndpoints, 2 * EACH)
        ]
    );
    for id in [1, 2] {
        let counted = stage.counters.service(id);
        assert_eq!(
            (counted.translated, counted.refused),
            (2 * EACH, 0),
            "id {id}"
        );
    }
    let counted = stage.counters.service(3);
    assert_eq!((counted.translated, counted.refused), (0, 2 * EACH));

    stage.apply(&[Op::ResetCounters { id: 1 }])?;
    assert_eq!(stage.counters.service(1), ServiceCounters::default());
    assert_eq!(stage.counters.service(2).translated, 2 * EACH);
    Ok(())
}

#[test]
fn a_socket_that_connects_again_elsewhere_has_the_name_of_its_true_peer() -> Result<()> {
    let mut stage = Stage::open()?;
    for (number, address) in [(1, V4.into()), (2, V6.into())] {
        let service = SocketAddr::new(address, 80);
        stage.serve(service, number)?;
        // The very backend that the service has led to, and a port of another service.
        let direct = stage.target(address);
        let seen = stage.sockets(&["reconnect", &service.to_string(), &direct.to_string()])?;
        let expected = [service.to_string(), direct.to_string()];
        assert_eq!(seen["peers"], serde_json::json!(expected));
    }
    Ok(())
}

#[test]
fn multipath_tcp_is_translated_where_the_kernel_has_it() -> Result<()> {
    let mut stage = Stage::open()?;
    stage.serve((V4, 80).into(), 1)?;
    stage.serve((V6, 80).into(), 2)?;
    for (id, to) in [(1, SocketAddr::from((V4, 80))), (2, (V6, 80).into())] {
        let seen = stage.sockets(&["mptcp", &to.to_string()])?;
        if seen["supported"] == false {
            println!("this kernel has no Multipath TCP: nothing to translate");
            assert_eq!(stage.counters.service(id).translated, 0);
            continue;
        }
        let greeting = seen["greeting"].as_str().context("no greeting")?;
        assert!(greeting.starts_with("server "), "{seen}");
        assert_eq!(stage.counters.service(id).translated, 1);
    }
    Ok(())
}
