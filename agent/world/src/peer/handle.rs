//! The owner's side of a worker.

use std::ffi::OsString;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::io::Lines;
use super::job::lock;
use super::protocol::{
    BenchReport, BenchSpec, Command, Exchange, Hello, JobSpec, LoadReport, LoadSpec,
    LongLivedReport, LongLivedSpec, Outcome, Request, Response, ServerCounts, ServerKind, VERSION,
};
use crate::address::Addresses;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::spawn::Process;

/// How long a worker may take for what needs no network.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program that a world starts as its peers: one that calls [`super::main`].
#[derive(Clone, Debug)]
pub struct PeerCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl PeerCommand {
    /// This program, without arguments.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The running program itself, with this subcommand.
    ///
    /// # Errors
    /// Its own path cannot be read.
    pub fn current_exe(subcommand: impl Into<OsString>) -> Result<Self> {
        // Survives that the program's file is replaced while it runs.
        let program = PathBuf::from(format!("/proc/{}/exe", process::id()));
        std::fs::metadata(&program).map_err(|source| Error::Io {
            doing: "find the running program".to_owned(),
            source,
        })?;
        Ok(Self::new(program).arg(subcommand))
    }

    pub(crate) fn command(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

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
        let conversation = id.map(|id| Conversation {
            peer: self.clone(),
            id,
            timeout,
        });
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
        Ok(Job {
            peer: self.clone(),
            id,
            last,
            ends: Instant::now() + duration,
            report: PhantomData,
        })
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
        Ok(Server {
            peer: self.clone(),
            id,
            at,
        })
    }

    fn call<T: DeserializeOwned>(&self, command: Command, patience: Duration) -> Result<T> {
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

/// A server of a peer. It goes on when the handle is dropped.
#[derive(Clone, Debug)]
pub struct Server {
    peer: Peer,
    id: u64,
    at: SocketAddr,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// What it has done so far.
    ///
    /// # Errors
    /// The worker has ended, or the server was stopped.
    pub fn counts(&self) -> Result<ServerCounts> {
        let server = self.id;
        self.peer.call(Command::ServerCounts { server }, PATIENCE)
    }

    /// Stops it: its port is free, its connections are closed.
    ///
    /// # Errors
    /// The worker has ended, or the server was stopped before.
    pub fn stop(&self) -> Result<()> {
        self.stop_with(false)
    }

    /// Stops it listening, but goes on with the connections it has, as a pod that terminates does.
    ///
    /// # Errors
    /// The worker has ended, or the server was stopped before.
    pub fn drain(&self) -> Result<()> {
        self.stop_with(true)
    }

    fn stop_with(&self, keep_connections: bool) -> Result<()> {
        let stop = Command::StopServer {
            server: self.id,
            keep_connections,
        };
        self.peer.call(stop, PATIENCE)
    }
}

/// An open socket of a peer, for requests one by one. Dropping it closes the socket.
#[derive(Debug)]
pub struct Conversation {
    peer: Peer,
    id: u64,
    timeout: Duration,
}

impl Conversation {
    /// Makes a request and waits for its answer, for as long as the exchange that opened it said.
    ///
    /// # Errors
    /// The worker has ended. A failed request is an outcome.
    pub fn ask(&self, payload: &str) -> Result<Outcome> {
        let ask = Command::Ask {
            conversation: self.id,
            payload: payload.to_owned(),
            timeout: self.timeout,
        };
        self.peer.call(ask, PATIENCE + 3 * self.timeout)
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let conversation = self.id;
        // With the worker gone the socket is closed as well.
        let _: Result<()> = self.peer.call(Command::Close { conversation }, PATIENCE);
    }
}

/// Work in the background of a peer. It goes on when the handle is dropped, until its time is over.
#[derive(Debug)]
pub struct Job<R> {
    peer: Peer,
    id: u64,
    /// How long the last operation may go on after the end.
    last: Duration,
    ends: Instant,
    report: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Job<R> {
    /// What it has done so far. A measurement reports only at its end.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn report(&self) -> Result<R> {
        self.ask(false).map(|(_, report)| report)
    }

    /// Ends it now; its last report.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn stop(&self) -> Result<R> {
        self.ask(true).map(|(_, report)| report)
    }

    /// Waits until its time is over or all is done; its last report.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn wait(&self) -> Result<R> {
        // Asking seldom leaves the CPU to what is measured.
        const SELDOM: Duration = Duration::from_millis(100);
        const OFTEN: Duration = Duration::from_millis(5);
        loop {
            let (done, report) = self.ask(false)?;
            if done {
                return Ok(report);
            }
            let left = self.ends.saturating_duration_since(Instant::now());
            thread::sleep(left.clamp(OFTEN, SELDOM));
        }
    }

    fn ask(&self, stop: bool) -> Result<(bool, R)> {
        let job = self.id;
        let patience = PATIENCE + self.last;
        self.peer.call(Command::Report { job, stop }, patience)
    }
}
