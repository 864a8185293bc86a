//! Many short exchanges at once.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::conversation::exchange;
use super::exchange::Outcome;
use super::histogram::Histogram;
use super::job::{Job, Stop, lock};
use super::traffic::{LoadReport, LoadSpec};

struct Load {
    spec: LoadSpec,
    start: Instant,
    /// Exchanges begun.
    begun: AtomicU64,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// Without its quantiles.
    report: LoadReport,
    answered: Histogram,
}

pub(super) fn start(spec: LoadSpec) -> io::Result<Job> {
    let workers = spec.workers.max(1);
    let load = Arc::new(Load {
        spec,
        start: Instant::now(),
        begun: AtomicU64::new(0),
        tally: Mutex::default(),
    });
    let reported = Arc::clone(&load);
    Job::start(
        workers,
        move |_, stop| load.work(stop),
        move || serde_json::to_value(reported.report()),
    )
}

impl Load {
    fn work(&self, stop: &Stop) {
        let most = self.spec.count.unwrap_or(u64::MAX);
        while !stop.is_set()
            && self.start.elapsed() < self.spec.duration
            && self.begun.fetch_add(1, Ordering::Relaxed) < most
        {
            let outcome = exchange(&self.spec.exchange);
            lock(&self.tally).add(outcome, self.start.elapsed());
            stop.sleep(self.spec.pause);
        }
    }

    fn report(&self) -> LoadReport {
        let tally = lock(&self.tally);
        LoadReport {
            p50: tally.answered.quantile(0.5),
            p99: tally.answered.quantile(0.99),
            ..tally.report.clone()
        }
    }
}

impl Tally {
    /// Counts an exchange that ended so long after the start.
    fn add(&mut self, outcome: Outcome, at: Duration) {
        let report = &mut self.report;
        report.max = report.max.max(outcome.elapsed);
        report.elapsed = at;
        if let Some(failure) = outcome.failure {
            *report.failed.entry(failure.errno.clone()).or_default() += 1;
            report.first_failure.get_or_insert((at, failure));
        } else {
            report.ok += 1;
            self.answered.record(outcome.elapsed);
            if let Some(server) = outcome.answered_by {
                *report.answered_by.entry(server).or_default() += 1;
            }
        }
    }
}
