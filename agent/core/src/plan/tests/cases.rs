//! What each kind of change costs and does.

use weir_abi::service::backend_state;
use weir_abi::table;

use super::*;

pub(super) fn kinds(ops: &[Op]) -> Vec<&'static str> {
    let kind = |op: &Op| match op {
        Op::WriteBackend { backend, .. } if backend.state == backend_state::FREE => "free backend",
        Op::WriteBackend { .. } => "backend",
        Op::WriteSlots { .. } => "slots",
        Op::ResetCounters { .. } => "reset",
        Op::SetService { key, .. } if key.port_be == 0 => "set address",
        Op::SetService { .. } => "set",
        Op::RemoveService { key } if key.port_be == 0 => "remove address",
        Op::RemoveService { .. } => "remove",
        Op::SetMember { .. } => "member",
        Op::RemoveMember { .. } => "remove member",
        Op::SetSourceRange { .. } => "range",
        Op::RemoveSourceRange { .. } => "remove range",
        Op::BumpEpoch => "epoch",
    };
    ops.iter().map(kind).collect()
}

#[test]
fn a_service_from_birth_to_death() {
    let mut world = World::new(ROOMY);
    let cart = key(1, 80);
    let (ops, _) = world.plan([simple("cart", cart, &[1, 2])]);
    assert_eq!(
        kinds(&ops),
        [
            "backend",
            "backend",
            "slots",
            "reset",
            "set",
            "set address",
            "epoch"
        ]
    );
    assert_eq!(leads_to(&world.kernel, cart), Some(backends(&[1, 2])));
    let address = ServiceKey::address_only(cart.addr, cart.scope);
    assert_eq!(
        world.kernel.services[&address].verdict,
        Verdict::UnknownPort as u8
    );

    let (ops, _) = world.plan([simple("cart", cart, &[1, 2])]);
    assert!(ops.is_empty(), "{ops:?}");

    let (ops, _) = world.plan([simple("cart", cart, &[1, 2, 3])]);
    assert_eq!(kinds(&ops), ["backend", "slots", "set"]);
    let (ops, _) = world.plan([simple("cart", cart, &[1, 3])]);
    // Who remembers the backend is told at once, and again when nobody can be sent there any more.
    assert_eq!(kinds(&ops), ["slots", "set", "backend", "free backend"]);
    let (ops, _) = world.plan([simple("cart", cart, &[])]);
    let (told, freed) = (["backend"; 2], ["free backend"; 2]);
    assert_eq!(kinds(&ops), [&["set"][..], &told, &freed].concat());
    assert_eq!(leads_to(&world.kernel, cart), Some(Vec::new()));

    let (ops, _) = world.plan([gone("cart")]);
    assert_eq!(kinds(&ops), ["remove", "remove address", "epoch"]);
    world.assert_empty();
}

#[test]
fn a_reused_backend_id_has_a_new_generation() {
    let mut world = World::new(ROOMY);
    world.plan([simple("cart", key(1, 80), &[1])]);
    let first = world.kernel.backends[1];
    world.plan([simple("cart", key(1, 80), &[2])]);
    world.plan([simple("cart", key(1, 80), &[3])]);
    let third = world.kernel.backends[1];
    assert_eq!((first.addr, third.addr), (backend(1).addr, backend(3).addr));
    assert_eq!(third.generation, first.generation + 2);
}

#[test]
fn equal_lists_of_one_port_share_their_slots_and_equal_endpoints_their_ids() {
    let mut world = World::new(ROOMY);
    let (a, b, c) = (key(1, 80), key(2, 80), key(3, 80));
    let shared = port("http", &[(a, &[1, 2]), (b, &[1, 2])]);
    let (ops, _) = world.plan([desired("cart", vec![shared])]);
    assert_eq!(
        kinds(&ops).iter().filter(|kind| **kind == "slots").count(),
        1
    );
    assert_eq!(world.programmed.counts().slots, 2);
    // Another service has its own slots, but not its own backends.
    let (ops, _) = world.plan([simple("till", c, &[1, 2])]);
    assert_eq!(
        kinds(&ops),
        ["slots", "reset", "set", "set address", "epoch"]
    );
    // The first change parts what was shared.
    world.plan([desired(
        "cart",
        vec![port("http", &[(a, &[1]), (b, &[1, 2])])],
    )]);
    assert_eq!(leads_to(&world.kernel, a), Some(backends(&[1])));
    assert_eq!(leads_to(&world.kernel, b), Some(backends(&[1, 2])));
    world.plan([gone("cart"), gone("till")]);
    world.assert_empty();
}

