//! Connections to endpoints that are gone end, those of pods and of the host, and no others do.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, sync::mpsc, time::Duration};

use anyhow::{Context, Result, ensure};
use weir::sockets::{Ended, Endpoint, Reaper, end_connections};
use weir_core::model::Protocol;
use weir_tests::{agent::peer_command, control_plane::eventually};
use weir_world::{
    PodSpec, World,
    peer::{Exchange, Job, LongLivedReport, LongLivedSpec},
};

const LONG: Duration = Duration::from_secs(60);
const PORT: u16 = 8080;

fn world() -> Result<World> {
    let pods = ["client", "gone", "kept"].map(PodSpec::new);
    Ok(World::builder(peer_command()?).pods(pods).build()?)
}

/// The namespaces of a node and its pods. The agent's own, which the library adds, is this test's.
fn namespaces(world: &World) -> Result<Vec<PathBuf>> {
    let mut paths = vec![world.nodes()[0].netns().path().to_owned()];
    for pod in ["client", "gone", "kept"] {
        paths.push(world.pod(pod)?.netns().path().to_owned());
    }
    Ok(paths)
}

fn until(
    job: &Job<LongLivedReport>,
    what: &str,
    is: impl Fn(&LongLivedReport) -> bool,
) -> Result<()> {
    eventually(what, || Ok(is(&job.report()?).then_some(())))
}

#[test]
fn tcp_connections_of_pods_and_host_end_and_others_live_on() -> Result<()> {
    let world = world()?;
    let gone: SocketAddr = (world.pod("gone")?.addresses().v4, PORT).into();
    let gone_v6: SocketAddr = (world.pod("gone")?.addresses().v6, PORT).into();
    let other_port: SocketAddr = (gone.ip(), PORT + 1).into();
    let kept: SocketAddr = (world.pod("kept")?.addresses().v4, PORT).into();
    let servers = [world.pod("gone")?.peer()?, world.pod("kept")?.peer()?];
    for server in &servers {
        server.echo(PORT)?;
        server.echo(PORT + 1)?;
    }
    let clients = [world.pod("client")?.peer()?, world.nodes()[0].peer()?];
    let mut ending = Vec::new();
    let mut living = Vec::new();
    for client in &clients {
        let start = |to: SocketAddr| {
            let every = Duration::from_millis(5);
            client.long_lived(LongLivedSpec::new(Exchange::tcp(to), 3, LONG).every(every))
        };
        ending.push(start(gone)?);
        for to in [gone_v6, other_port, kept] {
            living.push(start(to)?);
        }
    }
    for job in ending.iter().chain(&living) {
        until(job, "the connections work", |report| {
            report.open == 3 && report.requests > 9
        })?;
    }

    let endpoints = HashSet::from([Endpoint::new(gone, Protocol::Tcp)]);
    let ended = end_connections(&endpoints, namespaces(&world)?);
    assert_eq!(
        ended,
        Ended {
            tcp: 6,
            namespaces: 5,
            ..Ended::default()
        },
        "three of the pod's and three of the host's"
    );
    for job in &ending {
        until(job, "the connections have ended", |report| report.open == 0)?;
        let report = job.report()?;
        assert_eq!(report.breaks.len(), 3, "{report:?}");
        for broken in &report.breaks {
            ensure!(broken.failure.errno == "ECONNABORTED", "{broken:?}");
        }
    }
    for job in &living {
        let before = job.report()?.requests;
        until(job, "the others go on", |report| {
            report.requests > before + 9
        })?;
        let report = job.stop()?;
        assert_eq!(report.breaks, [], "{report:?}");
    }
    let outcome = clients[0].connect(gone)?;
    ensure!(outcome.ok(), "a listening socket was ended: {outcome:?}");
    Ok(())
}

#[test]
fn a_connected_udp_socket_is_told_and_its_application_can_connect_again() -> Result<()> {
    let world = world()?;
    let at =
        |pod: &str| -> Result<SocketAddr> { Ok((world.pod(pod)?.addresses().v4, PORT).into()) };
    let (gone, kept) = (at("gone")?, at("kept")?);
    let server = world.pod("kept")?.peer()?;
    server.echo(PORT)?;
    let client = world.pod("client")?.peer()?;
    let open = |to: SocketAddr| -> Result<_> {
        let exchange = Exchange::udp_connected(to).timeout(Duration::from_millis(300));
        let (conversation, outcome) = client.open(exchange)?;
        conversation.with_context(|| format!("{outcome:?}"))
    };
    let (dead, alive) = (open(gone)?, open(kept)?);
    ensure!(alive.ask("before")?.ok());

    let (said, heard) = mpsc::channel();
    let paths = namespaces(&world)?;
    let reaper = Reaper::start(
        move || paths.clone(),
        move |ended| said.send(ended.clone()).unwrap_or(()),
    )?;
    reaper.end(Vec::new());
    reaper.end(vec![Endpoint::new(gone, Protocol::Udp)]);
    let ended = heard.recv()?;
    assert_eq!((ended.tcp, ended.udp, ended.failures), (0, 1, Vec::new()));
    let failure = dead.ask("anybody?")?.failure.context("it is not told")?;
    ensure!(
        ["ECONNABORTED", "EDESTADDRREQ"].contains(&failure.errno.as_str()),
        "{failure:?}"
    );
    ensure!(alive.ask("after")?.ok(), "another socket was ended");
    ensure!(open(kept)?.ask("again")?.ok());
    drop(reaper);
    ensure!(heard.try_recv().is_err(), "an empty list is no work");
    Ok(())
}
