//! Stories of one node: real agents, real sockets, every family, client and wiring.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    agent::{self, Agent, peer_command},
    manifests::{self, Endpoint, Manifests, endpoints_of},
};
use weir_world::{
    CgroupDriver, Peer, Pod, PodSpec, Wiring, World,
    peer::{Exchange, LoadReport, LoadSpec},
};

const V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);
const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
const SERVERS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// A node with three servers on port 8080 and a client, and the service `web` on port 80.
struct Shop {
    world: World,
    manifests: Manifests,
    client: Peer,
    /// They serve as long as they are kept.
    _servers: Vec<Peer>,
}

impl Shop {
    fn open() -> Result<Self> {
        Self::open_as(Wiring::Routed, CgroupDriver::Cgroupfs)
    }

    fn open_as(wiring: Wiring, driver: CgroupDriver) -> Result<Self> {
        let world = World::builder(peer_command()?)
            .wiring(wiring)
            .cgroup_driver(driver)
            .pods(SERVERS.map(PodSpec::new))
            .pod(PodSpec::new("client"))
            .build()?;
        let servers = SERVERS.map(|name| -> Result<Peer> {
            let peer = world.pod(name)?.peer()?;
            peer.echo(8080)?;
            Ok(peer)
        });
        let manifests = Manifests::new(world.nodes()[0].run_directory())?;
        let shop = Self {
            client: world.pod("client")?.peer()?,
            manifests,
            _servers: servers.into_iter().collect::<Result<_>>()?,
            world,
        };
        shop.manifests
            .service("web", &ADDRESSES, &shop.endpoints(&SERVERS)?)?;
        Ok(shop)
    }

    fn node(&self) -> &weir_world::Node {
        &self.world.nodes()[0]
    }

    fn endpoints(&self, servers: &[&str]) -> Result<Vec<Endpoint>> {
        let pods = servers.iter().map(|name| self.world.pod(name));
        let pods: Vec<Pod> = pods.collect::<weir_world::Result<_>>()?;
        Ok(endpoints_of(&pods.iter().collect::<Vec<_>>(), 8080))
    }

    fn agent(&self) -> Result<Agent> {
        Agent::start(self.node(), self.manifests.path())
    }

    /// Load on the service, one family each, until it is stopped.
    fn load(&self, to: SocketAddr) -> Result<weir_world::peer::Job<LoadReport>> {
        let load = LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60))
            .workers(2)
            .pause(Duration::from_micros(200));
        Ok(self.client.load(load)?)
    }
}

fn both() -> [SocketAddr; 2] {
    [(V4, 80).into(), (V6, 80).into()]
}

/// Waits until the load has gone on for so many more exchanges.
fn more(job: &weir_world::peer::Job<LoadReport>, exchanges: u64) -> Result<()> {
    let start = job.report()?;
    let deadline = std::time::Instant::now() + agent::PATIENCE;
    while job.report()?.ok < start.ok + exchanges {
        ensure!(
            std::time::Instant::now() < deadline,
            "the load stands still: {:?}",
            job.report()?
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn spread(peer: &Peer, to: SocketAddr) -> Result<()> {
    const CONNECTIONS: u64 = 900;
    let load = LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60)).count(CONNECTIONS);
    let report = peer.load(load)?.wait()?;
    assert_eq!(report.ok, CONNECTIONS, "{to}: {report:?}");
    // A binomial count of 900 at one third has a deviation of 14; six of them are never met by chance.
    for server in SERVERS {
        let count = report.answered_by.get(server).copied().unwrap_or(0);
        assert!(
            (216..=384).contains(&count),
            "{to}: {server} answered {count} of {CONNECTIONS}"
        );
    }
    Ok(())
}

#[test]
fn connections_spread_evenly_over_the_backends() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let host = shop.node().peer()?;
    for to in both() {
        spread(&shop.client, to)?;
        spread(&host, to)?;
    }
    // Every one of them was counted, once.
    let counted = agent.metric(
        r#"weir_service_connections_total{namespace="default",service="web",port="http",protocol="TCP",result="translated"}"#,
    )?;
    assert_eq!(counted, 3600.0);
    Ok(())
}

#[test]
fn bridged_pods_and_systemd_cgroups_are_served_too() -> Result<()> {
    let shop = Shop::open_as(Wiring::Bridged, CgroupDriver::Systemd)?;
    let _agent = shop.agent()?;
    for to in both() {
        spread(&shop.client, to)?;
    }
    Ok(())
}

