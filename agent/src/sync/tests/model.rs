//! A thousand changes at random, against a model that is too simple to be wrong.

use super::*;

const SERVICES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const PORTS: [(&str, u16); 3] = [("http", 80), ("admin", 81), ("metrics", 9090)];
const TARGET: u16 = 8080;

/// What the cluster holds: services with the numbers of their addresses and how many ports they have; endpoints of a slice.
#[derive(Default)]
struct Model {
    services: BTreeMap<&'static str, (u8, usize)>,
    slices: BTreeMap<String, Slice>,
}

struct Slice {
    service: &'static str,
    ports: Vec<&'static str>,
    addresses: Vec<String>,
}

fn cluster_ips(number: u8) -> [String; 2] {
    [format!("10.96.0.{number}"), format!("fd00:96::{number}")]
}

impl Model {
    /// Changes something, and says it as a source would.
    fn change(&mut self, rng: &mut fastrand::Rng) -> Change {
        let name = SERVICES[rng.usize(..SERVICES.len())];
        match rng.u8(..10) {
            0 => {
                self.services.remove(name);
                delete(Kind::Service, name)
            }
            1..4 => {
                // An address is one service's at a time, but may pass from one to another.
                let taken: BTreeSet<u8> = self
                    .services
                    .iter()
                    .filter(|(other, _)| **other != name)
                    .map(|(_, (number, _))| *number)
                    .collect();
                let mut number = rng.u8(1..12);
                while taken.contains(&number) {
                    number = rng.u8(1..12);
                }
                let ports = rng.usize(1..=PORTS.len());
                self.services.insert(name, (number, ports));
                let ips = cluster_ips(number);
                service(name, &[&ips[0], &ips[1]], &PORTS[..ports])
            }
            4 => {
                let slice = slice_name(name, rng);
                self.slices.remove(&slice);
                delete(Kind::EndpointSlice, &slice)
            }
            _ => self.set_slice(name, rng),
        }
    }

    fn set_slice(&mut self, service: &'static str, rng: &mut fastrand::Rng) -> Change {
        let name = slice_name(service, rng);
        let v6 = name.ends_with('6');
        let ports = PORTS[..rng.usize(1..=PORTS.len())]
            .iter()
            .map(|(name, _)| *name);
        let slice = Slice {
            service,
            ports: ports.collect(),
            addresses: (0..rng.u8(..6))
                .map(|_| {
                    let number = rng.u8(1..30);
                    if v6 {
                        format!("fd00:a::{number}")
                    } else {
                        format!("10.0.0.{number}")
                    }
                })
                .collect(),
        };
        let addresses: Vec<&str> = slice.addresses.iter().map(String::as_str).collect();
        let change = super::slice(&name, service, &slice.ports, TARGET, &addresses);
        self.slices.insert(name, slice);
        change
    }

    /// Where a connect should lead.
    fn expected(&self) -> BTreeMap<ServiceKey, Reachable> {
        let mut expected = BTreeMap::new();
        for number in 1..12 {
            for address in cluster_ips(number) {
                let owner = self.services.iter().find(|(_, (of, _))| *of == number);
                expected.insert(any_port(&address), owner.map(|_| BTreeSet::new()));
                for (index, (port_name, port)) in PORTS.into_iter().enumerate() {
                    let reachable = owner
                        .filter(|(_, (_, ports))| index < *ports)
                        .map(|(name, _)| self.endpoints(name, port_name, address.contains(':')));
                    expected.insert(frontend(&address, port), reachable);
                }
            }
        }
        expected
    }

    fn endpoints(&self, service: &str, port: &str, v6: bool) -> BTreeSet<String> {
        let slices = self.slices.values();
        slices
            .filter(|slice| slice.service == service && slice.ports.contains(&port))
            .flat_map(|slice| &slice.addresses)
            .filter(|address| address.contains(':') == v6)
            .map(|address| std::net::SocketAddr::new(address.parse().unwrap(), TARGET).to_string())
            .collect()
    }

    /// Everything, as a source lists it.
    fn list(&self) -> Vec<Change> {
        let services = self.services.iter().map(|(name, (number, ports))| {
            let ips = cluster_ips(*number);
            service(name, &[&ips[0], &ips[1]], &PORTS[..*ports])
        });
        let slices = self.slices.iter().map(|(name, slice)| {
            let addresses: Vec<&str> = slice.addresses.iter().map(String::as_str).collect();
            super::slice(name, slice.service, &slice.ports, TARGET, &addresses)
        });
        services.chain(slices).collect()
    }
}

/// Two slices of IPv4 for each service, and one of IPv6.
fn slice_name(service: &str, rng: &mut fastrand::Rng) -> String {
    format!("{service}-{}", ["x4", "y4", "x6"][rng.usize(..3)])
}

/// One life of an agent, or several: with faults, deaths and quiet moments in between.
fn live(seed: u64, changes: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut model = Model::default();
    let mut engine = synced(ROOMY, &[]);
    let mut done = 0;
    while done < changes {
        for _ in 0..rng.usize(1..5) {
            let change = model.change(&mut rng);
            engine.handle(Event::Change(change));
            done += 1;
        }
        if rng.u8(..6) == 0 {
            engine.dataplane.memory.fail_after(rng.u64(..12));
        }
        engine.tick(Instant::now());
        if rng.u8(..25) == 0 {
            engine = engine_over(engine.dataplane);
            take(&mut engine, &model.list());
            list_all(&mut engine);
            engine.tick(Instant::now());
        }
        if rng.u8(..3) == 0 || engine.programmed.is_none() {
            until_quiet(&mut engine);
        }
        let expected = model.expected();
        let keys: Vec<ServiceKey> = expected.keys().copied().collect();
        assert_eq!(
            view(&engine, &keys),
            expected,
            "seed {seed}, after {done} changes"
        );
        assert!(
            engine.status().unprogrammed.is_empty(),
            "seed {seed}, after {done} changes"
        );
    }
    until_quiet(&mut engine);
    let (lived, fresh) = (counts(&engine), counts(&synced(ROOMY, &model.list())));
    // Backends that have lost their services go on as long as a slice has them.
    assert!(lived.backends >= fresh.backends, "seed {seed}");
    let backends = fresh.backends;
    assert_eq!(TableCounts { backends, ..lived }, fresh, "seed {seed}");
    assert_leaves_nothing(&mut engine);
}

#[test]
fn a_thousand_changes_at_random_lead_where_the_model_says() {
    for seed in 0..4 {
        live(seed, 250);
    }
}
