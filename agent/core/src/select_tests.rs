use std::sync::Arc;

use super::*;
use crate::model::{Affinity, BackendSelection, EndpointPort, Hints, ObjectName, ServiceType};

const NODE: &str = "here";
const ZONE: &str = "west";

/// Who an endpoint's hint is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hint {
    None,
    Us,
    Others,
    Both,
}

impl Hint {
    fn list(self, us: &str) -> Box<[Arc<str>]> {
        match self {
            Self::None => Box::new([]),
            Self::Us => Box::new([us.into()]),
            Self::Others => Box::new(["elsewhere".into()]),
            Self::Both => Box::new(["elsewhere".into(), us.into()]),
        }
    }

    fn names_us(self) -> bool {
        matches!(self, Self::Us | Self::Both)
    }
}

/// Everything about an endpoint that can matter.
#[derive(Clone, Copy, Debug)]
struct Traits {
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    node_hint: Hint,
    zone_hint: Hint,
}

impl Traits {
    fn all(hints: &[Hint]) -> Vec<Self> {
        let mut all = Vec::new();
        for bits in 0..16 {
            for &node_hint in hints {
                for &zone_hint in hints {
                    all.push(Self {
                        ready: bits & 1 != 0,
                        serving: bits & 2 != 0,
                        terminating: bits & 4 != 0,
                        local: bits & 8 != 0,
                        node_hint,
                        zone_hint,
                    });
                }
            }
        }
        all
    }

    fn endpoint(self, last: u8) -> Endpoint {
        let hints = Hints {
            nodes: self.node_hint.list(NODE),
            zones: self.zone_hint.list(ZONE),
        };
        Endpoint {
            addr: IpAddr::from([10, 0, 0, last]),
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            node: Some(if self.local { NODE } else { "elsewhere" }.into()),
            zone: None,
            hints: (hints != Hints::default()).then(|| Arc::new(hints)),
        }
    }
}

/// The rules, read off kube-proxy's documentation one by one: which endpoints are in each list, and whether there are
/// usable ones anywhere.
struct Oracle {
    cluster: Vec<bool>,
    local: Vec<bool>,
    anywhere: bool,
}

fn oracle(endpoints: &[Traits], uses: Uses, zone_known: bool) -> Oracle {
    let ready: Vec<&Traits> = endpoints.iter().filter(|e| e.ready).collect();
    let all_have_node_hints = ready.iter().all(|e| e.node_hint != Hint::None);
    let all_have_zone_hints = ready.iter().all(|e| e.zone_hint != Hint::None);
    let one_names_this_node = ready.iter().any(|e| e.node_hint.names_us());
    let one_names_this_zone = zone_known && ready.iter().any(|e| e.zone_hint.names_us());
    let same_node = all_have_node_hints && one_names_this_node;
    let same_zone = !same_node && all_have_zone_hints && one_names_this_zone;

    let none_ready = ready.is_empty();
    let none_ready_here = !ready.iter().any(|e| e.local);
    let lingers = |e: &Traits| e.serving && e.terminating;

    let in_cluster = |e: &Traits| {
        if !uses.cluster {
            false
        } else if none_ready {
            lingers(e)
        } else if same_node {
            e.ready && e.node_hint.names_us()
        } else if same_zone {
            e.ready && e.zone_hint.names_us()
        } else {
            e.ready
        }
    };
    let in_local =
        |e: &Traits| uses.local && e.local && (if none_ready_here { lingers(e) } else { e.ready });
    Oracle {
        cluster: endpoints.iter().map(in_cluster).collect(),
        local: endpoints.iter().map(in_local).collect(),
        anywhere: !none_ready || endpoints.iter().any(lingers),
    }
}

const ALL_USES: [Uses; 3] = [
    Uses {
        cluster: true,
        local: false,
    },
    Uses {
        cluster: false,
        local: true,
    },
    Uses {
        cluster: true,
        local: true,
    },
];

fn check(traits: &[Traits], endpoints: &[&Endpoint], zones_known: &[bool]) {
    let candidates: Vec<Candidate<'_>> = (traits.iter().zip(endpoints))
        .map(|(traits, &endpoint)| Candidate {
            endpoint,
            port: 80,
            local: traits.local,
        })
        .collect();
    for uses in ALL_USES {
        for &zone_known in zones_known {
            let selection = categorize(&candidates, uses, NODE, zone_known.then_some(ZONE));
            let expected = oracle(traits, uses, zone_known);
            let is = |list: &[Candidate<'_>], expected: &[bool]| {
                let wanted = endpoints
                    .iter()
                    .zip(expected)
                    .filter(|(_, wanted)| **wanted);
                list.iter()
                    .map(|c| c.endpoint.addr)
                    .eq(wanted.map(|(endpoint, _)| endpoint.addr))
            };
            let right = is(&selection.cluster, &expected.cluster)
                && is(&selection.local, &expected.local)
                && selection.anywhere == expected.anywhere;
            assert!(
                right,
                "{traits:#?}\n{uses:?} zone known: {zone_known}\n{selection:#?}"
            );
        }
    }
}

