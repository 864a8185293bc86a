//! One watch: lists, follows, and starts over as needed, for as long as the agent runs.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{self, Failure, Recovery};
use super::fold::Fold;
use super::guard::Reduced;
use super::pace::Pace;
use super::servers::{self, Servers};
use super::{Options, client, configure};
use crate::source::reduce::{Reduce, label_selector};
use crate::source::{Event, Subject};

/// The server ends a watch after 200 to 290 s, drawn anew for each client so that nodes do not come back together; the
/// watcher gives up 5 s later by itself.
const WATCH_SECONDS: std::ops::Range<u32> = 200..290;
/// The longest silence within a list.
const LIST_SILENCE: Duration = Duration::from_secs(60);
/// A watch that worked for this long is well, and its next failure is a first one.
const WELL: Duration = Duration::from_secs(10);
/// After this many failures in a row the configuration is read anew: it may name another server or CA by now.
const RECONNECT_AFTER: u32 = 12;

/// The watch of one kind.
pub(super) struct Watch {
    pub(super) options: Options,
    pub(super) servers: Arc<Servers>,
    pub(super) page_size: u32,
    /// A field selector, or nothing.
    pub(super) fields: String,
    pub(super) events: mpsc::Sender<Event>,
}

/// Whoever reads the events is gone.
#[derive(Debug)]
pub(super) struct Closed;

impl Watch {
    /// Follows the objects of kind `K` until nobody reads the events.
    pub(super) async fn follow<K: Reduce>(self) {
        let mut follower = Follower::new(K::KIND.into(), Fold::new(K::KIND), self.events.clone());
        follower.servers = Some(Arc::clone(&self.servers));
        loop {
            let followed = match self.connect().await {
                Ok((client, opened, server)) => {
                    let stream = watcher(Api::<Reduced<K>>::all(client), self.config::<K>());
                    follower.follow(stream, &opened, &server).await
                }
                Err(failure) => follower.failed(&failure).await.map(drop),
            };
            if followed.is_err() {
                return;
            }
        }
    }

    async fn connect(&self) -> Result<(kube::Client, Arc<Notify>, String), Failure> {
        let mut config = configure(&self.options)
            .await
            .map_err(|error| failure::unusable_credentials(&error))?;
        self.servers.choose(&mut config);
        let (client, opened) =
            client::build(&config).map_err(|error| failure::unusable_credentials(&error))?;
        Ok((client, opened, servers::display(&config.cluster_url)))
    }

    fn config<K: Reduce>(&self) -> watcher::Config {
        let mut config = watcher::Config::default()
            .page_size(self.page_size)
            .timeout(fastrand::u32(WATCH_SECONDS));
        let labels = label_selector::<K>();
        if !labels.is_empty() {
            config = config.labels(&labels);
        }
        if !self.fields.is_empty() {
            config = config.fields(&self.fields);
        }
        config
    }
}

/// What lasts from one client to the next.
pub(super) struct Follower {
    kind: Subject,
    fold: Fold,
    events: mpsc::Sender<Event>,
    servers: Option<Arc<Servers>>,
    pace: Pace,
    /// Since when the watch has worked, if it does.
    works: Option<Instant>,
}

impl Follower {
    pub(super) fn new(kind: Subject, fold: Fold, events: mpsc::Sender<Event>) -> Self {
        Self {
            kind,
            fold,
            events,
            servers: None,
            pace: Pace::default(),
            works: None,
        }
    }

    /// Follows one stream, until it needs to be made anew.
    pub(super) async fn follow<K: Reduce>(
        &mut self,
        stream: impl Stream<Item = watcher::Result<watcher::Event<Reduced<K>>>>,
        opened: &Notify,
        server: &str,
    ) -> Result<(), Closed> {
        let mut stream = pin!(stream);
        loop {
            let item = tokio::select! {
                biased;
                () = self.events.closed() => return Err(Closed),
                () = opened.notified() => {
                    self.started().await?;
                    continue;
                }
                item = patiently(stream.next(), self.fold.is_listing()) => item,
            };
            let failure = match item {
                Some(Some(Ok(event))) => {
                    for event in self.fold.fold(event) {
                        self.send(event).await?;
                    }
                    continue;
                }
                Some(Some(Err(error))) => failure::explain::<K>(server, &error),
                Some(None) => return Ok(()),
                None => failure::stalled::<K>(server, LIST_SILENCE),
            };
            // One that has just worked gets a second chance: most often only a connection broke. What counts is who is known
            // now, not who is learned of while this waits: a server that is back by then is to be asked again.
            let moves_on = failure.recovery == Recovery::NextServer
                && self.works.is_none()
                && self.has_another(server);
            let recovery = self.failed(&failure).await?;
            let hopeless = self.pace.failures().is_multiple_of(RECONNECT_AFTER);
            let go_on = match recovery {
                Recovery::Resume | Recovery::NextServer => !hopeless && !moves_on,
                Recovery::Relist | Recovery::Reconnect => false,
            };
            if !go_on {
                return Ok(());
            }
        }
    }

    /// Reports a failure and waits until it is time for the next attempt.
    async fn failed(&mut self, failure: &Failure) -> Result<Recovery, Closed> {
        if self.works.is_some_and(|since| since.elapsed() >= WELL) {
            self.pace.reset();
        }
        if failure.recovery == Recovery::Relist {
            tracing::debug!(kind = %self.kind, "{}", failure.text);
        } else {
            self.works = None;
            self.send(Event::WatchFailed {
                kind: self.kind,
                error: failure.text.clone(),
            })
            .await?;
        }
        let wait = self.pace.after(failure);
        tokio::select! {
            () = self.events.closed() => Err(Closed),
            () = sleep(wait) => Ok(failure.recovery),
        }
    }

    async fn started(&mut self) -> Result<(), Closed> {
        if self.works.is_none() {
            self.works = Some(Instant::now());
            self.send(Event::WatchStarted { kind: self.kind }).await?;
        }
        Ok(())
    }

    /// Whether there is another server to try than this one, which does not answer.
    fn has_another(&self, server: &str) -> bool {
        self.servers
            .as_ref()
            .is_some_and(|servers| servers.failed(server))
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        if let (Some(servers), Event::Change(change)) = (&self.servers, &event) {
            servers.observe(change);
        }
        self.events.send(event).await.map_err(|_| Closed)
    }
}

/// Waits without end for a watch, which has a deadline of its own, but only so long for the next page of a list.
/// `None` when that took too long.
async fn patiently<T>(next: impl Future<Output = T>, listing: bool) -> Option<T> {
    if listing {
        timeout(LIST_SILENCE, next).await.ok()
    } else {
        Some(next.await)
    }
}