#[test]
fn an_application_sees_the_peer_it_asked_for() -> Result<()> {
    let shop = Shop::open()?;
    let _agent = shop.agent()?;
    for to in both() {
        let outcome = shop.client.connect(to)?;
        assert!(outcome.ok(), "{outcome:?}");
        assert_eq!(outcome.peer, Some(to));
    }
    // An IPv6 socket that reaches IPv4 by a mapped address.
    let mapped: SocketAddr = (V4.to_ipv6_mapped(), 80).into();
    let outcome = shop.client.connect(mapped)?;
    assert!(outcome.ok(), "{outcome:?}");
    assert_eq!(outcome.peer, Some(mapped));
    // A connection straight to a pod is none of ours.
    let pod: SocketAddr = (shop.world.pod("web-1")?.addresses().v4, 8080).into();
    let outcome = shop.client.connect(pod)?;
    assert_eq!(
        (outcome.answered_by.as_deref(), outcome.peer),
        (Some("web-1"), Some(pod))
    );
    Ok(())
}

#[test]
fn what_nobody_serves_is_refused_at_once() -> Result<()> {
    let shop = Shop::open()?;
    shop.manifests
        .service("lonely", &["10.96.0.99", "fd00:10:96::99"], &[])?;
    let agent = shop.agent()?;
    let lonely: [IpAddr; 2] = ["10.96.0.99".parse()?, "fd00:10:96::99".parse()?];
    for client in [&shop.client, &shop.node().peer()?] {
        for addr in lonely {
            let outcome = client.connect((addr, 80))?;
            assert_eq!(outcome.errno(), Some("ECONNREFUSED"), "{addr}: {outcome:?}");
        }
        // Known addresses, but no such port.
        for to in both() {
            let outcome = client.connect(SocketAddr::new(to.ip(), 81))?;
            assert_eq!(outcome.errno(), Some("ECONNREFUSED"), "{to}: {outcome:?}");
        }
    }
    let refused =
        |verdict: &str| agent.metric(&format!("weir_verdicts_total{{verdict=\"{verdict}\"}}"));
    assert_eq!(refused("no_endpoints")?, 4.0);
    assert_eq!(refused("unknown_port")?, 4.0);
    assert_eq!(
        agent.metric(
            r#"weir_service_connections_total{namespace="default",service="lonely",port="http",protocol="TCP",result="refused"}"#
        )?,
        4.0
    );
    // The rest is a black hole in this world, as 192.0.2.0/24 has no such host: only Weir could have refused it.
    let unknown = shop.client.exchange(
        Exchange::tcp((Ipv4Addr::new(10, 96, 0, 77), 80)).timeout(Duration::from_millis(300)),
    )?;
    assert_ne!(unknown.errno(), Some("ECONNREFUSED"), "{unknown:?}");
    Ok(())
}

#[test]
fn a_service_that_gets_endpoints_is_no_longer_refused() -> Result<()> {
    let shop = Shop::open()?;
    shop.manifests.endpoints("web", &[])?;
    let agent = shop.agent()?;
    assert_eq!(shop.client.connect((V4, 80))?.errno(), Some("ECONNREFUSED"));

    shop.manifests
        .endpoints("web", &shop.endpoints(&["web-2"])?)?;
    agent.wait_until("web-2 answers", |_| {
        Ok(shop.client.connect((V4, 80))?.answered_by.as_deref() == Some("web-2"))
    })?;
    shop.manifests.delete("web")?;
    agent.wait_until("the service is gone", |_| {
        let to = Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300));
        let outcome = shop.client.exchange(to)?;
        Ok(!outcome.ok() && outcome.errno() != Some("ECONNREFUSED"))
    })?;
    Ok(())
}

