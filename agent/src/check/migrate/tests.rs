//! What each mode's rules say. That the real kube-proxy's are read is tested in `tests/`.

use super::{
    node::Facts,
    rules::{Found, Mode},
    *,
};

const IPTABLES: &str = r#"
*nat
:KUBE-SERVICES - [0:0]
-A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "shop/web:http" -m tcp --dport 30080 -j KUBE-EXT-A
-A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web:http" -m tcp --dport 30080 -j KUBE-EXT-A
-A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment "shop/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -d 203.0.113.7/32 -p tcp -m comment --comment "shop/web:http loadbalancer IP" -m tcp --dport 80 -j KUBE-EXT-A
-A KUBE-SERVICES -d fd00::53/128 -p udp -m comment --comment "kube-system/dns cluster IP" -m udp --dport 53 -j KUBE-SVC-B
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-A -m comment --comment "shop/web:http -> 10.244.0.2:8080" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --rsource -j KUBE-SEP-A
COMMIT
*filter
-A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web:http health check node port" -m tcp --dport 31000 -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.81/32 -p tcp -m comment --comment "shop/empty has no endpoints" -m tcp --dport 80 -j REJECT
-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "shop/empty has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30081 -j REJECT
COMMIT
"#;

const NFTABLES: &str = r#"{"nftables": [
  {"metainfo": {"version": "1.0.6"}},
  {"map": {"family": "ip", "name": "service-ips", "table": "kube-proxy", "elem": [
    [{"concat": ["10.96.0.80", "tcp", 80]}, {"goto": {"target": "service-ULMVA6XW-shop/web/tcp/http"}}],
    [{"concat": ["203.0.113.7", "tcp", 80]}, {"goto": {"target": "external-ULMVA6XW-shop/web/tcp/http"}}]]}},
  {"map": {"family": "ip", "name": "service-nodeports", "elem": [
    [{"concat": ["tcp", 30080]}, {"goto": {"target": "external-ULMVA6XW-shop/web/tcp/http"}}]]}},
  {"map": {"family": "ip", "name": "no-endpoint-services", "elem": [
    [{"elem": {"val": {"concat": ["10.96.0.81", "udp", 53]}, "comment": "shop/empty"}}, {"goto": {"target": "reject-chain"}}]]}},
  {"map": {"family": "ip", "name": "firewall-ips", "elem": [
    [{"concat": ["203.0.113.7", "tcp", 80]}, {"goto": {"target": "firewall-ULMVA6XW-shop/web/tcp/http"}}]]}},
  {"set": {"family": "ip", "name": "affinity-UHEGFW77-shop/web/tcp/http__10.244.0.2/8080"}}
]}"#;

fn said(found: &Found) -> Vec<String> {
    found
        .frontends
        .iter()
        .map(|frontend| {
            let addr = frontend
                .addr
                .map_or_else(String::new, |addr| addr.to_string());
            format!(
                "{} {:?} {addr} {} {}",
                frontend.service, frontend.kind, frontend.port, frontend.protocol
            )
        })
        .collect()
}

#[test]
fn iptables_rules_name_their_services() {
    let mut found = Found::default();
    found.iptables(IPTABLES, Mode::IptablesLegacy);
    assert_eq!(
        said(&found),
        [
            "shop/web:http NodePort  30080 tcp",
            "shop/web:http ClusterIp 10.96.0.80 80 tcp",
            "shop/web:http External 203.0.113.7 80 tcp",
            "kube-system/dns ClusterIp fd00::53 53 udp",
            "shop/empty ClusterIp 10.96.0.81 80 tcp",
            "shop/empty NodePort  30081 tcp",
        ]
    );
    assert_eq!(
        (found.modes, found.affinity),
        (vec![Mode::IptablesLegacy], vec!["shop/web:http".to_owned()])
    );
}

#[test]
fn nftables_maps_name_their_services() {
    let (mut found, mut unknown) = (Found::default(), Vec::new());
    found.nftables(NFTABLES, &mut unknown);
    assert_eq!(
        said(&found),
        [
            "shop/web:http ClusterIp 10.96.0.80 80 tcp",
            "shop/web:http External 203.0.113.7 80 tcp",
            "shop/web:http NodePort  30080 tcp",
            "shop/empty ClusterIp 10.96.0.81 53 udp",
        ]
    );
    assert_eq!(found.affinity, ["shop/web:http"]);
    assert_eq!(unknown, Vec::<String>::new());
    found.nftables("{", &mut unknown);
    assert_eq!(unknown.len(), 1);
}

