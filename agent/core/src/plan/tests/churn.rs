//! Random histories against the rules, with the agent stopping anywhere.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weir_abi::service::flags;

use super::*;

const SERVICES: usize = 5;

/// A wish of one of a few services, made of few frontends and endpoints, so that they often meet.
fn any_wish() -> impl Strategy<Value = DesiredService> {
    let list = prop::collection::btree_set(0_u16..6, 1..5);
    let frontend = (
        0_u8..3,
        1_u16..3,
        0_u8..2,
        prop::option::weighted(0.8, 0_usize..2),
        (any::<bool>(), any::<bool>()),
    );
    let port = (
        prop::collection::vec(list, 2),
        prop::collection::vec(frontend, 0..4),
        prop_oneof![Just(0_u32), 1_u32..3],
        0_u8..4,
    );
    let ports = prop::collection::vec(port, 0..3);
    (0..SERVICES, ports, any::<bool>()).prop_map(|(service, ports, renamed)| {
        let ports = ports.into_iter().enumerate().map(
            |(i, (lists, frontends, affinity_timeout, ranges))| DesiredPort {
                port_name: format!("p{}", if renamed { i + 1 } else { i }).into(),
                proto: proto::TCP,
                affinity_timeout,
                source_ranges: admission::ranges(ranges),
                lists: lists
                    .into_iter()
                    .map(|list| list.into_iter().map(backend).collect())
                    .collect(),
                frontends: frontends
                    .into_iter()
                    .map(|(last, port, scope, list, (open, guarded))| Frontend {
                        open,
                        // As compiled: without ranges nothing is guarded.
                        guarded: guarded && ranges > 0,
                        ..super::frontend(
                            ServiceKey {
                                scope,
                                ..key(last, port)
                            },
                            list,
                        )
                    })
                    .collect(),
                ..DesiredPort::default()
            },
        );
        desired(&format!("s{service}"), ports.collect())
    })
}

/// What a service wants behind a key, if it wants it: the first frontend counts.
fn wanted(wish: &DesiredService, key: &ServiceKey) -> Option<Vec<BackendAddr>> {
    wish.ports.iter().find_map(|port| {
        let frontend = port
            .frontends
            .iter()
            .find(|frontend| frontend.key == *key)?;
        Some(
            frontend
                .list
                .map_or(Vec::new(), |list| port.lists[list].clone()),
        )
    })
}

/// The frontend of a wish that counts, and its port.
fn frontend_of<'a>(
    wish: &'a DesiredService,
    key: &ServiceKey,
) -> Option<(&'a DesiredPort, &'a Frontend)> {
    wish.ports.iter().find_map(|port| {
        let frontend = port
            .frontends
            .iter()
            .find(|frontend| frontend.key == *key)?;
        Some((port, frontend))
    })
}

/// Affinity and source ranges of an entry are as wished.
fn check_entry(world: &World, wish: &DesiredService, key: &ServiceKey) {
    let (port, frontend) = frontend_of(wish, key).expect("wanted");
    let entry = world.kernel.services[key];
    let affinity = frontend.list.is_some() && port.affinity_timeout > 0;
    assert_eq!(entry.flags & flags::AFFINITY != 0, affinity, "{key:?}");
    let timeout = if affinity { port.affinity_timeout } else { 0 };
    assert_eq!(entry.affinity_timeout, timeout, "{key:?}");
    assert_eq!(
        entry.flags & flags::SOURCE_RANGES != 0,
        frontend.guarded,
        "{key:?}"
    );
    let ranges = world.kernel.source_ranges.iter();
    let ranges = ranges.filter(|(id, ..)| *id == entry.id).copied();
    let expected = port.source_ranges.iter().map(|range| {
        let (key, prefix_len) = range.key(entry.id);
        (key.id, key.addr, prefix_len)
    });
    if frontend.guarded {
        let (ranges, expected): (BTreeSet<_>, BTreeSet<_>) = (ranges.collect(), expected.collect());
        assert!(ranges.is_superset(&expected), "{key:?}");
        assert!(
            world.programmed.wants_plan() || ranges == expected,
            "{key:?}"
        );
    }
}

/// The rules that the tables must follow after each plan.
#[derive(Default)]
struct Rules {
    /// What each service wants.
    wishes: BTreeMap<ObjectName, DesiredService>,
    /// What each service was last given: its wish, or an older one while it does not fit.
    given: BTreeMap<ObjectName, DesiredService>,
    /// Who has each frontend.
    owners: BTreeMap<ServiceKey, ObjectName>,
}