#[test]
fn lists_may_be_exchanged_between_frontends() {
    let mut world = World::new(ROOMY);
    let (a, b) = (key(1, 80), key(2, 80));
    world.plan([desired("cart", vec![port("http", &[(a, &[1]), (b, &[2])])])]);
    let (ops, _) = world.plan([desired("cart", vec![port("http", &[(a, &[2]), (b, &[1])])])]);
    assert_eq!(kinds(&ops), ["set", "set"]);
    assert_eq!(leads_to(&world.kernel, a), Some(backends(&[2])));
    assert_eq!(leads_to(&world.kernel, b), Some(backends(&[1])));
}

#[test]
fn an_endpoint_that_moves_from_service_to_service_keeps_its_id() {
    let mut world = World::new(ROOMY);
    let (a, b) = (key(1, 80), key(2, 80));
    world.plan([simple("a", a, &[1]), simple("b", b, &[2])]);
    let (ops, _) = world.plan([simple("a", a, &[]), simple("b", b, &[1, 2])]);
    assert_eq!(kinds(&ops), ["set", "slots", "set"]);
}

#[test]
fn a_frontend_passes_from_one_service_to_another_in_one_update() {
    let mut world = World::new(ROOMY);
    world.plan([simple("old", key(1, 80), &[1])]);
    for order in [false, true] {
        let mut batch = vec![gone("old"), simple("new", key(1, 80), &[2])];
        if order {
            batch.reverse();
        }
        let (ops, errors) = world.plan(batch);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(
            !ops.iter().any(|op| matches!(op, Op::RemoveService { .. })),
            "{ops:?}"
        );
        assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(backends(&[2])));
        // The new service counts from zero.
        assert!(world.kernel.resets.contains(&world.ids()["shop/new http"]));
        world.plan([gone("new"), simple("old", key(1, 80), &[1])]);
    }
}

#[test]
fn a_renamed_port_keeps_serving() {
    let mut world = World::new(ROOMY);
    let k = key(1, 80);
    world.plan([desired("cart", vec![port("a", &[(k, &[1])])])]);
    let (ops, _) = world.plan([desired("cart", vec![port("b", &[(k, &[1])])])]);
    assert_eq!(kinds(&ops), ["reset", "set"]);
    assert_eq!(world.ids().keys().collect::<Vec<_>>(), ["shop/cart b"]);
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn the_first_to_have_a_frontend_keeps_it_and_the_other_gets_it_afterwards() {
    let mut world = World::new(ROOMY);
    let (contested, own) = (key(1, 80), key(2, 80));
    world.plan([simple("first", contested, &[1])]);
    let second = desired(
        "second",
        vec![port("http", &[(contested, &[2]), (own, &[2])])],
    );
    let (_, errors) = world.plan([second]);
    assert_eq!(
        errors,
        [PlanError::Conflict {
            service: name("second"),
            key: contested,
            owner: name("first")
        }]
    );
    assert_eq!(
        errors[0].to_string(),
        "service shop/second does not get 10.96.0.1:80/TCP, which service shop/first has; \
         give one of them another address or port"
    );
    assert_eq!(leads_to(&world.kernel, contested), Some(backends(&[1])));
    assert_eq!(leads_to(&world.kernel, own), Some(backends(&[2])));
    // Updates of either change nothing about it.
    world.plan([simple("first", contested, &[1, 3])]);
    assert_eq!(leads_to(&world.kernel, contested), Some(backends(&[1, 3])));
    assert_eq!(world.programmed.errors().count(), 1);

    let (ops, errors) = world.plan([gone("first")]);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(
        !ops.iter().any(|op| matches!(op, Op::RemoveService { .. })),
        "{ops:?}"
    );
    assert_eq!(leads_to(&world.kernel, contested), Some(backends(&[2])));
    assert_eq!(world.programmed.errors().count(), 0);
    world.plan([gone("second")]);
    world.assert_empty();
}

#[test]
fn who_waits_in_vain_and_goes_leaves_nothing() {
    let mut world = World::new(ROOMY);
    world.plan([simple("first", key(1, 80), &[1])]);
    world.plan([simple("second", key(1, 80), &[2])]);
    world.plan([gone("second")]);
    assert_eq!(world.programmed.errors().count(), 0);
    world.plan([gone("first")]);
    world.assert_empty();
}

#[test]
fn one_frontend_twice_in_a_service_is_a_conflict_with_itself() {
    let mut world = World::new(ROOMY);
    let twice = vec![
        port("a", &[(key(1, 80), &[1])]),
        port("b", &[(key(1, 80), &[2])]),
    ];
    let (_, errors) = world.plan([desired("cart", twice)]);
    assert!(matches!(&errors[..], [PlanError::Conflict { owner, .. }] if *owner == name("cart")));
    assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(backends(&[1])));
    world.plan([gone("cart")]);
    world.assert_empty();
}

