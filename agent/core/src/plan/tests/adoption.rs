//! Taking over tables: of an agent that stopped anywhere, and of nobody who knew what he did.

use proptest::prelude::*;
use weir_abi::service::backend_state;
use weir_abi::{Backend, MemberKey, ServiceEntry, SourceRangeKey};

use super::*;
use crate::compile::SourceRange;

#[test]
fn a_restart_changes_nothing_and_keeps_the_ids() {
    let mut world = World::new(ROOMY);
    let wishes = || {
        [
            simple("b", key(2, 80), &[2, 3]),
            simple("a", key(1, 80), &[1]),
            desired(
                "c",
                vec![
                    port("x", &[(key(3, 80), &[])]),
                    port("y", &[(key(3, 81), &[1])]),
                ],
            ),
        ]
    };
    world.plan(wishes());
    world.plan([gone("a")]);
    world.plan(wishes());
    let (ids, counts) = (world.ids(), world.programmed.counts());
    world.restart();
    let (ops, errors) = world.plan(wishes());
    assert!(ops.is_empty() && errors.is_empty(), "{ops:?}");
    world.plan_leftovers();
    assert_eq!(world.ids(), ids);
    assert_eq!(world.programmed.counts(), counts);
    world.plan(["a", "b", "c"].map(gone));
    world.assert_empty();
}

#[test]
fn leftovers_go_only_when_asked() {
    let mut world = World::new(ROOMY);
    world.plan([
        simple("stays", key(1, 80), &[1]),
        simple("goes", key(2, 80), &[2]),
    ]);
    world.restart();
    world.plan([simple("stays", key(1, 80), &[1])]);
    assert_eq!(leads_to(&world.kernel, key(2, 80)), Some(backends(&[2])));
    world.plan_leftovers();
    assert_eq!(leads_to(&world.kernel, key(2, 80)), None);
    assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(backends(&[1])));
    world.plan([gone("stays")]);
    world.assert_empty();
}

#[test]
fn a_service_that_does_not_fit_after_a_restart_keeps_what_it_had() {
    let capacity = Capacity { slots: 3, ..ROOMY };
    let mut world = World::new(capacity);
    world.plan([
        simple("cart", key(1, 80), &[1, 2]),
        simple("gone", key(2, 80), &[3]),
    ]);
    world.restart();
    let grown = || simple("cart", key(1, 80), &[1, 2, 3]);
    let (_, errors) = world.plan([grown()]);
    assert_eq!(errors.len(), 1);
    world.plan_leftovers();
    assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(backends(&[1, 2])));
    assert_eq!(leads_to(&world.kernel, key(2, 80)), None);
    // One that fits takes over from there.
    world.plan([simple("cart", key(1, 80), &[2])]);
    assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(backends(&[2])));

    world.plan([simple("cart", key(1, 80), &[1, 2])]);
    world.restart();
    world.plan([grown()]);
    world.plan_leftovers();
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn capacity_that_shrank_is_no_reason_to_fall() {
    let mut world = World::new(ROOMY);
    world.plan([
        simple("cart", key(1, 80), &[1, 2, 3, 4, 5]),
        simple("till", key(2, 80), &[6]),
    ]);
    let small = Capacity {
        services: 2,
        slots: 3,
        backends: 3,
        ids: 2,
        ..ROOMY
    };
    let mut programmed = Programmed::adopt(small, world.kernel.snapshot());
    let plan = programmed.plan([simple("till", key(2, 80), &[6])].into_iter());
    assert_eq!(plan.errors.len(), 1);
    let plan = programmed.plan([gone("till")].into_iter());
    programmed.release(plan.retired);
    let plan = programmed.plan_leftovers();
    programmed.release(plan.retired);
    assert_eq!(programmed.counts(), TableCounts::default());
}

const SMALL: Capacity = Capacity {
    services: 64,
    slots: 48,
    backends: 16,
    ids: 16,
    members: 64,
    source_ranges: 64,
};

fn any_key() -> impl Strategy<Value = ServiceKey> {
    (0_u8..4, 0_u16..3, 0_u8..2, 0_u8..2).prop_map(|(last, port, proto, scope)| ServiceKey {
        addr: IpAddr::from([10, 96, 0, last]).into(),
        port_be: port.to_be(),
        proto: proto * proto::TCP,
        scope,
    })
}

fn any_entry() -> impl Strategy<Value = (ServiceKey, ServiceEntry)> {
    let offset = prop_oneof![0_u32..60, Just(u32::MAX), any::<u32>()];
    let count = prop_oneof![0_u32..12, Just(u32::MAX)];
    let id = prop_oneof![0_u32..18, any::<u32>()];
    let verdict = prop_oneof![6 => Just(1_u8), 1 => 0_u8..14, 1 => any::<u8>()];
    (
        any_key(),
        offset,
        count,
        id,
        (verdict, 0_u8..10, 0_u32..20),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(key, slots_offset, slots_count, id, (verdict, flags, list), sealed)| {
                let mut entry = ServiceEntry {
                    seal: 42,
                    id,
                    slots_offset,
                    slots_count,
                    list,
                    affinity_timeout: list,
                    verdict,
                    flags,
                    reserved: [0; 2],
                };
                if sealed {
                    entry.seal = entry.seal_for(&key);
                }
                (key, entry)
            },
        )
}