impl Rules {
    fn check(&mut self, world: &World) {
        let mut full = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for error in world.programmed.errors() {
            match error.clone() {
                PlanError::Full { service, .. } => drop(full.insert(service)),
                // One frontend twice in a service is the service's own nevertheless.
                PlanError::Conflict { service, owner, .. } if service == owner => {}
                PlanError::Conflict { service, key, .. } => drop(refused.insert((service, key))),
            }
        }
        for (name, wish) in &self.wishes {
            if !full.contains(name) {
                self.given.insert(name.clone(), wish.clone());
            }
        }
        // One that does not fit stays as it was: it keeps the frontends that it had, and gets no others.
        let has = |name: &ObjectName, key: ServiceKey| {
            if full.contains(name) {
                self.owners.get(&key) == Some(name)
            } else {
                !refused.contains(&(name.clone(), key))
            }
        };
        let mut owners = BTreeMap::new();
        let mut expected_keys = BTreeSet::new();
        let mut open_addresses = BTreeSet::new();
        for (name, given) in &self.given {
            for key in given
                .keys()
                .filter(|key| has(name, *key))
                .collect::<BTreeSet<_>>()
            {
                assert_eq!(
                    leads_to(&world.kernel, key),
                    wanted(given, &key),
                    "{key:?} of {name}"
                );
                assert_eq!(
                    owners.insert(key, name.clone()),
                    None,
                    "{key:?} has two owners"
                );
                expected_keys.extend([key, ServiceKey::address_only(key.addr, key.scope)]);
                let frontend = frontend_of(given, &key);
                if frontend.is_some_and(|(_, frontend)| frontend.open) {
                    open_addresses.insert((key.addr, key.scope));
                }
                check_entry(world, given, &key);
            }
        }
        for (key, owner) in &self.owners {
            let wants = wanted(&self.given[owner], key).is_some();
            assert!(
                !wants || owners.get(key) == Some(owner),
                "{key:?} was taken from {owner}"
            );
        }
        let seen = world.kernel.seen();
        assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), expected_keys);
        for (addr, scope) in expected_keys.iter().map(|key| (key.addr, key.scope)) {
            let verdict = match open_addresses.contains(&(addr, scope)) {
                true => Verdict::Pass,
                false => Verdict::UnknownPort,
            };
            let key = ServiceKey::address_only(addr, scope);
            assert_eq!(seen[&key], Seen::Verdict(verdict as u8), "{key:?}");
        }
        self.owners = owners;
    }
}

/// Everything is deleted; nothing may remain.
fn delete_everything(world: &mut World) {
    world.plan((0..SERVICES).map(|service| gone(&format!("s{service}"))));
    world.assert_empty();
}

/// Batches, each with at most one wish of a service: sync compiles a service once.
fn any_history() -> impl Strategy<Value = Vec<Vec<DesiredService>>> {
    let batch = prop::collection::vec(any_wish(), 1..4).prop_map(|batch| {
        let mut names = BTreeSet::new();
        let once = batch
            .into_iter()
            .filter(|wish| names.insert(wish.name.clone()));
        once.collect()
    });
    prop::collection::vec(batch, 1..12)
}

fn history_in(capacity: Capacity, history: Vec<Vec<DesiredService>>) {
    let mut world = World::new(capacity);
    let mut rules = Rules::default();
    for batch in history {
        for wish in &batch {
            rules.wishes.insert(wish.name.clone(), wish.clone());
        }
        world.plan(batch);
        rules.check(&world);
        for _ in 0..SERVICES {
            if world.programmed.wants_plan() {
                world.plan([]);
                rules.check(&world);
            }
        }
        // Whatever is wanted as it is given costs nothing to ask for again.
        let settled: Vec<_> = (rules.wishes.values())
            .filter(|wish| !world.programmed.errors().any(|e| *e.service() == wish.name))
            .cloned()
            .collect();
        let (ops, _) = world.plan(settled);
        assert!(ops.is_empty(), "{ops:?}");
    }
    delete_everything(&mut world);
}

/// The same history, but no service wants what another has.
fn without_conflicts(mut history: Vec<Vec<DesiredService>>) -> Vec<Vec<DesiredService>> {
    for wish in history.iter_mut().flatten() {
        let number = wish.name.name.as_bytes()[1] - b'0';
        for frontend in wish.ports.iter_mut().flat_map(|port| &mut port.frontends) {
            let port = u16::from_be(frontend.key.port_be) + 10 * u16::from(number);
            frontend.key.port_be = port.to_be();
        }
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_history_follows_the_rules(history in any_history()) {
        history_in(ROOMY, history);
    }

    #[test]
    fn every_history_in_narrow_tables_follows_the_rules(
        history in any_history().prop_map(without_conflicts),
        (services, slots) in (6_u32..20, 6_u32..24),
        (backends, ids) in (3_u32..8, 2_u32..10),
        (members, source_ranges) in (0_u32..20, 0_u32..20),
    ) {
        let capacity = Capacity { services, slots, backends, ids, members, source_ranges };
        history_in(capacity, history);
    }

    /// The agent stops after any operation; another takes over and gets to the same end, and so do both that stop on
    /// the way there.
    #[test]
    fn every_stop_is_survived(history in any_history(), stops in prop::collection::vec(0_usize..40, 3)) {
        let mut world = World::new(ROOMY);
        let mut wishes: BTreeMap<ObjectName, DesiredService> = BTreeMap::new();
        for batch in history {
            for wish in &batch {
                wishes.insert(wish.name.clone(), wish.clone());
            }
            let mut plan = world.programmed.plan(batch.into_iter());
            let mut complete = true;
            for &stop in &stops {
                complete = world.kernel.apply_until(&plan, stop);
                if complete {
                    break;
                }
                world.restart();
                plan = world.programmed.plan(wishes.values().cloned());
            }
            if !complete {
                world.kernel.apply_until(&plan, usize::MAX);
            }
            world.programmed.release(plan.retired);
            // Whoever restarts cannot know who had what first, so the rules start anew.
            world.plan_leftovers();
            if world.programmed.wants_plan() {
                world.plan([]);
            }
            let mut rules = Rules { wishes: wishes.clone(), ..Rules::default() };
            rules.check(&world);
        }
        delete_everything(&mut world);
    }
}
