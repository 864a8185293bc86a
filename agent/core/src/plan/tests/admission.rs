//! Session affinity, source ranges, Maglev and what an address does with ports that nobody has.

use weir_abi::service::flags;
use weir_abi::table;

use super::cases::kinds;
use super::*;
use crate::compile::SourceRange;
use crate::maglev;
use crate::model::{BackendSelection, Cidr};

/// A few sets of source ranges, in order; the first is empty.
pub(super) fn ranges(set: u8) -> Vec<SourceRange> {
    let texts: &[(&str, u8)] = match set {
        0 => &[],
        1 => &[("192.0.2.0", 24)],
        2 => &[("192.0.2.0", 25), ("192.0.2.128", 25), ("2001:db8::", 32)],
        _ => &[("198.51.100.1", 32)],
    };
    let range = |(addr, prefix_len): &(&str, u8)| {
        SourceRange::from(Cidr {
            addr: addr.parse().expect("an address"),
            prefix_len: *prefix_len,
        })
    };
    let mut ranges: Vec<SourceRange> = texts.iter().map(range).collect();
    ranges.sort_unstable();
    ranges
}

fn with_affinity(mut wish: DesiredService, timeout: u32) -> DesiredService {
    wish.ports
        .iter_mut()
        .for_each(|port| port.affinity_timeout = timeout);
    wish
}

fn guarded(mut wish: DesiredService, set: u8) -> DesiredService {
    for port in &mut wish.ports {
        port.source_ranges = ranges(set);
        port.frontends.iter_mut().for_each(|f| f.guarded = set != 0);
    }
    wish
}

fn open(mut wish: DesiredService) -> DesiredService {
    let ports = wish.ports.iter_mut();
    ports
        .flat_map(|port| &mut port.frontends)
        .for_each(|f| f.open = true);
    wish
}

fn address_verdict(world: &World, key: ServiceKey) -> Option<u8> {
    let address = ServiceKey::address_only(key.addr, key.scope);
    world
        .kernel
        .services
        .get(&address)
        .map(|entry| entry.verdict)
}

