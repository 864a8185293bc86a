//! Echo servers that say who they are: over TCP first of all, over UDP before each echo.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};

use super::protocol::ServerCounts;

/// What a server answers with before it echoes: its name and the client's address as it sees it.
fn greeting(name: &str, client: SocketAddr) -> Vec<u8> {
    format!("{name} {client}\n").into_bytes()
}

/// Reads a greeting without its end of line.
pub(super) fn read_greeting(line: &[u8]) -> io::Result<(String, SocketAddr)> {
    let read = || {
        let (name, client) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        Some((name.to_owned(), client.parse().ok()?))
    };
    read().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What the thread of a server and its owner share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    mode: AtomicU8,
    pub(super) accepted: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// Serving as usual.
const SERVING: u8 = 0;
/// No new connections; those there are go on.
const DRAINING: u8 = 1;
/// Neither.
const STOPPED: u8 = 2;

impl Shared {
    pub(super) fn counts(&self) -> ServerCounts {
        ServerCounts {
            accepted: self.accepted.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stop(&self, keep_connections: bool) {
        let mode = if keep_connections { DRAINING } else { STOPPED };
        self.mode.store(mode, Ordering::Release);
    }

    pub(super) fn stopped(&self) -> bool {
        self.mode.load(Ordering::Acquire) != SERVING
    }
}

/// How long a blocking UDP server sleeps before it looks whether it was stopped.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Echoes datagrams until stopped.
pub(super) fn serve_udp(socket: &UdpSocket, name: &str, shared: &Shared) -> io::Result<()> {
    socket.set_read_timeout(Some(LOOK_AGAIN))?;
    let mut buffer = vec![0; 64 << 10];
    while !shared.stopped() {
        // An error of an earlier answer is reported here; it is the client's who went away.
        let Ok((count, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        shared.count_received(count);
        let mut answer = greeting(name, client);
        answer.extend_from_slice(&buffer[..count]);
        // An answer that cannot be sent is a lost datagram.
        let _ = socket.send_to(&answer, client);
    }
    Ok(())
}

const LISTENER: u64 = 0;
const WAKER: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

/// A TCP echo server: one thread, any number of connections.
pub(super) struct TcpEcho {
    listener: Option<TcpListener>,
    waker: Arc<OwnedFd>,
    epoll: OwnedFd,
    name: String,
    shared: Arc<Shared>,
    connections: HashMap<u64, Connection>,
    next: u64,
}

struct Connection {
    stream: TcpStream,
    /// Read but not written yet.
    pending: Vec<u8>,
    /// What the epoll set is told to wait for: room to write, or something to read.
    waits_for_room: bool,
}

impl TcpEcho {
    pub(super) fn new(
        listener: TcpListener,
        name: String,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(
            &epoll,
            &listener,
            epoll::EventData::new_u64(LISTENER),
            readable,
        )?;
        epoll::add(&epoll, &waker, epoll::EventData::new_u64(WAKER), readable)?;
        Ok(Self {
            listener: Some(listener),
            waker: Arc::new(waker),
            epoll,
            name,
            shared,
            connections: HashMap::new(),
            next: FIRST_CONNECTION,
        })
    }

    /// Writing to it (8 bytes) makes the server look whether it was stopped.
    pub(super) fn waker(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.waker)
    }

    pub(super) fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    WAKER => {
                        // The count is of no interest, and it is there: the event says so.
                        let _ = rustix::io::read(&self.waker, &mut [0; 8]);
                        match self.shared.mode.load(Ordering::Acquire) {
                            STOPPED => return Ok(()),
                            // Closing it takes it out of the set.
                            _ => self.listener = None,
                        }
                    }
                    id => self.echo(id),
                }
            }
        }
    }

    fn accept(&mut self) {
        // Ends with EAGAIN, or when a connection was reset while it waited; the next event goes on.
        while let Some(listener) = &self.listener
            && let Ok((mut stream, client)) = listener.accept()
        {
            self.shared.accepted.fetch_add(1, Ordering::Relaxed);
            let ready = stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| stream.write_all(&greeting(&self.name, client)))
                .and_then(|()| {
                    let data = epoll::EventData::new_u64(self.next);
                    epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
                    Ok(())
                });
            // A client that has gone already is no concern of the others.
            if ready.is_ok() {
                let connection = Connection {
                    stream,
                    pending: Vec::new(),
                    waits_for_room: false,
                };
                self.connections.insert(self.next, connection);
                self.next += 1;
            }
        }
    }

    fn echo(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let goes_on = connection.turn(&self.shared).and_then(|()| {
            let wants_room = !connection.pending.is_empty();
            if wants_room == connection.waits_for_room {
                return Ok(());
            }
            connection.waits_for_room = wants_room;
            let wanted = if wants_room {
                epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            epoll::modify(
                &self.epoll,
                &connection.stream,
                epoll::EventData::new_u64(id),
                wanted,
            )?;
            Ok(())
        });
        if goes_on.is_err() {
            self.connections.remove(&id);
        }
    }
}

impl Connection {
    /// Writes what is left over, else reads once and writes it back. An error, or the end, ends the connection.
    fn turn(&mut self, shared: &Shared) -> io::Result<()> {
        if self.pending.is_empty() {
            let mut buffer = [0; 16 << 10];
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                result => result?,
            };
            shared.count_received(count);
            self.pending.extend_from_slice(&buffer[..count]);
        }
        match self.stream.write(&self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
