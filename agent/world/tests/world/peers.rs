//! What peers can do.

use std::net::SocketAddr;
use std::time::Duration;

use weir_world::peer::{BenchKind, BenchSpec, Exchange, LoadSpec, LongLivedSpec, Server, Step};
use weir_world::{Error, Peer, PeerCommand, Place, Result, World};

use crate::small;

const PORT: u16 = 8080;
const LONG: Duration = Duration::from_secs(30);

/// Peers in `client` and `server`, and the server's IPv4 address and port.
fn pair(world: &World) -> Result<(Peer, Peer, SocketAddr)> {
    let server = world.pod("server")?;
    let to = (server.addresses().v4, PORT).into();
    Ok((world.pod("client")?.peer()?, server.peer()?, to))
}

#[test]
fn outcomes_tell_all_addresses() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    server.echo(PORT)?;
    let own = world.pod("client")?.addresses().v4;
    let from: SocketAddr = (own, 40_001).into();

    let tcp = client.exchange(Exchange::tcp(to).from(from))?;
    assert_eq!(
        (tcp.local, tcp.peer, tcp.seen_from),
        (Some(from), Some(to), Some(from))
    );
    let udp = client.exchange(Exchange::udp(to).from(from))?;
    assert_eq!(
        (udp.peer, udp.reply_from, udp.seen_from),
        (None, Some(to), Some(from))
    );
    let connected = client.exchange(Exchange::udp_connected(to))?;
    assert_eq!((connected.peer, connected.reply_from), (Some(to), Some(to)));

    // An IPv6 socket that talks IPv4, as those of Go and Java do.
    let mapped = SocketAddr::from((world.pod("server")?.addresses().v4.to_ipv6_mapped(), PORT));
    let outcome = client.connect(mapped)?;
    assert_eq!(outcome.peer, Some(mapped));
    assert_eq!(outcome.answered_by.as_deref(), Some("server"));
    Ok(())
}

#[test]
fn failures_are_named_with_their_step() -> Result<()> {
    let world = small().build()?;
    let (client, _server, to) = pair(&world)?;
    let failed = |exchange: Exchange| -> Result<(Step, String)> {
        let failure = client.exchange(exchange)?.failure.expect("nobody listens");
        Ok((failure.step, failure.errno))
    };
    let refused = "ECONNREFUSED".to_owned();
    assert_eq!(failed(Exchange::tcp(to))?, (Step::Connect, refused.clone()));
    assert_eq!(
        failed(Exchange::udp_connected(to))?,
        (Step::Receive, refused)
    );
    let soon = Duration::from_millis(50);
    let silent = failed(Exchange::udp(to).timeout(soon))?;
    assert_eq!(silent, (Step::Receive, "TIMEOUT".to_owned()));
    let foreign: SocketAddr = "198.51.100.1:1".parse().expect("an address");
    let not_ours = failed(Exchange::tcp(to).from(foreign))?;
    assert_eq!(not_ours, (Step::Open, "EADDRNOTAVAIL".to_owned()));
    Ok(())
}

#[test]
fn a_server_drains_then_stops_and_frees_its_port() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    let serving = server.echo_tcp(to)?;
    let (conversation, opened) = client.open(Exchange::tcp(to))?;
    assert_eq!(opened.answered_by.as_deref(), Some("server"));
    let conversation = conversation.expect("it is open");
    assert!(conversation.ask("one")?.ok());

    serving.drain()?;
    assert_eq!(client.connect(to)?.errno(), Some("ECONNREFUSED"));
    assert!(conversation.ask("two")?.ok());
    assert_eq!(serving.counts()?.received, 2);

    serving.stop()?;
    let failure = conversation.ask("three")?.failure.expect("it is closed");
    assert!(
        ["EOF", "ECONNRESET", "EPIPE"].contains(&failure.errno.as_str()),
        "{failure:?}"
    );
    server.echo_tcp(to)?;
    assert!(client.connect(to)?.ok());
    Ok(())
}

#[test]
fn large_payloads_come_back_whole() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    server.echo(PORT)?;
    let payload = "weir".repeat(100_000);
    assert!(
        client
            .exchange(Exchange::tcp(to).payload(payload.clone()))?
            .ok()
    );
    assert!(
        client
            .exchange(Exchange::udp(to).payload(&payload[..8_000]))?
            .ok()
    );
    Ok(())
}

#[test]
fn a_load_counts_by_server_and_by_error() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    let servers = server.echo(PORT)?;
    for exchange in [
        Exchange::tcp(to),
        Exchange::udp(to),
        Exchange::udp_connected(to),
    ] {
        let transport = exchange.transport;
        let load = client.load(LoadSpec::new(exchange, LONG).count(200))?;
        let report = load.wait()?;
        assert_eq!(
            (report.ok, report.failures()),
            (200, 0),
            "{transport:?} {report:?}"
        );
        assert_eq!(report.answered_by["server"], 200);
        assert!(
            report.p50 <= report.p99 && report.p99 <= 2 * report.max,
            "{report:?}"
        );
        assert!(report.p50 > Duration::ZERO);
    }

    servers.iter().try_for_each(Server::stop)?;
    let load = client.load(LoadSpec::new(Exchange::tcp(to), LONG).workers(2).count(10))?;
    let report = load.wait()?;
    assert_eq!((report.ok, report.failed["ECONNREFUSED"]), (0, 10));
    let (_, first) = report.first_failure.expect("all have failed");
    assert_eq!(first.step, Step::Connect);
    Ok(())
}