#[test]
fn endpoints_come_and_go_under_load_without_a_failed_connection() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let jobs = [shop.load(both()[0])?, shop.load(both()[1])?];
    let sets: [&[&str]; 6] = [
        &["web-1"],
        &["web-2", "web-3"],
        &["web-3"],
        &["web-1", "web-2", "web-3"],
        &["web-2"],
        &["web-1", "web-3"],
    ];
    for round in 0..30 {
        shop.manifests
            .endpoints("web", &shop.endpoints(sets[round % sets.len()])?)?;
        for job in &jobs {
            more(job, 20)?;
        }
    }
    // The last set is in force: whatever is answered from here on is answered by it.
    agent.wait_until("only web-1 and web-3 are programmed", |agent| {
        let services = agent.services()?;
        let endpoints = services[0]["ports"][0]["endpoints"].as_array();
        Ok(endpoints.is_some_and(|endpoints| endpoints.len() == 4))
    })?;
    agent.wait_until_synced()?;
    let before = jobs[0].report()?;
    more(&jobs[0], 200)?;
    let after = jobs[0].report()?;
    let two = |report: &LoadReport| report.answered_by.get("web-2").copied();
    // Exchanges that had begun before may still be answered: four workers at most.
    assert!(
        two(&after).unwrap_or(0) <= two(&before).unwrap_or(0) + 4,
        "{after:?}"
    );

    for job in jobs {
        let report = job.stop()?;
        assert_eq!(report.failures(), 0, "{report:?}");
        for server in SERVERS {
            assert!(
                report.answered_by.contains_key(server),
                "{server} never answered: {report:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_killed_agent_is_not_missed_and_its_successor_takes_over() -> Result<()> {
    let shop = Shop::open()?;
    shop.manifests
        .service("other", &["10.96.0.81"], &shop.endpoints(&["web-1"])?)?;
    let agent = shop.agent()?;
    let jobs = [shop.load(both()[0])?, shop.load(both()[1])?];
    for job in &jobs {
        more(job, 100)?;
    }
    agent.kill();
    for job in &jobs {
        more(job, 200)?;
    }
    // What changes while nobody looks is made up for: one service goes, one loses endpoints.
    shop.manifests.delete("other")?;
    shop.manifests.delete("other-endpoints")?;
    shop.manifests
        .endpoints("web", &shop.endpoints(&["web-3"])?)?;
    let outcome = shop.client.connect((Ipv4Addr::new(10, 96, 0, 81), 80))?;
    assert_eq!(
        outcome.answered_by.as_deref(),
        Some("web-1"),
        "the tables outlive the agent"
    );

    let agent = shop.agent()?;
    assert!(agent.log().contains("how=Replaced"), "{}", agent.log());
    let gone =
        Exchange::tcp((Ipv4Addr::new(10, 96, 0, 81), 80)).timeout(Duration::from_millis(300));
    assert!(!shop.client.exchange(gone)?.ok());
    for _ in 0..20 {
        let outcome = shop.client.connect((V4, 80))?;
        assert_eq!(outcome.answered_by.as_deref(), Some("web-3"));
    }
    // The counters went on counting for the service that stayed.
    let counted = agent.metric(
        r#"weir_service_connections_total{namespace="default",service="web",port="http",protocol="TCP",result="translated"}"#,
    )?;
    assert!(counted > 600.0, "{counted}");
    agent.terminate()?;
    for job in &jobs {
        more(job, 100)?;
    }
    for job in jobs {
        let report = job.stop()?;
        assert_eq!(report.failures(), 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn ten_restarts_under_load_fail_no_connection() -> Result<()> {
    let shop = Shop::open()?;
    let mut agent = shop.agent()?;
    let job = shop.load(both()[0])?;
    for round in 0..10 {
        if round % 2 == 0 {
            agent.kill();
        } else {
            agent.terminate()?;
        }
        agent = shop.agent()?;
        more(&job, 50)?;
    }
    let report = job.stop()?;
    assert_eq!(report.failures(), 0, "{report:?}");
    Ok(())
}

#[test]
fn a_second_agent_waits_for_the_first() -> Result<()> {
    let shop = Shop::open()?;
    let first = shop.agent()?;
    let second = Agent::spawn(
        shop.node(),
        &["--manifests".as_ref(), shop.manifests.path().as_os_str()],
    )?;
    second.wait_until("it says that it waits", |agent| {
        Ok(agent.log().contains("another agent runs on this node"))
    })?;
    assert!(shop.client.connect((V4, 80))?.ok());
    first.terminate()?;
    second.wait_until_synced()?;
    assert!(shop.client.connect((V4, 80))?.ok());
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_and_says_what_it_removed() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let refused = agent::cleanup(shop.node()).expect_err("an agent is running");
    assert!(
        refused.to_string().contains("an agent is running"),
        "{refused}"
    );
    assert!(
        shop.client.connect((V4, 80))?.ok(),
        "a refused cleanup removes nothing"
    );
    agent.terminate()?;

    let said = agent::cleanup(shop.node())?;
    for name in [
        "connect4",
        "connect6",
        "getpeername4",
        "getpeername6",
        "SERVICES",
        "BACKENDS",
    ] {
        assert!(said.contains(name), "{name} is not in:\n{said}");
    }
    let mut left = std::fs::read_dir(shop.node().bpffs())?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    // The kernel's own iterators, which every bpf file system has.
    left.retain(|name| name != "maps.debug" && name != "progs.debug");
    assert!(left.is_empty(), "{left:?}");
    let outcome = shop
        .client
        .exchange(Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300)))?;
    assert!(!outcome.ok(), "nothing balances any more: {outcome:?}");
    let again = agent::cleanup(shop.node())?;
    assert!(again.contains("nothing"), "{again}");
    Ok(())
}

#[test]
fn leftovers_of_another_version_go_once_everything_is_programmed() -> Result<()> {
    let shop = Shop::open()?;
    shop.agent()?.terminate()?;
    // What a Weir of other table layouts would have left.
    let weir = shop.node().bpffs().join("weir");
    std::fs::create_dir_all(weir.join("v0/maps"))?;
    std::fs::create_dir_all(weir.join("v0/links"))?;
    let agent = shop.agent()?;
    agent.wait_until("v0 is gone", |_| Ok(!weir.join("v0").exists()))?;
    assert!(weir.join("v1").exists());
    assert!(shop.client.connect((V4, 80))?.ok());
    Ok(())
}

#[test]
fn a_broken_manifest_is_named_and_changes_nothing() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    shop.manifests.write(
        "web",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: [web\n",
    )?;
    agent.wait_until("the broken file is reported", |agent| {
        Ok(agent.status()?["skipped"]
            .as_array()
            .is_some_and(|skipped| !skipped.is_empty()))
    })?;
    let status = agent.status()?;
    let skipped = status["skipped"][0].to_string();
    assert!(skipped.contains("web.yaml"), "{skipped}");
    assert!(skipped.contains("line "), "{skipped}");
    assert!(
        shop.client.connect((V4, 80))?.ok(),
        "the last good state stays"
    );

    // Valid YAML, but no valid Service: reported as an object, with the field.
    let mut bad = manifests::service("web", &ADDRESSES);
    bad["spec"]["ports"][0]["port"] = 70000.into();
    shop.manifests.apply("web", &bad)?;
    agent.wait_until("the bad port is reported", |agent| {
        Ok(agent.status()?["skipped"]
            .to_string()
            .contains("spec.ports[0].port"))
    })?;
    assert!(
        shop.client.connect((V4, 80))?.ok(),
        "the last good state stays"
    );
    assert_eq!(
        agent.metric(r#"weir_objects_skipped{kind="Service"}"#)?,
        1.0
    );

    shop.manifests
        .apply("web", &manifests::service("web", &ADDRESSES))?;
    agent.wait_until("nothing is skipped", |agent| {
        Ok(agent.status()?["skipped"]
            .as_array()
            .is_some_and(Vec::is_empty))
    })?;
    Ok(())
}

#[test]
fn services_that_are_not_ours_are_left_alone_also_when_the_label_toggles() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        let mut labelled = manifests::service("web", &ADDRESSES);
        labelled["metadata"]["labels"] = serde_json::json!({label: "somebody"});
        shop.manifests.apply("web", &labelled)?;
        agent.wait_until(&format!("{label} takes it away"), |agent| {
            Ok(agent.services()?.as_array().is_some_and(Vec::is_empty))
        })?;
        let outcome = shop
            .client
            .exchange(Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300)))?;
        assert!(
            !outcome.ok() && outcome.errno() != Some("ECONNREFUSED"),
            "{outcome:?}"
        );
        shop.manifests
            .apply("web", &manifests::service("web", &ADDRESSES))?;
        agent.wait_until("it is ours again", |_| {
            Ok(shop.client.connect((V4, 80))?.ok())
        })?;
    }
    Ok(())
}

