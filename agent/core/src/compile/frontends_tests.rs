use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weir_abi::{ServiceKey, Verdict};

use super::super::testing::{NODE, apply_node, apply_service, apply_slice, cart};
use super::super::{DesiredService, SourceRange, service};
use super::*;
use crate::settings::{NodePortAddresses, Settings};

/// An endpoint: where it is and how it is.
#[derive(Clone, Copy, Debug)]
struct Situated {
    here: bool,
    condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Condition {
    Ready,
    Terminating,
    Unready,
}

const ALL: [Situated; 6] = {
    use Condition::{Ready, Terminating, Unready};
    const fn at(here: bool, condition: Condition) -> Situated {
        Situated { here, condition }
    }
    [
        at(true, Ready),
        at(true, Terminating),
        at(true, Unready),
        at(false, Ready),
        at(false, Terminating),
        at(false, Unready),
    ]
};

/// The address of one of [`ALL`].
fn endpoint_addr(index: usize, v6: bool) -> String {
    if v6 {
        format!("fd00::{}", index + 1)
    } else {
        format!("10.0.0.{}", index + 1)
    }
}

fn endpoint(index: usize, v6: bool) -> Value {
    let Situated { here, condition } = ALL[index];
    json!({
        "addresses": [endpoint_addr(index, v6)],
        "nodeName": if here { NODE } else { "n2" },
        "conditions": {
            "ready": condition == Condition::Ready,
            "serving": condition != Condition::Unready,
            "terminating": condition == Condition::Terminating,
        },
    })
}

/// What is to become of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    To(BTreeSet<IpAddr>),
    /// There is no endpoint anywhere: refused.
    Refused,
    /// There are endpoints, but on other nodes: dropped.
    Dropped,
}

/// A kind of frontend.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    ClusterIp,
    NodePort,
    LoopbackNodePort,
    LoadBalancer,
    ExternalIp,
}

/// The rules, one by one as the anchors' page has them: nothing of the code under test is in here.
fn fate(present: &[usize], (kind, outside): (Type, bool), local: (bool, bool), v6: bool) -> Fate {
    let (internal_local, external_local) = local;
    let endpoints: Vec<(usize, Situated)> = present.iter().map(|&i| (i, ALL[i])).collect();
    let those = |wanted: &dyn Fn(&Situated) -> bool| -> BTreeSet<IpAddr> {
        let wanted = endpoints.iter().filter(|(_, endpoint)| wanted(endpoint));
        wanted
            .map(|(i, _)| endpoint_addr(*i, v6).parse().expect("an address"))
            .collect()
    };
    // Ready ones, or else those that are serving and terminating.
    let ready = those(&|e| e.condition == Condition::Ready);
    let lingering = those(&|e| e.condition == Condition::Terminating);
    let everywhere = if ready.is_empty() { lingering } else { ready };
    let ready_here = those(&|e| e.here && e.condition == Condition::Ready);
    let lingering_here = those(&|e| e.here && e.condition == Condition::Terminating);
    let here = if ready_here.is_empty() {
        lingering_here
    } else {
        ready_here
    };

    let only_here = match kind {
        Type::ClusterIp => internal_local,
        // From within, external addresses short-circuit to policy Cluster.
        _ => outside && external_local,
    };
    if everywhere.is_empty() && here.is_empty() {
        Fate::Refused
    } else if !only_here {
        Fate::To(everywhere)
    } else if here.is_empty() {
        Fate::Dropped
    } else {
        Fate::To(here)
    }
}

/// Every frontend, and what becomes of its traffic.
fn fates(desired: &DesiredService) -> BTreeMap<ServiceKey, Fate> {
    let mut fates = BTreeMap::new();
    for port in &desired.ports {
        for frontend in &port.frontends {
            assert_eq!(
                frontend.list.is_some(),
                frontend.verdict == Verdict::Translate
            );
            let fate = match frontend.verdict {
                Verdict::Translate => {
                    let list = &port.lists[frontend.list.expect("a list")];
                    Fate::To(list.iter().map(|backend| backend.addr.into()).collect())
                }
                Verdict::NoEndpoints => Fate::Refused,
                Verdict::NoLocalEndpoints => Fate::Dropped,
                other => panic!("verdict {other:?}"),
            };
            assert_eq!(
                fates.insert(frontend.key, fate),
                None,
                "{:?} twice",
                frontend.key
            );
        }
    }
    fates
}