/// Each table in turn is the one that is too small for the second service's change.
#[test]
fn a_service_that_does_not_fit_stays_whole_and_is_tried_again() {
    let (a, b) = (key(1, 80), key(2, 80));
    let exact = Capacity {
        services: 4,
        slots: 4,
        backends: 4,
        ids: 3,
        ..ROOMY
    };
    let cases = [
        (
            table::SERVICES,
            desired("b", vec![port("http", &[(b, &[2]), (key(3, 80), &[2])])]),
            2,
            0,
        ),
        (table::SLOTS, simple("b", b, &[1, 2, 3]), 3, 2),
        (table::BACKENDS, simple("b", b, &[4, 5]), 2, 1),
        (
            table::SERVICE_COUNTERS,
            desired("b", vec![port("http", &[(b, &[2])]), port("more", &[])]),
            1,
            0,
        ),
    ];
    for (table, grown, needed, free) in cases {
        let mut world = World::new(exact);
        world.plan([simple("b", b, &[2]), simple("a", a, &[1])]);
        let (ops, errors) = world.plan([grown.clone()]);
        assert!(ops.is_empty(), "{table}: {ops:?}");
        let service = name("b");
        assert_eq!(
            errors,
            [PlanError::Full {
                service,
                table,
                needed,
                free
            }]
        );
        assert_eq!(leads_to(&world.kernel, b), Some(backends(&[2])));
        assert_eq!(world.programmed.errors().count(), 1);

        // It stays so as long as nothing is free, and comes in when there is room.
        let (ops, errors) = world.plan([]);
        assert!(ops.is_empty() && errors.is_empty(), "{ops:?} {errors:?}");
        assert!(!world.programmed.wants_plan());
        world.plan([gone("a")]);
        assert!(world.programmed.wants_plan(), "{table}");
        world.plan([]);
        assert_eq!(world.programmed.errors().count(), 0, "{table}");
        assert!(!world.programmed.wants_plan());
        let list = &grown.ports[0].lists[0];
        assert_eq!(leads_to(&world.kernel, b).as_ref(), Some(list), "{table}");
        world.plan([gone("b")]);
        world.assert_empty();
    }
}

#[test]
fn the_error_says_what_is_missing() {
    let mut world = World::new(Capacity { slots: 2, ..ROOMY });
    let (_, errors) = world.plan([simple("cart", key(1, 80), &[1, 2, 3])]);
    assert_eq!(
        errors[0].to_string(),
        "service shop/cart does not fit: it needs 3 more entries in SLOTS, where 2 are free; \
         it stays as it was until there is room"
    );
}

