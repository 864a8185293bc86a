//! Who talks to whom, and what comes of it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_world::{
    Peer,
    peer::{Exchange, LoadReport, LoadSpec, Outcome, Transport},
};

/// TCP, and UDP by both kinds of sockets.
pub(crate) const TRANSPORTS: [Transport; 3] =
    [Transport::Tcp, Transport::Udp, Transport::UdpConnected];
/// TCP, and UDP with a socket that is told of errors.
pub(crate) const TOLD: [Transport; 2] = [Transport::Tcp, Transport::UdpConnected];

/// Long enough for any answer to come that will: silence costs a story this long.
const SILENCE: Duration = Duration::from_millis(250);

pub(crate) fn exchange(transport: Transport, to: SocketAddr) -> Exchange {
    match transport {
        Transport::Tcp => Exchange::tcp(to),
        Transport::Udp => Exchange::udp(to),
        Transport::UdpConnected => Exchange::udp_connected(to),
    }
}

/// Who answers, and the address of the client as the server sees it.
pub(crate) fn ask(peer: &Peer, transport: Transport, to: SocketAddr) -> Result<(String, IpAddr)> {
    let outcome = peer.exchange(exchange(transport, to))?;
    answer(&outcome).with_context(|| format!("{transport:?} to {to}"))
}

/// Who answered, and the address of the client as the server saw it. It must have come from where it was asked.
pub(crate) fn answer(outcome: &Outcome) -> Result<(String, IpAddr)> {
    ensure!(outcome.ok(), "{outcome:?}");
    let by = outcome.answered_by.clone();
    let from = outcome.seen_from.map(|from| from.ip().to_canonical());
    by.zip(from)
        .with_context(|| format!("nobody said who: {outcome:?}"))
}

/// Makes enough exchanges for all of these to have answered, by anybody's chances, and no one else; none may fail.
pub(crate) fn reaches(
    peer: &Peer,
    transport: Transport,
    to: SocketAddr,
    servers: &[&str],
) -> Result<()> {
    let count = match servers.len() {
        1 => 2,
        more => 16 * more,
    };
    let report = many(peer, exchange(transport, to), count.try_into()?)?;
    ensure!(report.failures() == 0, "{transport:?} to {to}: {report:?}");
    let answered: BTreeSet<&str> = report.answered_by.keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = servers.iter().copied().collect();
    ensure!(
        answered == expected,
        "{transport:?} to {to}: answered by {answered:?}, not by {expected:?}"
    );
    Ok(())
}

/// So many exchanges, one after the other.
pub(crate) fn many(peer: &Peer, exchange: Exchange, count: u64) -> Result<LoadReport> {
    let load = LoadSpec::new(exchange, Duration::from_secs(60));
    let job = peer.load(load.workers(1).count(count))?;
    // Its own way of waiting is for loads of seconds.
    loop {
        let report = job.report()?;
        if report.ok + report.failures() >= count {
            return Ok(report);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Is refused, before the time to wait is over.
pub(crate) fn is_refused(peer: &Peer, transport: Transport, to: SocketAddr) -> Result<()> {
    let outcome = peer.exchange(exchange(transport, to))?;
    ensure!(
        outcome.errno() == Some("ECONNREFUSED"),
        "{transport:?} to {to} is not refused: {outcome:?}"
    );
    Ok(())
}

/// Gets no answer of any kind.
pub(crate) fn is_met_by_silence(peer: &Peer, transport: Transport, to: SocketAddr) -> Result<()> {
    let outcome = peer.exchange(exchange(transport, to).timeout(SILENCE))?;
    ensure!(
        outcome.errno() == Some("TIMEOUT"),
        "{transport:?} to {to} is not met by silence: {outcome:?}"
    );
    Ok(())
}