fn any_backend() -> impl Strategy<Value = Backend> {
    let state = prop_oneof![
        4 => Just(backend_state::ACTIVE),
        2 => Just(backend_state::FREE),
        1 => any::<u8>(),
    ];
    (0_u16..8, state, prop_oneof![0_u32..3, Just(u32::MAX)]).prop_map(
        |(number, state, generation)| Backend {
            addr: backend(number).addr,
            port_be: backend(number).port_be,
            proto: proto::TCP,
            state,
            generation,
        },
    )
}

fn any_source_range() -> impl Strategy<Value = (SourceRangeKey, u32)> {
    let addr = prop_oneof![Just([0; 16]), Just(backend(1).addr.0), any::<[u8; 16]>()];
    let prefix_len = prop_oneof![0_u32..=160, Just(32 + 96 + 8)];
    (0_u32..8, addr, prefix_len).prop_map(|(id, addr, prefix_len)| {
        // As the kernel's trie has it: one key for each prefix.
        let key = SourceRangeKey {
            id,
            addr: Address(addr),
        };
        match SourceRange::of_key(&key, prefix_len) {
            Some((id, range)) => range.key(id),
            None => (key, prefix_len),
        }
    })
}

fn garbage() -> impl Strategy<Value = Snapshot> {
    (
        prop::collection::btree_map(any_key(), any_entry(), 0..24),
        prop::collection::vec(prop_oneof![0_u32..20, Just(u32::MAX)], 0..48),
        prop::collection::vec(any_backend(), 0..16),
        prop::collection::btree_set((0_u32..32, 0_u32..18), 0..16),
        prop::collection::vec(any_source_range(), 0..12),
    )
        .prop_map(
            |(entries, slots, backends, members, source_ranges)| Snapshot {
                services: entries
                    .into_values()
                    .collect::<BTreeMap<_, _>>()
                    .into_iter()
                    .collect(),
                slots,
                backends,
                members: (members.into_iter())
                    .map(|(list, backend_id)| MemberKey { list, backend_id })
                    .collect(),
                source_ranges: (source_ranges.iter())
                    .map(|(key, len)| ((key.id, key.addr, *len), (*key, *len)))
                    .collect::<BTreeMap<_, _>>()
                    .into_values()
                    .collect(),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The kernel checks that programs which follow garbage see the same garbage until it is replaced, and never
    /// somebody else's backends.
    #[test]
    fn garbage_is_replaced_or_removed_and_harms_nobody(
        snapshot in garbage(),
        lists in prop::collection::vec(prop::collection::btree_set(0_u16..8, 0..4), 6),
    ) {
        let kernel = Kernel::with(SMALL, snapshot);
        let programmed = Programmed::adopt(SMALL, kernel.snapshot());
        let mut world = World { kernel, programmed };
        let wishes = || {
            lists.iter().zip(0_u8..).map(|(list, i)| {
                let numbers: Vec<u16> = list.iter().copied().collect();
                let mut wish = simple(&format!("s{i}"), key(i % 3, 1 + u16::from(i / 3)), &numbers);
                wish.ports[0].affinity_timeout = u32::from(i % 2);
                wish.ports[0].source_ranges = admission::ranges(i % 3);
                wish.ports[0].frontends[0].guarded = i % 3 != 0;
                wish
            })
        };
        world.plan(wishes());
        world.plan_leftovers();
        // What did not fit beside the garbage fits now.
        world.plan([]);
        // Ranges that an entry of an earlier agent asked about.
        world.plan([]);
        world.kernel.leftovers = false;
        world.kernel.assert_sane();
        let ranges: usize = wishes().map(|wish| wish.ports[0].source_ranges.len()).sum();
        prop_assert_eq!(world.kernel.source_ranges.len(), ranges);
        world.kernel.assert_agrees(&world.programmed);
        prop_assert_eq!(world.programmed.errors().count(), 0);
        for wish in wishes() {
            let frontend = wish.ports[0].frontends[0];
            let expected = frontend.list.map_or(Vec::new(), |list| wish.ports[0].lists[list].clone());
            prop_assert_eq!(leads_to(&world.kernel, frontend.key), Some(expected));
        }
        let addresses = wishes().map(|wish| wish.ports[0].frontends[0].key.addr);
        let addresses: std::collections::BTreeSet<Address> = addresses.collect();
        prop_assert_eq!(world.kernel.services.len(), 6 + addresses.len());
        world.plan((0..6).map(|i| gone(&format!("s{i}"))));
        world.assert_empty();
        let used = world.kernel.backends.iter().skip(1);
        prop_assert!(used.clone().all(|backend| backend.state != backend_state::ACTIVE));
    }
}
