//! From changes to kernel tables: coalesce, compile, plan, apply, retried and measured.
//!
//! One thread owns the state and the tables. It takes whatever has arrived, brings the tables to it, and looks again; the
//! longer a sync takes, the more changes the next one takes at once.

mod backoff;
mod effects;
mod engine;
mod locality;
mod report;
mod view;

use std::{thread, time::Instant};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

pub use effects::Effects;
pub use engine::{Engine, LastSync};
pub use report::Report;

use crate::{dataplane::Dataplane, source::Event};

/// The most events that are taken before the tables follow, so that a storm cannot keep them waiting.
const EVENTS_PER_SYNC: usize = 4096;

type Query<D> = Box<dyn FnOnce(&Engine<D>) + Send>;

/// Asks the engine's thread.
pub struct EngineHandle<D> {
    queries: mpsc::Sender<Query<D>>,
}

impl<D> Clone for EngineHandle<D> {
    fn clone(&self) -> Self {
        Self {
            queries: self.queries.clone(),
        }
    }
}

impl<D: Dataplane + 'static> EngineHandle<D> {
    /// What `question` says of the engine between two syncs; `None` when the engine has stopped.
    pub async fn ask<T, F>(&self, question: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Engine<D>) -> T + Send + 'static,
    {
        let (query, answer) = query(question);
        self.queries.send(query).await.ok()?;
        answer.await.ok()
    }

    /// [`EngineHandle::ask`] from a thread that may block.
    pub fn ask_blocking<T, F>(&self, question: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Engine<D>) -> T + Send + 'static,
    {
        let (query, answer) = query(question);
        self.queries.blocking_send(query).ok()?;
        answer.blocking_recv().ok()
    }
}

fn query<D, T, F>(question: F) -> (Query<D>, oneshot::Receiver<T>)
where
    T: Send + 'static,
    F: FnOnce(&Engine<D>) -> T + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let query: Query<D> = Box::new(move |engine| {
        // Whoever asked may have gone.
        let _ = reply.send(question(engine));
    });
    (query, answer)
}

/// Starts the engine's thread. It ends when `events` does, or when every handle is gone.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn<D: Dataplane + 'static>(
    mut engine: Engine<D>,
    mut events: mpsc::Receiver<Event>,
) -> Result<(EngineHandle<D>, thread::JoinHandle<()>)> {
    let (sender, mut queries) = mpsc::channel::<Query<D>>(16);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("cannot start the sync thread's runtime")?;
    let thread = thread::Builder::new()
        .name("weir-sync".into())
        .spawn(move || runtime.block_on(run(&mut engine, &mut events, &mut queries)))
        .context("cannot start the sync thread")?;
    Ok((EngineHandle { queries: sender }, thread))
}

async fn run<D: Dataplane>(
    engine: &mut Engine<D>,
    events: &mut mpsc::Receiver<Event>,
    queries: &mut mpsc::Receiver<Query<D>>,
) {
    loop {
        let deadline = engine.next_deadline();
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                engine.handle(event);
                for _ in 1..EVENTS_PER_SYNC {
                    let Ok(event) = events.try_recv() else { break };
                    engine.handle(event);
                }
            }
            query = queries.recv() => {
                let Some(query) = query else { return };
                query(engine);
                continue;
            }
            () = timer => {}
        }
        engine.tick(Instant::now());
    }
}

#[cfg(test)]
mod tests;
