//! Work that goes on in the background of a worker.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Tells the threads of a job to end.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: AtomicBool,
    guard: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    fn set(&self) {
        let _guard = lock(&self.guard);
        self.set.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Sleeps for so long, or until told to end.
    pub(super) fn sleep(&self, duration: Duration) {
        if !duration.is_zero() {
            // Waiting ends the same way whether it was told, ran out, or the guard was poisoned.
            let _ = self
                .changed
                .wait_timeout_while(lock(&self.guard), duration, |()| !self.is_set());
        }
    }
}

/// Threads, what stops them, and what they have to report.
pub(super) struct Job {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    report: Box<dyn Fn() -> serde_json::Result<serde_json::Value> + Send>,
}

impl Job {
    /// Runs `work` on so many threads, each told its number. `report` is asked at any time.
    pub(super) fn start(
        threads: usize,
        work: impl Fn(usize, &Stop) + Send + Sync + 'static,
        report: impl Fn() -> serde_json::Result<serde_json::Value> + Send + 'static,
    ) -> io::Result<Self> {
        let mut job = Self {
            stop: Arc::new(Stop::default()),
            threads: Vec::with_capacity(threads),
            report: Box::new(report),
        };
        let work = Arc::new(work);
        for number in 0..threads {
            let (stop, work) = (Arc::clone(&job.stop), Arc::clone(&work));
            let thread = thread::Builder::new()
                .stack_size(256 << 10)
                .spawn(move || work(number, &stop))?;
            job.threads.push(thread);
        }
        Ok(job)
    }

    pub(super) fn done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    pub(super) fn report(&self) -> serde_json::Result<serde_json::Value> {
        (self.report)()
    }

    /// Tells the threads to end and waits for them.
    pub(super) fn stop(&mut self) {
        self.stop.set();
        for thread in self.threads.drain(..) {
            // A panic has been printed; what was done until then is still reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // For the threads there are when the next one could not be started.
        self.stop.set();
    }
}

/// A panic of one thread does not make what the lock guards unusable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