#[test]
fn ipvs_has_addresses_without_names() {
    let mut found = Found::default();
    found.ipvs(
        "IP Virtual Server version 1.2.1 (size=4096)\n\
         Prot LocalAddress:Port Scheduler Flags\n\
         \x20 -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
         TCP  0A600001:01BB rr\n\
         \x20 -> C0000201:192B      Masq    1      0          0\n\
         UDP  [fd00:0010:0096:0000:0000:0000:0000:000a]:0035 rr\n",
    );
    assert_eq!(
        said(&found),
        [
            "10.96.0.1:443/tcp Unknown 10.96.0.1 443 tcp",
            "[fd00:10:96::a]:53/udp Unknown fd00:10:96::a 53 udp",
        ]
    );
}

fn migration(text: &str, mode: Mode, node: &Facts) -> Migration {
    let mut found = Found::default();
    match mode {
        Mode::Ipvs => found.ipvs(text),
        Mode::Nftables => found.nftables(text, &mut Vec::new()),
        _ => found.iptables(text, mode),
    }
    let mut migration = Migration::default();
    migration.conclude(found, node);
    migration
}

#[test]
fn node_ports_and_affinity_change_service_by_service() {
    let node = Facts {
        ephemeral: (32768, 60999),
        localhost: vec![30080, 30080, 5432],
        route_localnet: Some(1),
        ..Facts::default()
    };
    let found = migration(IPTABLES, Mode::IptablesNft, &node);
    let of = |name: &str| {
        found
            .services
            .iter()
            .find(|service| service.name == name)
            .unwrap()
    };
    let web = of("shop/web:http").changes.join("; ");
    assert!(
        web.contains("node port 30080 is served on the node's primary addresses only"),
        "{web}"
    );
    assert!(
        web.contains("2 connections use node port 30080 at 127.0.0.1"),
        "{web}"
    );
    assert!(web.contains("affinity begins anew"), "{web}");
    assert_eq!(of("kube-system/dns").changes, Vec::<String>::new());
    assert!(
        found
            .after
            .iter()
            .any(|step| step.contains("kube-proxy --cleanup"))
    );
    assert!(
        found
            .after
            .iter()
            .any(|step| step.contains("route_localnet"))
    );
    assert!(
        !found
            .before
            .iter()
            .any(|step| step.contains("ip_local_port_range"))
    );
    assert_eq!(found.back.len(), 2);

    let chosen = Facts {
        has_node_port_addresses: true,
        ..node
    };
    let web = migration(IPTABLES, Mode::IptablesNft, &chosen);
    let web = &web
        .services
        .iter()
        .find(|service| service.name == "shop/web:http")
        .unwrap()
        .changes;
    assert!(
        !web.iter().any(|change| change.contains("primary")),
        "{web:?}"
    );
}

#[test]
fn nftables_users_notice_nothing_but_affinity() {
    let node = Facts {
        ephemeral: (30000, 60999),
        rp_filter: Some(1),
        ..Facts::default()
    };
    let found = migration(NFTABLES, Mode::Nftables, &node);
    let web = &found
        .services
        .iter()
        .find(|service| service.name == "shop/web:http")
        .unwrap()
        .changes;
    assert!(web.len() == 1 && web[0].contains("affinity"), "{web:?}");
    let before = found.before.join("; ");
    assert!(
        before.contains("Node ports 30080 to 30080") && before.contains("rp_filter"),
        "{before}"
    );
    assert!(found.after[0].contains("nft delete table ip kube-proxy"));
}

#[test]
fn ipvs_users_lose_connections_and_are_told() {
    let node = Facts {
        has_ipvs_device: true,
        ..Facts::default()
    };
    let found = migration("TCP  0A600001:01BB rr\n", Mode::Ipvs, &node);
    assert!(
        found
            .changes
            .iter()
            .any(|change| change.contains("IPVS end"))
    );
    assert!(
        found
            .after
            .iter()
            .any(|step| step.contains("ip link delete kube-ipvs0"))
    );
    assert!(found.services[0].changes[0].contains("scheduler"));
}

#[test]
fn where_nothing_is_there_is_nothing_to_do() {
    let mut migration = Migration::default();
    migration.conclude(Found::default(), &Facts::default());
    assert_eq!(migration, Migration::default());
}
