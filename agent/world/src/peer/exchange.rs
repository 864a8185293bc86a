//! Exchanges with echo servers, and what becomes of them.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a client talks to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// A connection.
    #[default]
    Tcp,
    /// `sendto` and `recvfrom` on a socket without a peer.
    Udp,
    /// `connect`, `send` and `recv`.
    UdpConnected,
}

/// One request to an echo server and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// Where to. `::ffff:a.b.c.d` makes an IPv6 socket talk IPv4.
    pub to: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Address and port to bind to first; either may be left open by its zero.
    pub from: Option<SocketAddr>,
    /// What to send and expect back. May be empty with TCP, where the server speaks first.
    pub payload: String,
    /// For connecting, and again for each answer.
    pub timeout: Duration,
    /// Close with a reset, which leaves no port in TIME_WAIT.
    pub reset_on_close: bool,
}

impl Exchange {
    /// Over TCP, within two seconds, closed in order.
    #[must_use]
    pub fn tcp(to: impl Into<SocketAddr>) -> Self {
        Self {
            to: to.into(),
            transport: Transport::Tcp,
            from: None,
            payload: "ping".to_owned(),
            timeout: Duration::from_secs(2),
            reset_on_close: false,
        }
    }

    /// Over UDP with `sendto` and `recvfrom`, within two seconds.
    #[must_use]
    pub fn udp(to: impl Into<SocketAddr>) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::tcp(to)
        }
    }

    /// Over UDP with a connected socket, within two seconds.
    #[must_use]
    pub fn udp_connected(to: impl Into<SocketAddr>) -> Self {
        Self {
            transport: Transport::UdpConnected,
            ..Self::tcp(to)
        }
    }

    /// From this address and port.
    #[must_use]
    pub fn from(mut self, from: impl Into<SocketAddr>) -> Self {
        self.from = Some(from.into());
        self
    }

    /// Within this time, for connecting and again for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<String>) -> Self {
        self.payload = payload.into();
        self
    }
}

/// What became of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the server that answered.
    pub answered_by: Option<String>,
    /// The client's address as that server saw it.
    pub seen_from: Option<SocketAddr>,
    /// The client's address as `getsockname` gives it.
    pub local: Option<SocketAddr>,
    /// The server's address as `getpeername` gives it; none for an unconnected socket.
    pub peer: Option<SocketAddr>,
    /// Source of the answer as `recvfrom` gives it; none for TCP.
    pub reply_from: Option<SocketAddr>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// From the first system call to the answer or the failure.
    pub elapsed: Duration,
}

impl Outcome {
    /// Whether the answer came and was the right one.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failure.is_none()
    }

    /// Name of the error, if it failed: see [`Failure::errno`].
    #[must_use]
    pub fn errno(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.errno.as_str())
    }
}

/// Where an exchange failed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub step: Step,
    /// Name of the error, such as `ECONNREFUSED`. `TIMEOUT` if the time given ran out (`ETIMEDOUT` is the kernel's own),
    /// `EOF` if the server closed without an answer, `MISMATCH` if it answered something else than the echo, or from another
    /// address than the one that was asked.
    pub errno: String,
}

/// A step of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Making and binding the socket.
    Open,
    /// Connecting it.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the answer.
    Receive,
}