fn key(addr: &str, port: u16, proto: u8, outside: bool) -> ServiceKey {
    ServiceKey {
        addr: addr.parse::<IpAddr>().expect("an address").into(),
        port_be: port.to_be(),
        proto,
        scope: if outside {
            scope::EXTERNAL
        } else {
            scope::INTERNAL
        },
    }
}

const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;

/// The address, port and scopes of every kind of frontend in one family.
fn frontends(v6: bool) -> [(Type, &'static str, u16, &'static [bool]); 5] {
    let both: &[bool] = &[false, true];
    let of = |v4, six| if v6 { six } else { v4 };
    [
        (Type::ClusterIp, of("10.96.0.1", "fd00:96::1"), PORT, both),
        (
            Type::NodePort,
            of("192.0.2.1", "2001:db8::1"),
            NODE_PORT,
            both,
        ),
        (
            Type::LoopbackNodePort,
            of("127.0.0.1", "::1"),
            NODE_PORT,
            &[false],
        ),
        (
            Type::LoadBalancer,
            of("203.0.113.1", "2001:db8:1::1"),
            PORT,
            both,
        ),
        (
            Type::ExternalIp,
            of("198.51.100.1", "2001:db8:2::1"),
            PORT,
            both,
        ),
    ]
}

fn spec(protocol: &str, (internal_local, external_local): (bool, bool)) -> Value {
    let policy = |local| if local { "Local" } else { "Cluster" };
    json!({
        "type": "LoadBalancer",
        "clusterIPs": ["10.96.0.1", "fd00:96::1"],
        "ports": [{"name": "p", "port": PORT, "nodePort": NODE_PORT, "protocol": protocol}],
        "externalIPs": ["198.51.100.1", "2001:db8:2::1"],
        "internalTrafficPolicy": policy(internal_local),
        "externalTrafficPolicy": policy(external_local),
    })
}

const BALANCERS: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];

