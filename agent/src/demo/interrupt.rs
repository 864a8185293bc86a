//! Ctrl-C: noted, so that the demo can clean up before it ends.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Whether someone wants the demo to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// From here on SIGINT and SIGTERM no longer end the process, but are noted.
    pub(super) fn install() -> Result<Self> {
        let interrupt = Self::default();
        let noted = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot wait for signals")?;
        let mut signals = {
            let _guard = runtime.enter();
            [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            ]
        };
        thread::Builder::new()
            .name("weir-signals".into())
            .spawn(move || {
                let [interrupt, terminate] = &mut signals;
                runtime.block_on(async {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                });
                noted.set();
            })?;
        Ok(interrupt)
    }

    fn set(&self) {
        let (set, changed) = &*self.0;
        *set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Sleeps.
    ///
    /// # Errors
    /// When interrupted meanwhile or before.
    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        let (set, changed) = &*self.0;
        let guard = set.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, duration, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        if *guard {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Returns once interrupted.
    pub(super) fn wait(&self) {
        while self.sleep(Duration::from_secs(3600)).is_ok() {}
    }
}