#[test]
fn only_processes_below_the_cgroup_root_are_served() -> Result<()> {
    let world = World::builder(peer_command()?)
        .nodes(2)
        .pods(SERVERS.map(PodSpec::new))
        .pod(PodSpec::new("elsewhere").on("node2"))
        .build()?;
    let node = world.node("node1")?;
    let server = world.pod("web-1")?;
    let serving = server.peer()?;
    serving.echo(8080)?;
    let manifests = Manifests::new(node.run_directory())?;
    manifests.service("web", &ADDRESSES, &endpoints_of(&[&server], 8080))?;
    let _agent = Agent::start(node, manifests.path())?;
    assert!(node.peer()?.connect((V4, 80))?.ok());
    let elsewhere = world.pod("elsewhere")?.peer()?;
    let to = Exchange::tcp((V4, 80)).timeout(Duration::from_millis(300));
    assert!(!elsewhere.exchange(to)?.ok(), "node2 has no agent");
    Ok(())
}

#[test]
fn a_udp_socket_is_not_touched_by_the_tcp_service() -> Result<()> {
    let shop = Shop::open()?;
    let _agent = shop.agent()?;
    let to = Exchange::udp_connected((V4, 80)).timeout(Duration::from_millis(300));
    let outcome = shop.client.exchange(to)?;
    assert!(!outcome.ok(), "{outcome:?}");
    assert_ne!(
        outcome.peer.map(|peer| peer.port()),
        Some(8080),
        "{outcome:?}"
    );
    Ok(())
}