/// A node with a primary address of each family, and node ports on loopback too.
fn node() -> Cluster {
    let mut cluster = Cluster::new(NODE);
    apply_node(&mut cluster, &["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
    cluster.set_settings(Settings {
        loopback_node_ports: true,
        ..Settings::default()
    });
    cluster
}

#[test]
fn every_frontend_in_every_situation_is_as_the_rules_say() {
    let subsets = (0..1_usize << ALL.len()).map(|subset| -> Vec<usize> {
        (0..ALL.len())
            .filter(|index| subset & (1 << index) != 0)
            .collect()
    });
    let subsets: Vec<Vec<usize>> = subsets.collect();
    for (protocol, proto) in [("TCP", 6), ("UDP", 17), ("SCTP", 132)] {
        for local in [(false, false), (false, true), (true, false), (true, true)] {
            let mut cluster = node();
            apply_service(&mut cluster, &spec(protocol, local), &BALANCERS);
            for (number, v4_present) in subsets.iter().enumerate() {
                // The other family is in another situation.
                let v6_present = &subsets[subsets.len() - 1 - number];
                let ports = json!([{"name": "p", "port": 8080, "protocol": protocol}]);
                for (name, present, v6) in [("a", v4_present, false), ("b", v6_present, true)] {
                    let endpoints: Vec<Value> = present.iter().map(|&i| endpoint(i, v6)).collect();
                    apply_slice(&mut cluster, name, &ports, &endpoints);
                }
                let mut expected = BTreeMap::new();
                for (present, v6) in [(v4_present, false), (v6_present, true)] {
                    for (kind, addr, port, scopes) in frontends(v6) {
                        for &outside in scopes {
                            let fate = fate(present, (kind, outside), local, v6);
                            expected.insert(key(addr, port, proto, outside), fate);
                        }
                    }
                }
                let found = fates(&service(&cluster, &cart()));
                assert_eq!(found, expected, "{protocol} {local:?} {v4_present:?}");
            }
        }
    }
}

#[test]
fn only_cluster_ips_refuse_ports_that_nobody_has() {
    let mut cluster = node();
    apply_service(&mut cluster, &spec("TCP", (false, false)), &BALANCERS);
    let desired = service(&cluster, &cart());
    for v6 in [false, true] {
        for (kind, addr, port, scopes) in frontends(v6) {
            for &outside in scopes {
                let mut all = desired.ports[0].frontends.iter();
                let frontend = all
                    .find(|f| f.key == key(addr, port, 6, outside))
                    .expect(addr);
                assert_eq!(frontend.open, kind != Type::ClusterIp, "{addr}");
                assert!(!frontend.guarded);
            }
        }
    }
}

fn addresses(cluster: &Cluster) -> BTreeSet<String> {
    let keys = fates(&service(cluster, &cart())).into_keys();
    keys.map(|key| {
        let scope = if key.scope == scope::EXTERNAL {
            " outside"
        } else {
            ""
        };
        format!(
            "{} {}{scope}",
            IpAddr::from(key.addr),
            u16::from_be(key.port_be)
        )
    })
    .collect()
}

fn texts(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_family_without_a_cluster_ip_is_not_served() {
    let mut cluster = node();
    let mut spec = spec("TCP", (false, false));
    spec["clusterIPs"] = json!(["10.96.0.1"]);
    apply_service(&mut cluster, &spec, &BALANCERS);
    assert!(
        addresses(&cluster)
            .iter()
            .all(|address| !address.contains(':'))
    );
    assert_eq!(addresses(&cluster).len(), 9);
}

#[test]
fn the_operator_chooses_addresses() {
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}],
        "externalIPs": ["198.51.100.1"],
    });
    let mut cluster = Cluster::new(NODE);
    apply_service(&mut cluster, &spec, &[]);
    let cluster_ip = ["10.96.0.1 80", "10.96.0.1 80 outside"];
    let external_ip = ["198.51.100.1 80", "198.51.100.1 80 outside"];
    let all = |parts: &[&[&str]]| texts(&parts.concat());
    // Nothing is known of the node yet.
    assert_eq!(addresses(&cluster), all(&[&cluster_ip, &external_ip]));
    let dirty = apply_node(&mut cluster, &["192.0.2.1", "2001:db8::1"]);
    assert!(dirty.services.contains(&cart()));
    let primary = ["192.0.2.1 30080", "192.0.2.1 30080 outside"];
    assert_eq!(
        addresses(&cluster),
        all(&[&cluster_ip, &external_ip, &primary])
    );
    assert!(
        apply_node(&mut cluster, &["192.0.2.1", "2001:db8::2"])
            .services
            .contains(&cart())
    );
    assert!(apply_node(&mut cluster, &["192.0.2.1", "2001:db8::2"]).is_empty());

    let listed = |ips: &[&str]| {
        let ips = ips.iter().map(|ip| ip.parse().expect("an address"));
        NodePortAddresses::Listed(ips.collect())
    };
    let settings = Settings {
        node_port_addresses: listed(&["192.0.2.7", "127.0.0.1", "192.0.2.7", "2001:db8::1"]),
        loopback_node_ports: false,
        external_ips: false,
    };
    assert!(
        cluster
            .set_settings(settings.clone())
            .services
            .contains(&cart())
    );
    assert!(cluster.set_settings(settings).is_empty());
    let chosen = [
        "192.0.2.7 30080",
        "192.0.2.7 30080 outside",
        "127.0.0.1 30080",
    ];
    assert_eq!(addresses(&cluster), all(&[&cluster_ip, &chosen]));
    // What the node object says does not matter any more.
    assert!(apply_node(&mut cluster, &["192.0.2.9"]).is_empty());
}

#[test]
fn settings_concern_only_services_that_depend_on_them() {
    let mut cluster = node();
    let plain = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]});
    apply_service(&mut cluster, &plain, &[]);
    assert!(apply_node(&mut cluster, &["192.0.2.5"]).is_empty());
    let settings = Settings {
        external_ips: false,
        node_port_addresses: NodePortAddresses::Listed(Vec::new()),
        ..Settings::default()
    };
    assert!(cluster.set_settings(settings).is_empty());
    assert!(
        cluster
            .settings()
            .node_port_addresses(None, Family::V4)
            .is_empty()
    );
}

