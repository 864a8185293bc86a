//! Handles of what goes on in a worker: servers, open sockets, work in the background.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::exchange::Outcome;
use super::handle::{PATIENCE, Peer};
use super::protocol::{Command, ServerCounts};
use crate::error::Result;

/// A server of a peer. It goes on when the handle is dropped.
#[derive(Clone, Debug)]
pub struct Server {
    peer: Peer,
    id: u64,
    at: SocketAddr,
}

impl Server {
    pub(super) fn new(peer: Peer, id: u64, at: SocketAddr) -> Self {
        Self { peer, id, at }
    }

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
    pub(super) fn new(peer: Peer, id: u64, timeout: Duration) -> Self {
        Self { peer, id, timeout }
    }

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

impl<R> Job<R> {
    pub(super) fn new(peer: Peer, id: u64, duration: Duration, last: Duration) -> Self {
        Self {
            peer,
            id,
            last,
            ends: Instant::now() + duration,
            report: PhantomData,
        }
    }
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
