//! The owner's side of a worker.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::exchange::{Exchange, Outcome};
use super::io::Lines;
use super::job::lock;
use super::measure::{BenchReport, BenchSpec};
use super::protocol::{Command, Hello, JobSpec, Request, Response, ServerKind, VERSION};
use super::remote::{Conversation, Job, Server};
use super::traffic::{LoadReport, LoadSpec, LongLivedReport, LongLivedSpec};
use crate::address::Addresses;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::spawn::Process;

/// How long a worker may take for what needs no network.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A worker process in a pod, on a node or in an external client.
///
/// Handles are cheap to clone; the worker is killed with the last of them, and with the world. Commands are done one after
/// the other: while one waits for an answer from the network, others on the same peer wait. Loads, long-lived connections and
/// measurements run in its background. Addresses may be given as `(Ipv4Addr, port)`, `(Ipv6Addr, port)` or `SocketAddr`.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    place: String,
    addresses: Addresses,
    lines: Mutex<(Lines, u64)>,
    process: Mutex<Process>,
}

impl Peer {
    pub(crate) fn start(place: &Place) -> Result<Self> {
        let mut command = place.peer.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = place.spawn(command)?;
        let failed = |message: String| Error::Peer {
            place: place.name().to_owned(),
            message,
        };
        let child = process.child();
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("its pipes are missing".to_owned()));
        };
        let mut lines = Lines {
            input,
            output,
            read: Vec::new(),
        };
        let hello: Hello = lines.receive(PATIENCE).map_err(|error| {
            failed(format!(
                "{:?} does not answer as a peer: {error}",
                place.peer
            ))
        })?;
        if hello.weir_peer != VERSION {
            return Err(failed(format!(
                "{:?} is of another build: build it again",
                place.peer
            )));
        }
        Ok(Self(Arc::new(Parts {
            place: place.name().to_owned(),
            addresses: place.addresses(),
            lines: Mutex::new((lines, 0)),
            process: Mutex::new(process),
        })))
    }

    /// Process id of the worker.
    #[must_use]
    pub fn id(&self) -> u32 {
        lock(&self.0.process).id()
    }

    /// Kills the worker. Whatever is asked of it from now on is an error.
    pub fn kill(&self) {
        lock(&self.0.process).kill();
    }

    /// CPU time of the worker so far, all threads.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.call(Command::CpuTime, PATIENCE)
    }

    /// Echo servers on this port: TCP on all addresses, UDP on the place's own two, both families. They answer with the
    /// place's name.
    ///
    /// # Errors
    /// The port is taken.
    pub fn echo(&self, port: u16) -> Result<Vec<Server>> {
        self.echo_as(&self.0.place, port)
    }

    /// Echo servers as of [`Peer::echo`] that answer with another name.
    ///
    /// # Errors
    /// The port is taken.
    pub fn echo_as(&self, name: &str, port: u16) -> Result<Vec<Server>> {
        self.serve_both(ServerKind::TcpEcho, ServerKind::UdpEcho, name, port)
    }

    /// Servers for measurements on this port, at the addresses of [`Peer::echo`]: TCP and UDP of IPv4, then of IPv6.
    ///
    /// # Errors
    /// The port is taken.
    pub fn bench_server(&self, port: u16) -> Result<Vec<Server>> {
        let name = &self.0.place;
        self.serve_both(ServerKind::TcpBench, ServerKind::UdpBench, name, port)
    }

    /// A TCP echo server at this address. Port 0 takes a free one: see [`Server::at`].
    ///
    /// # Errors
    /// The address is taken, or none of this place's.
    pub fn echo_tcp(&self, at: impl Into<SocketAddr>) -> Result<Server> {
        self.serve(ServerKind::TcpEcho, at.into(), &self.0.place)
    }

    /// A UDP echo server at this address.
    ///
    /// # Errors
    /// The address is taken, or none of this place's.
    pub fn echo_udp(&self, at: impl Into<SocketAddr>) -> Result<Server> {
        self.serve(ServerKind::UdpEcho, at.into(), &self.0.place)
    }

    /// One TCP exchange with an echo server. A failed exchange is an outcome, not an error.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn connect(&self, to: impl Into<SocketAddr>) -> Result<Outcome> {
        self.exchange(Exchange::tcp(to))
    }

    /// One UDP exchange with an echo server, by `sendto` and `recvfrom`.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn datagram(&self, to: impl Into<SocketAddr>) -> Result<Outcome> {
        self.exchange(Exchange::udp(to))
    }

    /// One exchange with an echo server.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn exchange(&self, exchange: Exchange) -> Result<Outcome> {
        let patience = PATIENCE + 3 * exchange.timeout;
        self.call(Command::Exchange(exchange), patience)
    }

    /// Opens a socket to an echo server and keeps it, to make requests one by one. TCP servers have answered by then, UDP
    /// servers know nothing of it yet. The exchange's payload is not sent.
    ///
    /// # Errors
    /// The worker has ended. That the socket could not be opened is told by the outcome, and there is no conversation then.
    pub fn open(&self, exchange: Exchange) -> Result<(Option<Conversation>, Outcome)> {
        let patience = PATIENCE + 3 * exchange.timeout;
        let timeout = exchange.timeout;
        let (id, outcome): (Option<u64>, Outcome) = self.call(Command::Open(exchange), patience)?;
        let conversation = id.map(|id| Conversation::new(self.clone(), id, timeout));
        Ok((conversation, outcome))
    }

    /// Starts many exchanges in the background.
    ///
    /// # Errors
    /// The worker has ended, or cannot start so many threads.
    pub fn load(&self, spec: LoadSpec) -> Result<Job<LoadReport>> {
        let (duration, last) = (spec.duration, 3 * spec.exchange.timeout);
        self.start_job(JobSpec::Load(spec), duration, last)
    }

    /// Starts long-lived connections in the background.
    ///
    /// # Errors
    /// The worker has ended, or cannot start so many threads.
    pub fn long_lived(&self, spec: LongLivedSpec) -> Result<Job<LongLivedReport>> {
        let (duration, last) = (spec.duration, 3 * spec.exchange.timeout);
        self.start_job(JobSpec::LongLived(spec), duration, last)
    }

    /// Starts a measurement in the background, against a [`Peer::bench_server`].
    ///
    /// # Errors
    /// The worker has ended.
    pub fn bench(&self, spec: BenchSpec) -> Result<Job<BenchReport>> {
        let duration = spec.duration;
        self.start_job(JobSpec::Bench(spec), duration, PATIENCE)
    }

    fn start_job<R>(&self, spec: JobSpec, duration: Duration, last: Duration) -> Result<Job<R>> {
        let id = self.call(Command::Start(spec), PATIENCE)?;
        Ok(Job::new(self.clone(), id, duration, last))
    }

    fn serve_both(
        &self,
        tcp: ServerKind,
        udp: ServerKind,
        name: &str,
        port: u16,
    ) -> Result<Vec<Server>> {
        let any = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Ipv6Addr::UNSPECIFIED.into(),
        ];
        // A UDP server on all addresses answers from the one the route prefers, which need not be the one it was asked at.
        let own = self.0.addresses.both();
        let mut servers = Vec::with_capacity(4);
        for (any, own) in any.into_iter().zip(own) {
            servers.push(self.serve(tcp, (any, port).into(), name)?);
            servers.push(self.serve(udp, (own, port).into(), name)?);
        }
        Ok(servers)
    }

    fn serve(&self, kind: ServerKind, at: SocketAddr, name: &str) -> Result<Server> {
        let serve = Command::Serve {
            kind,
            at,
            name: name.to_owned(),
        };
        let (id, at) = self.call(serve, PATIENCE)?;
        Ok(Server::new(self.clone(), id, at))
    }

    /// Has the worker do something and waits for the answer.
    pub(super) fn call<T: DeserializeOwned>(
        &self,
        command: Command,
        patience: Duration,
    ) -> Result<T> {
        let failed = |message: String| Error::Peer {
            place: self.0.place.clone(),
            message,
        };
        let (lines, last) = &mut *lock(&self.0.lines);
        *last += 1;
        let id = *last;
        let answer = lines.send(&Request { id, command }).and_then(|()| {
            loop {
                let response: Response = lines.receive(patience)?;
                // An older one is the answer that somebody lost patience with.
                if response.id == id {
                    return Ok(response.result);
                }
            }
        });
        let value = match answer {
            Ok(result) => result.map_err(failed)?,
            Err(error) => {
                return Err(failed(match error.kind() {
                    io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                        "it has ended".to_owned()
                    }
                    _ => error.to_string(),
                }));
            }
        };
        serde_json::from_value(value).map_err(|error| failed(error.to_string()))
    }
}