#[test]
fn a_service_that_does_not_fit_and_goes_leaves_nothing() {
    let mut world = World::new(Capacity { slots: 2, ..ROOMY });
    world.plan([simple("cart", key(1, 80), &[1])]);
    world.plan([simple("cart", key(1, 80), &[1, 2, 3])]);
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn what_another_agent_has_retired_is_not_given_back() {
    let mut world = World::new(ROOMY);
    world.plan([simple("cart", key(1, 80), &[1, 2])]);
    let plan = world
        .programmed
        .plan([simple("cart", key(1, 80), &[3])].into_iter());
    assert!(world.kernel.apply_until(&plan, usize::MAX));
    world.restart();
    let before = world.programmed.counts();
    world.programmed.release(plan.retired);
    assert_eq!(world.programmed.counts(), before);
}

#[test]
fn nothing_is_reused_before_it_is_released() {
    let mut world = World::new(ROOMY);
    world.plan([simple("cart", key(1, 80), &[1])]);
    let first = world
        .programmed
        .plan([simple("cart", key(1, 80), &[2])].into_iter());
    let second = world
        .programmed
        .plan([simple("cart", key(1, 80), &[3])].into_iter());
    // The readers of the very first state may still be there when the second plan is applied.
    for op in first.ops.iter().chain(&second.ops) {
        world.kernel.apply(op);
    }
    world.kernel.grace();
    for op in first.after_grace.iter().chain(&second.after_grace) {
        world.kernel.apply(op);
    }
    world.programmed.release(first.retired);
    world.programmed.release(second.retired);
    world.kernel.assert_agrees(&world.programmed);
    assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(backends(&[3])));
}

#[test]
fn malformed_wishes_do_no_harm() {
    let mut world = World::new(ROOMY);
    let mut odd = port("http", &[(key(1, 80), &[1])]);
    odd.frontends[0].list = Some(7);
    let mut empty = port("more", &[(key(2, 80), &[1])]);
    empty.lists[0].clear();
    let address = ServiceKey::address_only(key(1, 80).addr, scope::INTERNAL);
    let on_address = port("address", &[(address, &[1])]);
    world.plan([desired("cart", vec![odd, empty, on_address])]);
    assert_eq!(leads_to(&world.kernel, key(1, 80)), Some(Vec::new()));
    assert_eq!(leads_to(&world.kernel, key(2, 80)), Some(Vec::new()));
    world.plan([gone("cart")]);
    world.assert_empty();
}

#[test]
fn a_backend_that_goes_on_is_retired_when_it_does_not() {
    let mut programmed = Programmed::new(ROOMY);
    let cart = key(1, 80);
    let mut plan = |list: &[u16], going_on: &[u16]| {
        let going_on = backends(going_on);
        let desired = [simple("cart", cart, list)].into_iter();
        let plan = programmed.plan_sparing(desired, |backend| going_on.contains(backend));
        (kinds(&plan.ops), kinds(&plan.after_grace), plan.dropped)
    };
    plan(&[1, 2], &[1, 2]);
    let (_, freed, dropped) = plan(&[2], &[1, 2]);
    assert!(freed.is_empty() && dropped.is_empty(), "it goes on");
    // It comes back to the id that flows know it by.
    let (ops, ..) = plan(&[1, 2], &[1, 2]);
    assert_eq!(ops, ["slots", "set"]);
    plan(&[2], &[1, 2]);
    // Any plan notices its end.
    let (ops, freed, dropped) = plan(&[2], &[2]);
    assert_eq!(
        (ops, freed, dropped),
        (vec!["backend"], vec!["free backend"], backends(&[1]))
    );
}

#[test]
fn backends_that_go_on_make_room_for_services_that_do_not_fit() {
    let mut programmed = Programmed::new(Capacity {
        backends: 3,
        ..ROOMY
    });
    let cart = key(1, 80);
    let mut plan = |list: &[u16]| {
        let plan = programmed.plan_sparing([simple("cart", cart, list)].into_iter(), |_| true);
        let done = (kinds(&plan.after_grace), plan.errors.len());
        programmed.release(plan.retired);
        done
    };
    assert_eq!(plan(&[1, 2]), (vec![], 0));
    assert_eq!(plan(&[2]), (vec![], 0));
    assert_eq!(plan(&[2, 3]), (vec!["free backend"], 1));
    assert_eq!(plan(&[2, 3]), (vec![], 0));
}