/// The ranges and whether the load balancer's frontends of each family are guarded.
fn guards(cluster: &Cluster) -> (Vec<SourceRange>, [bool; 2]) {
    let desired = service(cluster, &cart());
    let port = &desired.ports[0];
    let guarded = BALANCERS.map(|addr| {
        let addr = addr.parse::<IpAddr>().expect("an address").into();
        let of_balancer = port.frontends.iter().filter(|f| f.key.addr == addr);
        let guarded: BTreeSet<bool> = of_balancer.map(|f| f.guarded).collect();
        assert_eq!(guarded.len(), 1, "both scopes alike");
        guarded.contains(&true)
    });
    let others = port.frontends.iter().filter(|f| f.guarded);
    assert_eq!(
        others.count(),
        2 * guarded.iter().filter(|guarded| **guarded).count()
    );
    (port.source_ranges.clone(), guarded)
}

#[test]
fn source_ranges_guard_the_load_balancers_addresses_and_no_others() {
    let range = |addr: &str, prefix_len: u32| SourceRange {
        addr: addr.parse::<IpAddr>().expect("an address").into(),
        prefix_len,
    };
    for (ranges, expected, guarded) in [
        (json!([]), vec![], [false, false]),
        (json!(["x", "10.0.0.1"]), vec![], [false, false]),
        (
            json!([" 10.0.0.0/8 "]),
            vec![range("10.0.0.0", 104)],
            [true, false],
        ),
        (
            json!(["fd00::/8", "x"]),
            vec![range("fd00::", 8)],
            [false, true],
        ),
        (
            json!(["10.0.0.0/8", "fd00::/8"]),
            vec![range("10.0.0.0", 104), range("fd00::", 8)],
            [true, true],
        ),
        // The node itself may come: so may what it sends from the load balancer's address.
        (
            json!(["192.0.2.0/24"]),
            vec![range("192.0.2.0", 120), range("203.0.113.1", 128)],
            [true, false],
        ),
        (
            json!(["192.0.2.0/30", "2001:db8::/64"]),
            vec![
                range("192.0.2.0", 126),
                range("203.0.113.1", 128),
                range("2001:db8::", 64),
                range("2001:db8:1::1", 128),
            ],
            [true, true],
        ),
    ] {
        let mut cluster = node();
        let mut spec = spec("TCP", (false, false));
        spec["loadBalancerSourceRanges"] = ranges.clone();
        // The balancer's address among the external ones is the balancer's nevertheless.
        spec["externalIPs"] = json!(["198.51.100.1", "203.0.113.1"]);
        apply_service(&mut cluster, &spec, &BALANCERS);
        assert_eq!(guards(&cluster), (expected, guarded), "{ranges}");
    }
    // Without a load balancer the ranges mean nothing.
    let mut cluster = node();
    let mut spec = spec("TCP", (false, false));
    spec["loadBalancerSourceRanges"] = json!(["10.0.0.0/8"]);
    apply_service(&mut cluster, &spec, &[]);
    let port = &service(&cluster, &cart()).ports[0];
    assert!(port.source_ranges.is_empty() && port.frontends.iter().all(|f| !f.guarded));
    // The node's address has a say in it.
    apply_service(&mut cluster, &spec, &BALANCERS);
    assert!(
        apply_node(&mut cluster, &["10.0.0.1"])
            .services
            .contains(&cart())
    );
    assert_eq!(guards(&cluster).0.len(), 2);
}

#[test]
fn affinity_and_selection_reach_the_port() {
    let mut cluster = node();
    let mut spec = spec("TCP", (false, false));
    apply_service(&mut cluster, &spec, &BALANCERS);
    assert_eq!(service(&cluster, &cart()).ports[0].affinity_timeout, 0);
    spec["sessionAffinity"] = json!("ClientIP");
    apply_service(&mut cluster, &spec, &BALANCERS);
    assert_eq!(service(&cluster, &cart()).ports[0].affinity_timeout, 10800);
    spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 5}});
    apply_service(&mut cluster, &spec, &BALANCERS);
    assert_eq!(service(&cluster, &cart()).ports[0].affinity_timeout, 5);
}
