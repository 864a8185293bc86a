use k8s_openapi::api::discovery::v1 as api;
use serde_json::json;

use super::*;

fn slice(name: &str, namespace: &str, addresses: &[&str], ready: bool) -> Object {
    let family = if addresses.iter().any(|addr| addr.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|addr| json!({ "addresses": [addr], "conditions": { "ready": ready, "serving": ready } }))
        .collect();
    let object: api::EndpointSlice = serde_json::from_value(json!({
        "metadata": { "namespace": namespace, "name": name,
            "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": family, "endpoints": endpoints,
        "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
    }))
    .unwrap();
    Object::EndpointSlice(EndpointSlice::reduce(&object).unwrap())
}

fn config(url: &str) -> Config {
    Config::new(url.parse().unwrap())
}

/// The servers in the order in which they are tried.
fn turns(servers: &Servers, url: &str) -> Vec<String> {
    let mut turns = Vec::new();
    loop {
        let mut config = config(url);
        servers.choose(&mut config);
        let chosen = display(&config.cluster_url);
        if turns.contains(&chosen) {
            return turns;
        }
        servers.failed(&chosen);
        turns.push(chosen);
    }
}

const CONFIGURED: &str = "https://api.example.com:443";

#[test]
fn the_clusters_own_servers_come_after_the_configured_one_and_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bootstrap = Bootstrap {
        servers: Vec::new(),
        memory: Some(directory.path().join("weir/apiservers.json")),
    };
    let servers = Servers::new(bootstrap.clone());
    assert_eq!(turns(&servers, CONFIGURED), [CONFIGURED]);
    assert!(!servers.failed(CONFIGURED), "there is no other");
    servers.observe(&Change::Replace {
        kind: Kind::EndpointSlice,
        objects: vec![
            slice(
                "kubernetes",
                "default",
                &["192.0.2.2", "192.0.2.1", "127.0.0.1"],
                true,
            ),
            slice("kubernetes-v6", "default", &["2001:db8::1"], true),
            slice("kubernetes", "elsewhere", &["192.0.2.66"], true),
        ],
        keep: Vec::new(),
    });
    let all = [
        CONFIGURED,
        "https://192.0.2.1:6443",
        "https://192.0.2.2:6443",
        "https://[2001:db8::1]:6443",
    ];
    assert_eq!(turns(&servers, CONFIGURED), all);
    assert_eq!(turns(&Servers::new(bootstrap.clone()), CONFIGURED), all);

    servers.observe(&Change::Apply(slice(
        "kubernetes",
        "default",
        &["192.0.2.3"],
        true,
    )));
    let deleted = ObjectName {
        namespace: "default".into(),
        name: "kubernetes-v6".into(),
    };
    servers.observe(&Change::Delete(Kind::EndpointSlice, deleted));
    let now = [CONFIGURED, "https://192.0.2.3:6443"];
    assert_eq!(turns(&Servers::new(bootstrap.clone()), CONFIGURED), now);

    // The last that were known are better than none.
    servers.observe(&Change::Apply(slice(
        "kubernetes",
        "default",
        &["192.0.2.3"],
        false,
    )));
    assert_eq!(turns(&Servers::new(bootstrap.clone()), CONFIGURED), now);
    assert_eq!(
        turns(&servers, "http://127.0.0.1:8001"),
        ["http://127.0.0.1:8001"]
    );

    let memory = bootstrap.memory.clone().unwrap();
    let left = fs::read_dir(memory.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "no draft is left");
    fs::write(memory, "{").unwrap();
    assert_eq!(turns(&Servers::new(bootstrap), CONFIGURED), [CONFIGURED]);
}

#[test]
fn named_servers_stand_for_the_configured_one() {
    let servers = Servers::new(Bootstrap {
        servers: ["https://a:1", "https://b:2"]
            .map(|url| url.parse().unwrap())
            .to_vec(),
        memory: None,
    });
    servers.observe(&Change::Apply(slice(
        "kubernetes",
        "default",
        &["192.0.2.1"],
        true,
    )));
    let all = ["https://a:1", "https://b:2", "https://192.0.2.1:6443"];
    assert_eq!(turns(&servers, CONFIGURED), all);
    // A failure that comes late, of a server whose turn is over, changes nothing.
    let mut chosen = config(CONFIGURED);
    servers.choose(&mut chosen);
    assert!(servers.failed("https://b:2"));
    let mut again = config(CONFIGURED);
    servers.choose(&mut again);
    assert_eq!(again.cluster_url, chosen.cluster_url);
}

#[test]
fn a_server_that_was_learned_must_have_the_certificate_of_the_configured_one() {
    let servers = Servers::new(Bootstrap::default());
    servers.observe(&Change::Apply(slice(
        "kubernetes",
        "default",
        &["192.0.2.1"],
        true,
    )));
    let name = |url: &str, given: Option<&str>| {
        let mut config = config(url);
        config.tls_server_name = given.map(str::to_owned);
        servers.choose(&mut config);
        config.tls_server_name
    };
    assert_eq!(name(CONFIGURED, None), None);
    assert!(servers.failed(CONFIGURED));
    assert_eq!(name(CONFIGURED, None).as_deref(), Some("api.example.com"));
    assert_eq!(
        name("https://[2001:db8::9]:1", None).as_deref(),
        Some("2001:db8::9")
    );
    assert_eq!(name(CONFIGURED, Some("given")).as_deref(), Some("given"));
}
