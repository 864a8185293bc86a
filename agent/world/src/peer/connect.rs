//! Opening client sockets, within a time, from a chosen address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::exchange::{Exchange, Step, Transport};

/// A socket of either transport.
pub(super) enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Socket {
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
        .ok()
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr(),
            Self::Udp(socket) => socket.peer_addr(),
        }
        .ok()
    }
}

/// Opens a socket for an exchange and connects it, unless its transport does not.
pub(super) fn open(exchange: &Exchange) -> Result<Socket, (Step, io::Error)> {
    match exchange.transport {
        Transport::Tcp => tcp(exchange).map(Socket::Tcp),
        Transport::Udp | Transport::UdpConnected => udp(exchange).map(Socket::Udp),
    }
}

fn tcp(exchange: &Exchange) -> Result<TcpStream, (Step, io::Error)> {
    let opened = || -> io::Result<OwnedFd> {
        let socket = socket_with(
            family(exchange.to),
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        if let Some(from) = exchange.from {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &from)?;
        }
        if exchange.reset_on_close {
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        Ok(socket)
    };
    let socket = opened().map_err(|error| (Step::Open, error))?;
    match connect(&socket, &exchange.to) {
        Ok(()) => Ok(()),
        Err(Errno::INPROGRESS) => finish(&socket, exchange.timeout),
        Err(errno) => Err(errno.into()),
    }
    .map_err(|error| (Step::Connect, error))?;
    let stream = TcpStream::from(socket);
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_nodelay(true));
    ready.map_err(|error| (Step::Open, error))?;
    Ok(stream)
}

/// Waits until a connection stands or has failed.
fn finish(socket: &OwnedFd, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return sockopt::socket_error(socket)?.map_err(Into::into),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn udp(exchange: &Exchange) -> Result<UdpSocket, (Step, io::Error)> {
    let socket = match exchange.from {
        Some(from) => UdpSocket::bind(from),
        None => udp_of_its_own(exchange.to),
    };
    let socket = socket.map_err(|error| (Step::Open, error))?;
    if exchange.transport == Transport::UdpConnected {
        socket
            .connect(exchange.to)
            .map_err(|error| (Step::Connect, error))?;
    }
    Ok(socket)
}

/// A socket at a port that none had before, as long as there are such ports: whoever remembers flows by their ports takes a
/// port that is used again for the same conversation.
fn udp_of_its_own(to: SocketAddr) -> io::Result<UdpSocket> {
    const PORTS: std::ops::Range<u16> = 10_000..60_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let count = PORTS.end - PORTS.start;
    for _ in 0..count {
        let next = NEXT.update(Ordering::Relaxed, Ordering::Relaxed, |n| (n + 1) % count);
        match UdpSocket::bind((any, PORTS.start + next)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}