#[test]
fn a_load_is_watched_and_stopped() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    server.echo(PORT)?;
    let pause = Duration::from_millis(1);
    let load = client.load(LoadSpec::new(Exchange::tcp(to), LONG).pause(pause))?;
    while load.report()?.ok < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let stopped = load.stop()?;
    assert_eq!(stopped.failures(), 0, "{stopped:?}");
    assert_eq!(load.report()?, stopped, "it goes on");
    Ok(())
}

#[test]
fn long_lived_connections_report_their_breaks() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    server.echo(PORT)?;
    let every = Duration::from_millis(2);
    let spec = LongLivedSpec::new(Exchange::tcp(to), 5, LONG).every(every);
    let job = client.long_lived(spec.clone())?;
    let reopened = client.long_lived(spec.reopen())?;
    while job.report()?.requests < 50 || reopened.report()?.open < 5 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let report = job.report()?;
    assert_eq!((report.open, report.breaks.len()), (5, 0));
    assert_eq!(report.open_to["server"], 5);

    server.kill();
    while job.report()?.open > 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let report = job.stop()?;
    assert_eq!(report.breaks.len(), 5, "{report:?}");
    assert_eq!(report.breaks[0].answered_by.as_deref(), Some("server"));

    let again = world.pod("server")?.peer()?;
    again.echo_as("second", PORT)?;
    while reopened.report()?.open_to.get("second") != Some(&5) {
        std::thread::sleep(Duration::from_millis(2));
    }
    reopened.stop().map(drop)
}

#[test]
fn a_udp_socket_goes_on_after_a_break() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    let servers = server.echo(PORT)?;
    let exchange = Exchange::udp_connected(to).timeout(Duration::from_millis(50));
    let job = client.long_lived(LongLivedSpec::new(exchange, 2, LONG))?;
    while job.report()?.requests < 4 {
        std::thread::sleep(Duration::from_millis(2));
    }
    servers.iter().try_for_each(Server::stop)?;
    while job.report()?.breaks.is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
    server.echo_as("second", PORT)?;
    while !job.report()?.answered_by.contains_key("second") {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(job.stop()?.open, 0);
    Ok(())
}

#[test]
fn measurements_count_what_they_do() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    let servers = server.bench_server(PORT)?;
    let run = |kind: BenchKind, operations: u64| {
        let spec = BenchSpec {
            operations: Some(operations),
            flows: 3,
            ..BenchSpec::new(to, kind, LONG)
        };
        let report = client.bench(spec)?.wait()?;
        assert_eq!(
            (report.operations, report.failed.len()),
            (operations, 0),
            "{kind:?} {report:?}"
        );
        assert!(
            report.cpu > Duration::ZERO && report.rate() > 0.0,
            "{kind:?}"
        );
        Ok::<_, Error>(report)
    };
    let connects = run(BenchKind::Connect, 100)?;
    assert!(connects.p50 > Duration::ZERO && connects.p50 <= connects.p99);
    assert_eq!(servers[0].counts()?.accepted, 100);

    run(BenchKind::RequestResponse, 500)?;
    let before = servers[0].counts()?.bytes;
    let bulk = run(BenchKind::Bulk, 100)?;
    assert_eq!(bulk.bytes, 100 << 16);
    assert_eq!(servers[0].counts()?.bytes - before, bulk.bytes);

    run(BenchKind::UdpRequestResponse, 300)?;
    assert_eq!(servers[1].counts()?.received, 300);
    // Few enough for the server's buffer, so none is lost.
    run(BenchKind::UdpFlood, 50)?;
    while servers[1].counts()?.received < 350 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(server.cpu_time()? > Duration::ZERO);
    servers.iter().try_for_each(Server::stop)
}

#[test]
fn a_program_that_is_no_peer_is_named() -> Result<()> {
    let world = World::builder(PeerCommand::new("/bin/true")).build()?;
    let error = world.node("node1")?.peer().expect_err("it is no peer");
    assert!(error.to_string().contains("/bin/true"), "{error}");

    let world = World::builder(PeerCommand::new("/nonexistent/weir")).build()?;
    let place: &Place = world.node("node1")?;
    let error = place.peer().expect_err("there is no such program");
    assert!(error.to_string().contains("/nonexistent/weir"), "{error}");
    Ok(())
}

#[test]
fn a_conversation_over_udp_keeps_its_socket() -> Result<()> {
    let world = small().build()?;
    let (client, server, to) = pair(&world)?;
    let first = server.echo(PORT)?;
    let exchange = Exchange::udp(to).timeout(Duration::from_millis(200));
    let (conversation, _) = client.open(exchange)?;
    let conversation = conversation.expect("UDP opens always");
    let before = conversation.ask("one")?;
    assert_eq!(before.answered_by.as_deref(), Some("server"));
    first.iter().try_for_each(Server::stop)?;
    let silent = conversation.ask("two")?;
    assert_eq!(
        (silent.errno(), silent.answered_by.as_deref()),
        (Some("TIMEOUT"), None)
    );
    server.echo_as("second", PORT)?;
    let after = conversation.ask("three")?;
    assert_eq!(after.answered_by.as_deref(), Some("second"));
    assert_eq!(after.seen_from, before.seen_from, "it is the same socket");
    Ok(())
}
