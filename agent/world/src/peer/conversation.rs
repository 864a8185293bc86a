//! A client's side of the echo servers: one socket, one or more requests.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connect::{Socket, open};
use super::exchange::{Exchange, Failure, Outcome, Step, Transport};
use super::{echo, errno};

/// An open socket, and who answered last.
pub(super) struct Conversation {
    socket: Socket,
    /// Where datagrams of an unconnected socket go.
    to: Option<SocketAddr>,
    answered_by: Option<String>,
    seen_from: Option<SocketAddr>,
}

/// Opens a socket, makes one request unless its payload is empty, and closes it.
pub(super) fn exchange(exchange: &Exchange) -> Outcome {
    let (conversation, outcome) = Conversation::open(exchange);
    match conversation {
        Some(mut conversation) if !exchange.payload.is_empty() => {
            let opening = outcome.elapsed;
            let mut outcome = conversation.ask(&exchange.payload, exchange.timeout);
            outcome.elapsed += opening;
            outcome
        }
        _ => outcome,
    }
}

impl Conversation {
    /// Opens a socket; a TCP server says at once who it is.
    pub(super) fn open(exchange: &Exchange) -> (Option<Self>, Outcome) {
        let start = Instant::now();
        let socket = match open(exchange) {
            Ok(socket) => socket,
            Err((step, error)) => {
                let outcome = Outcome {
                    failure: Some(failure(step, &error)),
                    elapsed: start.elapsed(),
                    ..Outcome::default()
                };
                return (None, outcome);
            }
        };
        let mut conversation = Self {
            socket,
            to: (exchange.transport == Transport::Udp).then_some(exchange.to),
            answered_by: None,
            seen_from: None,
        };
        let greeted = conversation.greeted(exchange.timeout);
        let mut outcome = conversation.outcome(start);
        match greeted {
            Ok(()) => (Some(conversation), outcome),
            Err(error) => {
                outcome.failure = Some(failure(Step::Receive, &error));
                (None, outcome)
            }
        }
    }

    /// Sends a request and waits for its echo.
    pub(super) fn ask(&mut self, payload: &str, timeout: Duration) -> Outcome {
        let start = Instant::now();
        let answer = match self.socket {
            Socket::Tcp(_) => self.ask_stream(payload, timeout).map(|()| None),
            Socket::Udp(_) => self.ask_datagram(payload, timeout).map(Some),
        };
        let mut outcome = self.outcome(start);
        match answer {
            Ok(reply_from) => outcome.reply_from = reply_from,
            Err((step, error)) => outcome.failure = Some(failure(step, &error)),
        }
        outcome
    }

    fn outcome(&self, start: Instant) -> Outcome {
        Outcome {
            answered_by: self.answered_by.clone(),
            seen_from: self.seen_from,
            local: self.socket.local(),
            peer: self.socket.peer(),
            reply_from: None,
            failure: None,
            elapsed: start.elapsed(),
        }
    }

    fn greeted(&mut self, timeout: Duration) -> io::Result<()> {
        let Socket::Tcp(stream) = &mut self.socket else {
            return Ok(());
        };
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        // The server's line is one small segment; byte by byte would be a system call each, more could be the echo's.
        let mut line = Vec::with_capacity(128);
        let mut buffer = [0; 512];
        while line.last() != Some(&b'\n') {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => line.extend_from_slice(&buffer[..count]),
            }
        }
        line.pop();
        let (name, seen) = echo::read_greeting(&line)?;
        (self.answered_by, self.seen_from) = (Some(name), Some(seen));
        Ok(())
    }

    fn ask_stream(&mut self, payload: &str, timeout: Duration) -> Result<(), (Step, io::Error)> {
        let Socket::Tcp(stream) = &mut self.socket else {
            return Err((Step::Send, io::ErrorKind::Unsupported.into()));
        };
        let prepared = stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.set_write_timeout(Some(timeout)))
            .and_then(|()| stream.write_all(payload.as_bytes()));
        prepared.map_err(|error| (Step::Send, error))?;
        let mut answer = vec![0; payload.len()];
        stream
            .read_exact(&mut answer)
            .map_err(|error| (Step::Receive, error))?;
        same(&answer, payload).map_err(|error| (Step::Receive, error))
    }

    fn ask_datagram(
        &mut self,
        payload: &str,
        timeout: Duration,
    ) -> Result<SocketAddr, (Step, io::Error)> {
        let Socket::Udp(socket) = &self.socket else {
            return Err((Step::Send, io::ErrorKind::Unsupported.into()));
        };
        // Neither belongs to the last answer any more, should this one not come.
        (self.answered_by, self.seen_from) = (None, None);
        let sent = socket
            .set_read_timeout(Some(timeout))
            .and_then(|()| match self.to {
                Some(to) => socket.send_to(payload.as_bytes(), to),
                None => socket.send(payload.as_bytes()),
            });
        sent.map_err(|error| (Step::Send, error))?;
        let mut buffer = vec![0; payload.len() + 512];
        let mut received = || -> io::Result<_> {
            let (count, from) = socket.recv_from(&mut buffer)?;
            // As a resolver does; the kernel does it for connected sockets.
            if self.to.is_some_and(|to| to != from) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let answer = &buffer[..count];
            let end = answer.iter().position(|&byte| byte == b'\n');
            let (line, echoed) = end
                .map(|end| (&answer[..end], &answer[end + 1..]))
                .ok_or(io::ErrorKind::InvalidData)?;
            same(echoed, payload)?;
            Ok((echo::read_greeting(line)?, from))
        };
        let ((name, seen), from) = received().map_err(|error| (Step::Receive, error))?;
        (self.answered_by, self.seen_from) = (Some(name), Some(seen));
        Ok(from)
    }
}

fn same(echoed: &[u8], payload: &str) -> io::Result<()> {
    if echoed == payload.as_bytes() {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn failure(step: Step, error: &io::Error) -> Failure {
    Failure {
        step,
        errno: errno::name(error),
    }
}