#[test]
fn affinity_is_switched_on_followed_and_switched_off() {
    let mut world = World::new(ROOMY);
    let k = key(1, 80);
    let cart = |numbers: &[u16]| simple("cart", k, numbers);
    world.plan([cart(&[1, 2])]);
    let (ops, _) = world.plan([with_affinity(cart(&[1, 2]), 60)]);
    assert_eq!(kinds(&ops), ["member", "member", "set"]);
    let entry = world.kernel.services[&k];
    assert_eq!((entry.flags, entry.affinity_timeout), (flags::AFFINITY, 60));
    assert!(entry.is_sealed_for(&k));

    let (ops, _) = world.plan([with_affinity(cart(&[2, 3]), 60)]);
    assert_eq!(
        kinds(&ops),
        [
            "backend",
            "slots",
            "member",
            "set",
            "remove member",
            "backend",
            "free backend"
        ]
    );
    let (ops, _) = world.plan([with_affinity(cart(&[2, 3]), 61)]);
    assert_eq!(kinds(&ops), ["set"]);
    // Without endpoints there is nobody to stay with.
    let (ops, _) = world.plan([with_affinity(cart(&[]), 61)]);
    assert_eq!(kinds(&ops)[..3], ["set", "remove member", "remove member"]);
    assert_eq!(world.kernel.services[&k].flags, 0);

    world.plan([with_affinity(cart(&[2, 3]), 61)]);
    let (ops, _) = world.plan([cart(&[2, 3])]);
    assert_eq!(kinds(&ops), ["set", "remove member", "remove member"]);
    let entry = world.kernel.services[&k];
    assert_eq!((entry.flags, entry.affinity_timeout, entry.list), (0, 0, 0));
    world.plan([with_affinity(cart(&[2, 3]), 61)]);
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn lists_of_other_policies_and_families_have_members_of_their_own() {
    let mut world = World::new(ROOMY);
    let v6 = ServiceKey {
        addr: "fd00:96::1".parse::<IpAddr>().expect("an address").into(),
        ..key(1, 80)
    };
    let (within, outside) = (
        key(1, 80),
        ServiceKey {
            scope: scope::EXTERNAL,
            ..key(1, 80)
        },
    );
    let mut wish = desired(
        "cart",
        vec![port(
            "http",
            &[(within, &[1, 2]), (outside, &[1]), (v6, &[3])],
        )],
    );
    wish.ports[0].frontends[2].policy = TrafficPolicy::Cluster;
    world.plan([with_affinity(wish, 60)]);
    let list = |key: ServiceKey| world.kernel.services[&key].list;
    let lists: std::collections::BTreeSet<u32> = [within, outside, v6].map(list).into();
    assert_eq!(lists.len(), 3);
    assert_eq!(world.kernel.members.len(), 4);
    // Another service's are others again.
    world.plan([with_affinity(simple("till", key(2, 80), &[1]), 60)]);
    assert!(!lists.contains(&world.kernel.services[&key(2, 80)].list));
    world.plan([gone("cart"), gone("till")]);
    world.assert_empty();
}

#[test]
fn ranges_change_without_a_gap_in_either_direction() {
    let mut world = World::new(ROOMY);
    let cart = |set| guarded(simple("cart", key(1, 80), &[1]), set);
    world.plan([cart(0)]);
    let (ops, _) = world.plan([cart(1)]);
    assert_eq!(kinds(&ops), ["range", "set"]);
    let entry = world.kernel.services[&key(1, 80)];
    assert_eq!(entry.flags, flags::SOURCE_RANGES);
    let (ops, _) = world.plan([cart(2)]);
    assert_eq!(kinds(&ops), ["range", "range", "range"]);
    assert!(world.programmed.wants_plan());
    let (ops, _) = world.plan([cart(3)]);
    assert_eq!(kinds(&ops), ["remove range", "range"]);
    let (ops, _) = world.plan([]);
    assert_eq!(
        kinds(&ops),
        ["remove range", "remove range", "remove range"]
    );
    // Whoever has read the guarded entry must still find the range.
    let (ops, _) = world.plan([cart(0)]);
    assert_eq!(kinds(&ops), ["set"]);
    assert!(world.programmed.wants_plan());
    let (ops, _) = world.plan([]);
    assert_eq!(kinds(&ops), ["remove range"]);
    assert!(!world.programmed.wants_plan());

    // One that comes back before that stays.
    world.plan([cart(1)]);
    world.plan([cart(0)]);
    let (ops, _) = world.plan([cart(1)]);
    assert_eq!(kinds(&ops)[..2], ["remove range", "range"]);
    assert_eq!(world.kernel.source_ranges.len(), 1);
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn a_range_that_is_wanted_again_is_not_removed_by_what_was_planned_before() {
    let mut world = World::new(ROOMY);
    let cart = |set| guarded(simple("cart", key(1, 80), &[1]), set);
    world.plan([cart(1)]);
    let off = world.programmed.plan([cart(0)].into_iter());
    let on = world.programmed.plan([cart(1)].into_iter());
    assert!(world.kernel.apply_until(&off, usize::MAX));
    assert!(world.kernel.apply_until(&on, usize::MAX));
    world.programmed.release(off.retired);
    world.programmed.release(on.retired);
    let (ops, _) = world.plan([]);
    assert!(ops.is_empty(), "{ops:?}");
    assert_eq!(world.kernel.source_ranges.len(), 1);
    world.plan([gone("cart")]);
    world.assert_empty();
}

/// What was found of a port that is gone lets nobody in to the one that gets its id.
#[test]
fn an_id_does_not_inherit_ranges_or_members() {
    let mut world = World::new(ROOMY);
    world.plan([with_affinity(
        guarded(simple("old", key(1, 80), &[1]), 1),
        60,
    )]);
    world.kernel.services.clear();
    world.restart();
    let (ops, _) = world.plan([guarded(simple("new", key(1, 80), &[1]), 3)]);
    let kinds = kinds(&ops);
    let at = |kind: &str| kinds.iter().position(|other| *other == kind).expect(kind);
    assert!(
        at("remove range") < at("set") && at("range") < at("set"),
        "{kinds:?}"
    );
    assert!(at("remove member") < at("set"), "{kinds:?}");
    world.plan_leftovers();
    world.plan([gone("new")]);
    world.assert_empty();
}

#[test]
fn a_restart_keeps_members_and_ranges_and_leftovers_go() {
    let mut world = World::new(ROOMY);
    let stays = || with_affinity(guarded(simple("stays", key(1, 80), &[1, 2]), 2), 60);
    let goes = with_affinity(guarded(simple("goes", key(2, 80), &[2, 3]), 1), 60);
    world.plan([stays(), goes]);
    let (members, ranges) = (world.kernel.members.len(), world.kernel.source_ranges.len());
    assert_eq!((members, ranges), (4, 4));
    world.restart();
    let (ops, _) = world.plan([stays()]);
    assert!(ops.is_empty(), "{ops:?}");
    let epoch = world.kernel.epoch;
    world.plan_leftovers();
    assert_eq!(world.kernel.epoch, epoch + 1);
    assert_eq!(
        (world.kernel.members.len(), world.kernel.source_ranges.len()),
        (2, 3)
    );
    world.plan([gone("stays")]);
    world.assert_empty();
}

#[test]
fn what_does_not_fit_into_either_table_stays_whole() {
    let capacity = Capacity {
        members: 2,
        source_ranges: 2,
        ..ROOMY
    };
    for (grown, table, needed) in [
        (
            with_affinity(simple("cart", key(1, 80), &[1, 2, 3]), 60),
            table::MEMBERS,
            2,
        ),
        (
            guarded(simple("cart", key(1, 80), &[1]), 2),
            table::SOURCE_RANGES,
            3,
        ),
    ] {
        let mut world = World::new(capacity);
        let now = guarded(with_affinity(simple("cart", key(1, 80), &[1]), 60), 1);
        world.plan([now]);
        let before = world.kernel.snapshot();
        let (ops, errors) = world.plan([grown]);
        assert!(ops.is_empty(), "{ops:?}");
        let service = name("cart");
        let free = 1;
        assert_eq!(
            errors,
            [PlanError::Full {
                service,
                table,
                needed,
                free
            }]
        );
        assert_eq!(world.kernel.snapshot(), before);
        world.plan([gone("cart")]);
        world.assert_empty();
    }
}

#[test]
fn an_address_refuses_other_ports_only_if_it_is_nothing_but_a_cluster_ip() {
    let mut world = World::new(ROOMY);
    let (refuse, pass) = (Some(Verdict::UnknownPort as u8), Some(Verdict::Pass as u8));
    world.plan([simple("cluster-ip", key(1, 80), &[1])]);
    assert_eq!(address_verdict(&world, key(1, 80)), refuse);
    // A service whose load balancer has the same address: its other ports may be somebody's.
    let (ops, _) = world.plan([open(simple("balancer", key(1, 81), &[1]))]);
    assert_eq!(
        kinds(&ops),
        ["slots", "reset", "set", "set address", "epoch"]
    );
    assert_eq!(address_verdict(&world, key(1, 80)), pass);
    world.restart();
    let wishes = || {
        [
            simple("cluster-ip", key(1, 80), &[1]),
            open(simple("balancer", key(1, 81), &[1])),
        ]
    };
    let (ops, _) = world.plan(wishes());
    assert!(ops.is_empty(), "{ops:?}");
    world.plan_leftovers();
    assert_eq!(address_verdict(&world, key(1, 80)), pass);

    // After a restart without it, it counts until it is known to be gone.
    world.restart();
    world.plan([simple("cluster-ip", key(1, 80), &[1])]);
    assert_eq!(address_verdict(&world, key(1, 80)), pass);
    world.plan_leftovers();
    assert_eq!(address_verdict(&world, key(1, 80)), refuse);

    // One frontend may change its kind.
    let (ops, _) = world.plan([open(simple("cluster-ip", key(1, 80), &[1]))]);
    assert_eq!(kinds(&ops), ["set address", "epoch"]);
    assert_eq!(address_verdict(&world, key(1, 80)), pass);
    world.plan([gone("cluster-ip")]);
    assert_eq!(address_verdict(&world, key(1, 80)), None);
    world.assert_empty();
}

#[test]
fn only_frontends_that_come_or_go_make_a_new_epoch() {
    let mut world = World::new(ROOMY);
    world.plan([simple("cart", key(1, 80), &[1])]);
    assert_eq!(world.kernel.epoch, 1);
    world.plan([with_affinity(simple("cart", key(1, 80), &[1, 2]), 60)]);
    world.plan([guarded(simple("cart", key(1, 80), &[2]), 1)]);
    world.plan([simple("cart", key(1, 80), &[])]);
    world.plan([gone("cart"), simple("till", key(1, 80), &[1])]);
    world.plan([]);
    assert_eq!(world.kernel.epoch, 1);
    world.plan([simple("till", key(1, 81), &[1])]);
    assert_eq!(world.kernel.epoch, 2);
    world.plan([gone("till")]);
    assert_eq!(world.kernel.epoch, 3);
    world.assert_empty();
}

#[test]
fn maglev_tables_are_written_kept_and_replaced_whole() {
    let mut world = World::new(Capacity {
        slots: 5000,
        ..ROOMY
    });
    let k = key(1, 80);
    let cart = |numbers: &[u16], selection| {
        let mut wish = with_affinity(simple("cart", k, numbers), 60);
        wish.ports[0].selection = selection;
        wish
    };
    let maglev = |numbers: &[u16]| cart(numbers, BackendSelection::Maglev);
    world.plan([maglev(&[1, 2, 3])]);
    let entry = world.kernel.services[&k];
    assert_eq!(entry.flags, flags::MAGLEV | flags::AFFINITY);
    assert_eq!(entry.slots_count, 1021);
    let list = backends(&[1, 2, 3]);
    let table: Vec<_> = (maglev::table(&list).expect("a table").into_iter())
        .map(|index| list[index])
        .collect();
    assert_eq!(leads_to(&world.kernel, k), Some(table));
    assert_eq!(world.kernel.members.len(), 3);
    assert_eq!(world.programmed.counts().backends, 3);

    world.restart();
    let (ops, _) = world.plan([maglev(&[1, 2, 3])]);
    assert!(ops.is_empty(), "{ops:?}");
    world.plan_leftovers();
    let (ops, _) = world.plan([maglev(&[1, 3])]);
    assert_eq!(
        kinds(&ops),
        ["slots", "set", "remove member", "backend", "free backend"]
    );
    let (ops, _) = world.plan([cart(&[1, 3], BackendSelection::Random)]);
    assert_eq!(kinds(&ops), ["slots", "set"]);
    assert_eq!(world.kernel.services[&k].flags, flags::AFFINITY);
    assert_eq!(leads_to(&world.kernel, k), Some(backends(&[1, 3])));
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn backends_that_nobody_leads_to_any_more_are_told() {
    let mut world = World::new(ROOMY);
    world.plan([
        simple("a", key(1, 80), &[1, 2]),
        simple("b", key(2, 80), &[2]),
    ]);
    let plan = world
        .programmed
        .plan([simple("a", key(1, 80), &[3])].into_iter());
    assert_eq!(plan.dropped, backends(&[1]));
    world.kernel.run(&mut world.programmed, plan);
    // Also by an agent that finds them.
    world.restart();
    let plan = world
        .programmed
        .plan([simple("a", key(1, 80), &[])].into_iter());
    assert_eq!(plan.dropped, backends(&[3]));
    world.kernel.run(&mut world.programmed, plan);
    let plan = world.programmed.plan_leftovers();
    assert_eq!(plan.dropped, backends(&[2]));
}