#[test]
fn health_metrics_and_status_tell_of_a_working_agent() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for path in ["/healthz", "/livez"] {
        let (status, body) = agent::http_get(shop.node(), local(10256), path)?;
        assert_eq!(status, 200, "{path}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body)?;
        assert!(
            body["lastUpdated"].is_string() && body["currentTime"].is_string(),
            "{body}"
        );
    }
    // Deleting its Node makes the node ineligible, but the agent lives.
    shop.manifests.delete("node1")?;
    agent.wait_until("healthz says 503", |_| {
        Ok(agent::http_get(shop.node(), local(10256), "/healthz")?.0 == 503)
    })?;
    assert_eq!(agent::http_get(shop.node(), local(10256), "/livez")?.0, 200);

    for (map, entries) in [("SERVICES", 4.0), ("BACKENDS", 6.0), ("SLOTS", 6.0)] {
        assert_eq!(
            agent.metric(&format!("weir_map_entries{{map=\"{map}\"}}"))?,
            entries,
            "{map}"
        );
        assert!(agent.metric(&format!("weir_map_capacity{{map=\"{map}\"}}"))? > 1000.0);
    }
    assert!(agent.metric("kubeproxy_sync_proxy_rules_duration_seconds_count")? >= 1.0);
    assert_eq!(
        agent.metric("kubeproxy_sync_proxy_rules_service_changes_pending")?,
        0.0
    );
    assert!(agent.metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds")? > 1e9);
    assert!(agent.metric(r#"weir_watch_events_total{kind="EndpointSlice"}"#)? >= 2.0);

    let status = agent.status()?;
    assert_eq!(status["node"], "node1");
    let hooks = status["attachments"].as_array().context("no attachments")?;
    assert_eq!(hooks.len(), 4, "{hooks:?}");
    assert!(
        hooks.iter().all(|hook| hook["pinned"].is_string()),
        "{hooks:?}"
    );
    let text = agent::weir(shop.node(), &["services"], &[])?;
    let text = String::from_utf8(text.stdout)?;
    assert!(
        text.contains("web") && text.contains("10.96.0.80"),
        "{text}"
    );
    Ok(())
}

#[test]
fn thirty_changes_a_moment_are_coalesced_and_none_is_lost() -> Result<()> {
    let shop = Shop::open()?;
    let agent = shop.agent()?;
    for n in 0..30 {
        let address = format!("10.96.1.{n}");
        shop.manifests
            .service(&format!("s{n}"), &[&address], &shop.endpoints(&["web-2"])?)?;
    }
    agent.wait_until("all are there", |agent| {
        Ok(agent
            .services()?
            .as_array()
            .is_some_and(|services| services.len() == 31))
    })?;
    agent.wait_until_synced()?;
    for n in 0..30 {
        let outcome = shop.client.connect((Ipv4Addr::new(10, 96, 1, n), 80))?;
        assert_eq!(
            outcome.answered_by.as_deref(),
            Some("web-2"),
            "s{n}: {outcome:?}"
        );
    }
    Ok(())
}
