//! The maps as user space sees them.

use std::net::IpAddr;

use anyhow::Result;
use weir::dataplane::{Dataplane, Error, Kernel};
use weir_abi::{Backend, ServiceEntry, ServiceKey, Verdict, service::backend_state};
use weir_core::plan::Op;

use super::stage::{CAPACITY, Stage, V4, V6, backend, key, set};

#[test]
fn what_was_written_is_read_back() -> Result<()> {
    let mut stage = Stage::detached()?;
    let empty = stage.kernel.snapshot()?;
    assert!(empty.services.is_empty() && empty.slots.is_empty());
    assert!(
        empty
            .backends
            .iter()
            .all(|backend| backend.state == backend_state::FREE)
    );
    assert_eq!(empty.backends.len(), CAPACITY.backends as usize);

    let backends: Vec<(u32, Backend)> = [1, 2, 3, CAPACITY.backends - 1]
        .into_iter()
        .map(|id| {
            let mut backend = backend(([10, 244, 0, id as u8], 8080).into());
            backend.generation = id * 7;
            (id, backend)
        })
        .collect();
    let mut entries: Vec<(ServiceKey, ServiceEntry)> = Vec::new();
    for port in 1..=300 {
        for address in [IpAddr::from(V4), V6.into()] {
            let key = key((address, port).into());
            entries.push((
                key,
                ServiceEntry::new(&key, port.into(), 5, 4, Verdict::Translate),
            ));
        }
    }
    let mut ops: Vec<Op> = backends
        .iter()
        .map(|&(id, backend)| Op::WriteBackend { id, backend })
        .collect();
    ops.push(Op::WriteSlots {
        offset: 5,
        ids: vec![3, 1, 2, CAPACITY.backends - 1],
    });
    ops.extend(entries.iter().map(|&(key, entry)| set(key, entry)));
    stage.apply(&ops)?;
    // Another handle on the same pinned maps sees the same.
    for kernel in [&mut stage.kernel, &mut Kernel::open(&stage.layout)?] {
        let mut snapshot = kernel.snapshot()?;
        snapshot.services.sort_unstable_by_key(|(key, _)| *key);
        entries.sort_unstable_by_key(|(key, _)| *key);
        assert_eq!(snapshot.services, entries);
        assert_eq!(
            snapshot.slots,
            [0, 0, 0, 0, 0, 3, 1, 2, CAPACITY.backends - 1]
        );
        for &(id, backend) in &backends {
            assert_eq!(snapshot.backends[id as usize], backend, "id {id}");
        }
        let active = snapshot
            .backends
            .iter()
            .filter(|backend| backend.state != 0);
        assert_eq!(active.count(), backends.len());
    }

    for (key, _) in &entries {
        stage.kernel.apply(&Op::RemoveService { key: *key })?;
        // Gone already is as good.
        stage.kernel.apply(&Op::RemoveService { key: *key })?;
    }
    assert!(stage.kernel.snapshot()?.services.is_empty());
    Ok(())
}

#[test]
fn what_is_out_of_range_is_an_error_and_writes_nothing() -> Result<()> {
    let mut stage = Stage::detached()?;
    let kernel = &mut stage.kernel;
    let some = backend((V4, 8080).into());
    for id in [CAPACITY.backends, u32::MAX] {
        let result = kernel.apply(&Op::WriteBackend { id, backend: some });
        assert!(
            matches!(
                result,
                Err(Error::OutOfRange {
                    map: "BACKENDS",
                    ..
                })
            ),
            "{result:?}"
        );
    }
    let last = CAPACITY.slots - 1;
    for (offset, ids) in [
        (last, vec![1, 2]),
        (CAPACITY.slots, vec![1]),
        (u32::MAX, vec![1, 2]),
    ] {
        let result = kernel.apply(&Op::WriteSlots { offset, ids });
        assert!(
            matches!(result, Err(Error::OutOfRange { map: "SLOTS", .. })),
            "{result:?}"
        );
    }
    let result = kernel.apply(&Op::ResetCounters { id: CAPACITY.ids });
    assert!(matches!(result, Err(Error::Map { .. })), "{result:?}");

    // An entry over all slots makes the snapshot hold them all.
    let key = key((V4, 80).into());
    let all = ServiceEntry::new(&key, 1, 0, CAPACITY.slots, Verdict::Translate);
    kernel.apply(&set(key, all))?;
    let snapshot = kernel.snapshot()?;
    assert_eq!(snapshot.slots.len(), CAPACITY.slots as usize);
    assert!(
        snapshot.slots.iter().all(|id| *id == 0),
        "a write was not whole"
    );
    assert!(snapshot.backends.iter().all(|backend| backend.state == 0));
    // One that claims more than there is does not make it read more.
    let key = super::stage::key((V4, 81).into());
    let beyond = ServiceEntry::new(&key, 1, u32::MAX, u32::MAX, Verdict::Translate);
    kernel.apply(&set(key, beyond))?;
    assert_eq!(kernel.snapshot()?.slots.len(), CAPACITY.slots as usize);
    // The last of each can be written.
    kernel.apply(&Op::WriteSlots {
        offset: last,
        ids: vec![9],
    })?;
    kernel.apply(&Op::WriteBackend {
        id: CAPACITY.backends - 1,
        backend: some,
    })?;
    let snapshot = kernel.snapshot()?;
    assert_eq!(snapshot.slots.last(), Some(&9));
    assert_eq!(snapshot.backends.last(), Some(&some));
    Ok(())
}

#[test]
fn a_full_table_is_an_error_and_keeps_what_it_has() -> Result<()> {
    let mut stage = Stage::detached()?;
    let entry = |port: u16| {
        let key = key((V4, port).into());
        set(key, ServiceEntry::new(&key, 1, 0, 1, Verdict::NoEndpoints))
    };
    for port in 1..=CAPACITY.services as u16 {
        stage.kernel.apply(&entry(port))?;
    }
    let result = stage.kernel.apply(&entry(60_000));
    assert!(
        matches!(
            result,
            Err(Error::Map {
                map: "SERVICES",
                ..
            })
        ),
        "{result:?}"
    );
    assert_eq!(
        stage.kernel.snapshot()?.services.len(),
        CAPACITY.services as usize
    );
    stage.kernel.apply(&entry(1))?;
    Ok(())
}

#[test]
fn a_grace_period_ends() -> Result<()> {
    let mut stage = Stage::open()?;
    stage.serve((V4, 80).into(), 1)?;
    for _ in 0..3 {
        stage.kernel.grace_period();
    }
    assert!(stage.client.connect((V4, 80))?.ok());
    Ok(())
}
