//! A server whose port is free again the moment it is dropped.

use std::{
    future::{pending, poll_fn},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use axum::{Router, serve::Listener};
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

const BACKLOG: u32 = 128;
/// How long to wait when a connection cannot be accepted for want of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// A listening server.
pub(super) struct Server {
    listener: Shared,
    task: JoinHandle<()>,
}

/// The listener, as long as it is to be there. Ending the task that accepts from it would close it as well, but only when
/// the runtime comes round to it.
type Shared = Arc<Mutex<Option<TcpListener>>>;

/// Listens at `address`; at `[::]` for IPv4 too, and for IPv4 alone where there is no IPv6.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listen = |address: SocketAddr| {
        let socket = if address.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match listen(address) {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

impl Server {
    /// Answers what comes to `listener`. Must be called within a Tokio runtime.
    pub(super) fn start(listener: TcpListener, router: Router) -> Self {
        let listener = Arc::new(Mutex::new(Some(listener)));
        let accepting = Accepting(Arc::clone(&listener));
        let task = tokio::spawn(crate::http::serve(accepting, router, pending()));
        Self { listener, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        *listener = None;
        self.task.abort();
    }
}

struct Accepting(Shared);

impl Listener for Accepting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = poll_fn(|context| {
                let listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                match &*listener {
                    Some(listener) => listener.poll_accept(context),
                    None => Poll::Pending,
                }
            });
            match accepted.await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::debug!(%error, "a health check's connection cannot be accepted");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*listener {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Whether only the connection is at fault, which was gone before it was accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
