//! The worker: reads commands, does them, answers.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::time::ClockId;
use serde::Serialize;
use serde_json::Value;

use super::bench::{self, cpu_time};
use super::conversation::{Conversation, exchange};
use super::echo::{self, Shared, TcpEcho};
use super::exchange::Outcome;
use super::job::Job;
use super::protocol::{Command, Hello, JobSpec, Request, Response, ServerKind, VERSION};
use super::{bench_server, load, long_lived};

/// The whole program of a peer: serves the commands of its owner until its input ends.
///
/// A binary that builds worlds calls this from a (hidden) subcommand and names that to [`super::PeerCommand`].
#[must_use]
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // The owner has gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    say(&Hello { weir_peer: VERSION })?;
    let mut worker = Worker::default();
    for line in io::stdin().lock().lines() {
        let Request { id, command } = serde_json::from_str(&line?)?;
        let result = worker.obey(command).map_err(|error| error.to_string());
        say(&Response { id, result })?;
    }
    Ok(())
}

fn say(message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

#[derive(Default)]
struct Worker {
    last: u64,
    servers: HashMap<u64, Server>,
    conversations: HashMap<u64, Conversation>,
    jobs: HashMap<u64, Job>,
}

struct Server {
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<()>>,
    /// To shut down, so that from then on connections are refused.
    listener: Option<TcpListener>,
    /// To write to, so that the thread looks whether it was stopped. Others look every now and then, or when shut down.
    waker: Option<Arc<OwnedFd>>,
}

impl Worker {
    fn obey(&mut self, command: Command) -> io::Result<Value> {
        let answer = match command {
            Command::Serve { kind, at, name } => {
                let (server, at) = start_server(kind, at, name)?;
                let id = self.number();
                self.servers.insert(id, server);
                serde_json::to_value((id, at))
            }
            Command::ServerCounts { server } => {
                serde_json::to_value(known(self.servers.get(&server))?.shared.counts())
            }
            Command::StopServer {
                server,
                keep_connections,
            } => {
                self.stop_server(server, keep_connections)?;
                Ok(Value::Null)
            }
            Command::Exchange(spec) => serde_json::to_value(exchange(&spec)),
            Command::Open(spec) => {
                let (conversation, outcome) = Conversation::open(&spec);
                let id = conversation.map(|conversation| {
                    let id = self.number();
                    self.conversations.insert(id, conversation);
                    id
                });
                serde_json::to_value((id, outcome))
            }
            Command::Ask {
                conversation,
                payload,
                timeout,
            } => {
                let conversation = known(self.conversations.get_mut(&conversation))?;
                let outcome: Outcome = conversation.ask(&payload, timeout);
                serde_json::to_value(outcome)
            }
            Command::Close { conversation } => {
                known(self.conversations.remove(&conversation))?;
                Ok(Value::Null)
            }
            Command::Start(spec) => {
                let job = match spec {
                    JobSpec::Load(spec) => load::start(spec),
                    JobSpec::LongLived(spec) => long_lived::start(spec),
                    JobSpec::Bench(spec) => bench::start(spec),
                }?;
                let id = self.number();
                self.jobs.insert(id, job);
                serde_json::to_value(id)
            }
            Command::Report { job, stop } => {
                let job = known(self.jobs.get_mut(&job))?;
                if stop {
                    job.stop();
                }
                // Asked in this order, a report said to be final is.
                let done = job.done();
                serde_json::to_value((done, job.report()?))
            }
            Command::CpuTime => serde_json::to_value(cpu_time(ClockId::ProcessCPUTime)),
        };
        answer.map_err(Into::into)
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn stop_server(&mut self, id: u64, keep_connections: bool) -> io::Result<()> {
        let server = known(self.servers.get_mut(&id))?;
        if let Some(listener) = server.listener.take() {
            rustix::net::shutdown(listener, rustix::net::Shutdown::Both)?;
        }
        server.shared.stop(keep_connections);
        if let Some(waker) = &server.waker {
            rustix::io::write(waker, &1_u64.to_ne_bytes())?;
        }
        if !keep_connections && let Some(server) = self.servers.remove(&id) {
            // Once this is answered the port is free.
            server
                .thread
                .join()
                .map_err(|_| io::Error::other("the server's thread panicked"))??;
        }
        Ok(())
    }
}

fn known<T>(found: Option<T>) -> io::Result<T> {
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is none of this number"))
}

fn start_server(
    kind: ServerKind,
    at: SocketAddr,
    name: String,
) -> io::Result<(Server, SocketAddr)> {
    let shared = Arc::new(Shared::default());
    let inside = Arc::clone(&shared);
    let socket = bound(kind, at)?;
    let (at, listener, waker, thread) = match kind {
        ServerKind::TcpEcho => {
            let listener = TcpListener::from(socket);
            let (at, ours) = (listener.local_addr()?, listener.try_clone()?);
            let server = TcpEcho::new(listener, name, inside)?;
            let waker = server.waker();
            let thread = thread::spawn(move || server.serve());
            (at, Some(ours), Some(waker), thread)
        }
        ServerKind::TcpBench => {
            let listener = TcpListener::from(socket);
            let (at, ours) = (listener.local_addr()?, listener.try_clone()?);
            let thread = thread::spawn(move || bench_server::serve_tcp(&listener, &inside));
            (at, Some(ours), None, thread)
        }
        ServerKind::UdpEcho | ServerKind::UdpBench => {
            let socket = UdpSocket::from(socket);
            let at = socket.local_addr()?;
            let thread = thread::spawn(move || match kind {
                ServerKind::UdpEcho => echo::serve_udp(&socket, &name, &inside),
                _ => bench_server::serve_udp(&socket, &inside),
            });
            (at, None, None, thread)
        }
    };
    let server = Server {
        shared,
        thread,
        listener,
        waker,
    };
    Ok((server, at))
}

/// A bound socket; a listening one for TCP. An IPv6 one is for IPv6 only.
fn bound(kind: ServerKind, at: SocketAddr) -> io::Result<OwnedFd> {
    let stream = matches!(kind, ServerKind::TcpEcho | ServerKind::TcpBench);
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = if stream {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if stream {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    if stream {
        listen(&socket, 4096)?;
    }
    Ok(socket)
}