#[test]
fn every_combination_of_two_endpoints_is_as_the_rules_say() {
    check(&[], &[], &[true, false]);
    let all = Traits::all(&[Hint::None, Hint::Us, Hint::Others, Hint::Both]);
    let first: Vec<Endpoint> = all.iter().map(|traits| traits.endpoint(1)).collect();
    let second: Vec<Endpoint> = all.iter().map(|traits| traits.endpoint(2)).collect();
    for (a, a_endpoint) in all.iter().zip(&first) {
        check(&[*a], &[a_endpoint], &[true, false]);
        for (b, b_endpoint) in all.iter().zip(&second) {
            check(&[*a, *b], &[a_endpoint, b_endpoint], &[true, false]);
        }
    }
}

/// Every set of three, each in one order: two endpoints have shown that the order does not matter.
#[test]
fn every_combination_of_three_endpoints_is_as_the_rules_say() {
    let all = Traits::all(&[Hint::None, Hint::Us, Hint::Others]);
    let endpoints: [Vec<Endpoint>; 3] =
        [1, 2, 3].map(|last| all.iter().map(|traits| traits.endpoint(last)).collect());
    for a in 0..all.len() {
        for b in a..all.len() {
            for c in b..all.len() {
                let of = [&endpoints[0][a], &endpoints[1][b], &endpoints[2][c]];
                check(&[all[a], all[b], all[c]], &of, &[true]);
            }
        }
    }
}

#[test]
fn the_topology_is_told() {
    let ready = Traits {
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        node_hint: Hint::Us,
        zone_hint: Hint::Us,
    };
    let by_zone = Traits {
        node_hint: Hint::Others,
        ..ready
    };
    let by_none = Traits {
        zone_hint: Hint::None,
        ..by_zone
    };
    let uses = ALL_USES[0];
    for (traits, topology) in [
        (&[ready, by_zone][..], Topology::SameNode),
        (&[by_zone, by_zone], Topology::SameZone),
        (&[by_zone, by_none], Topology::Anywhere),
        (&[], Topology::Anywhere),
    ] {
        let endpoints: Vec<Endpoint> = traits.iter().map(|traits| traits.endpoint(1)).collect();
        let candidates: Vec<Candidate<'_>> = (endpoints.iter())
            .map(|endpoint| Candidate {
                endpoint,
                port: 80,
                local: false,
            })
            .collect();
        assert_eq!(
            categorize(&candidates, uses, NODE, Some(ZONE)).topology,
            topology
        );
    }
}

fn slice(name: &str, ports: &[(&str, Protocol, u16)], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("shop", name),
        service: None,
        family: endpoints.first().map(|endpoint| Family::of(&endpoint.addr)),
        ports: (ports.iter())
            .map(|&(name, protocol, port)| EndpointPort {
                name: name.into(),
                protocol,
                port,
            })
            .collect(),
        endpoints,
        last_change_trigger: None,
    }
}

fn endpoint(addr: &str, node: Option<&str>) -> Endpoint {
    Endpoint {
        addr: addr.parse().expect("an address"),
        ready: true,
        serving: true,
        terminating: false,
        node: node.map(Arc::from),
        zone: None,
        hints: None,
    }
}

fn found(slices: &[EndpointSlice], port: &str, protocol: Protocol, family: Family) -> Vec<String> {
    let candidates = candidates(slices.iter(), (port, protocol), family, NODE);
    let text = |c: &Candidate<'_>| {
        let local = if c.local { " here" } else { "" };
        format!("{} {}{local}", c.endpoint.addr, c.port)
    };
    candidates.iter().map(text).collect()
}

