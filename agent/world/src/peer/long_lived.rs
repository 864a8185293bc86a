//! Sockets that stay open, with a request now and then.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::exchange::{Failure, Outcome, Transport};
use super::job::{Job, Stop, lock};
use super::traffic::{Break, LongLivedReport, LongLivedSpec};

struct LongLived {
    spec: LongLivedSpec,
    start: Instant,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// Without what is open.
    report: LongLivedReport,
    /// Open sockets, with the server of the last answer.
    open: BTreeMap<usize, Option<String>>,
}

pub(super) fn start(spec: LongLivedSpec) -> io::Result<Job> {
    let connections = spec.connections;
    let long_lived = Arc::new(LongLived {
        spec,
        start: Instant::now(),
        tally: Mutex::default(),
    });
    let reported = Arc::clone(&long_lived);
    Job::start(
        connections,
        move |number, stop| long_lived.keep(number, stop),
        move || serde_json::to_value(reported.report()),
    )
}

impl LongLived {
    /// Keeps socket `number` open and busy.
    fn keep(&self, number: usize, stop: &Stop) {
        let goes_on = || !stop.is_set() && self.start.elapsed() < self.spec.duration;
        while goes_on() {
            let (conversation, outcome) = Conversation::open(&self.spec.exchange);
            if let Some(conversation) = conversation {
                lock(&self.tally).open.insert(number, outcome.answered_by);
                self.ask(number, conversation, stop, &goes_on);
                lock(&self.tally).open.remove(&number);
            } else if let Some(failure) = outcome.failure {
                self.broken(number, failure);
            }
            if !self.spec.reopen {
                break;
            }
            stop.sleep(self.spec.every.max(Duration::from_millis(1)));
        }
    }

    /// Asks until it is time to end, or a connection breaks.
    fn ask(
        &self,
        number: usize,
        mut conversation: Conversation,
        stop: &Stop,
        goes_on: &impl Fn() -> bool,
    ) {
        let exchange = &self.spec.exchange;
        while goes_on() {
            let outcome = conversation.ask(&exchange.payload, exchange.timeout);
            if let Some(failure) = outcome.failure {
                self.broken(number, failure);
                if exchange.transport == Transport::Tcp {
                    return;
                }
            } else {
                self.answered(number, outcome);
            }
            stop.sleep(self.spec.every);
        }
    }

    fn answered(&self, number: usize, outcome: Outcome) {
        let mut tally = lock(&self.tally);
        tally.report.requests += 1;
        tally.report.max = tally.report.max.max(outcome.elapsed);
        if let Some(server) = outcome.answered_by {
            *tally.report.answered_by.entry(server.clone()).or_default() += 1;
            tally.open.insert(number, Some(server));
        }
    }

    fn broken(&self, connection: usize, failure: Failure) {
        let at = self.start.elapsed();
        let mut tally = lock(&self.tally);
        let answered_by = tally.open.get(&connection).cloned().flatten();
        tally.report.breaks.push(Break {
            connection,
            at,
            answered_by,
            failure,
        });
    }

    fn report(&self) -> LongLivedReport {
        let tally = lock(&self.tally);
        let mut report = tally.report.clone();
        report.open = tally.open.len() as u64;
        for server in tally.open.values().flatten() {
            *report.open_to.entry(server.clone()).or_default() += 1;
        }
        report
    }
}