#[test]
fn slices_are_merged_by_port_name_protocol_and_family() {
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let slices = [
        slice(
            "a",
            &[("http", tcp, 8080), ("dns", udp, 53), ("dns", tcp, 5353)],
            vec![endpoint("10.0.0.3", None), endpoint("10.0.0.1", Some(NODE))],
        ),
        slice(
            "b",
            &[("http", tcp, 9090)],
            vec![endpoint("10.0.0.2", Some("there"))],
        ),
        slice(
            "c",
            &[("http", tcp, 8080)],
            vec![endpoint("fd00::1", Some(NODE))],
        ),
        slice("d", &[("http", tcp, 8080)], Vec::new()),
    ];
    assert_eq!(
        found(&slices, "http", tcp, Family::V4),
        ["10.0.0.1 8080 here", "10.0.0.2 9090", "10.0.0.3 8080"]
    );
    assert_eq!(
        found(&slices, "http", tcp, Family::V6),
        ["fd00::1 8080 here"]
    );
    assert_eq!(
        found(&slices, "dns", udp, Family::V4),
        ["10.0.0.1 53 here", "10.0.0.3 53"]
    );
    assert_eq!(
        found(&slices, "dns", tcp, Family::V4),
        ["10.0.0.1 5353 here", "10.0.0.3 5353"]
    );
    assert!(found(&slices, "http", udp, Family::V4).is_empty());
    assert!(found(&slices, "", tcp, Family::V4).is_empty());
}

#[test]
fn duplicates_collapse_and_one_that_is_here_wins() {
    let port = [("", Protocol::Tcp, 80)];
    let there = endpoint("10.0.0.1", Some("there"));
    let here = endpoint("10.0.0.1", Some(NODE));
    let unready = |e: &Endpoint| Endpoint {
        ready: false,
        ..e.clone()
    };
    for (copies, expected, ready) in [
        (vec![there.clone(), here.clone()], "10.0.0.1 80 here", true),
        (vec![here.clone(), there.clone()], "10.0.0.1 80 here", true),
        (vec![unready(&there), there.clone()], "10.0.0.1 80", false),
        (
            vec![unready(&here), here.clone(), unready(&there)],
            "10.0.0.1 80 here",
            true,
        ),
    ] {
        let slices: Vec<_> = copies
            .into_iter()
            .map(|e| slice("s", &port, vec![e]))
            .collect();
        assert_eq!(found(&slices, "", Protocol::Tcp, Family::V4), [expected]);
        let kept = candidates(slices.iter(), ("", Protocol::Tcp), Family::V4, NODE);
        assert_eq!(kept[0].endpoint.ready, ready);
    }
    let two_ports = [("", Protocol::Tcp, 80), ("", Protocol::Tcp, 81)];
    let slices = [slice("s", &two_ports, vec![here])];
    assert_eq!(
        found(&slices, "", Protocol::Tcp, Family::V4),
        ["10.0.0.1 80 here", "10.0.0.1 81 here"]
    );
}

#[test]
fn what_a_port_uses_depends_on_policies_and_on_ways_from_outside() {
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    let v4: IpAddr = "192.0.2.1".parse().expect("an address");
    for (internal, external, node_port, external_ip, balancer, uses) in [
        (cluster, cluster, false, false, false, (true, false)),
        (cluster, local, false, false, false, (true, false)),
        (cluster, local, true, false, false, (true, true)),
        (cluster, local, false, true, false, (true, true)),
        (cluster, local, false, false, true, (true, true)),
        (cluster, cluster, true, true, true, (true, false)),
        (local, cluster, false, false, false, (false, true)),
        (local, local, false, false, false, (false, true)),
        (local, cluster, true, false, false, (true, true)),
        (local, cluster, false, true, false, (true, true)),
        (local, cluster, false, false, true, (true, true)),
    ] {
        let port = ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: node_port.then_some(30080),
        };
        let service = Service {
            name: ObjectName::new("shop", "cart"),
            service_type: ServiceType::LoadBalancer,
            left_alone: None,
            cluster_ips: Vec::new(),
            ports: vec![port.clone()],
            internal_policy: internal,
            external_policy: external,
            external_ips: external_ip.then_some(v4).into_iter().collect(),
            load_balancer_ips: balancer.then_some(v4).into_iter().collect(),
            source_ranges: Vec::new(),
            affinity: Affinity::None,
            health_check_node_port: None,
            publish_not_ready_addresses: false,
            selection: BackendSelection::Random,
            warnings: Vec::new(),
        };
        let got = Uses::of(&service, &port, Family::V4);
        assert_eq!((got.cluster, got.local), uses, "{service:#?}");
        // Addresses of the other family are no way from outside to this one; node ports are for both.
        let other = Uses::of(&service, &port, Family::V6);
        let without = Service {
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ..service
        };
        assert_eq!(other, Uses::of(&without, &port, Family::V4));
    }
}
