//! The one owner of cluster state and kernel tables: takes changes, and moves the tables to what they ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};
use weir_core::{
    compile,
    model::{Kind, ObjectName},
    plan::{Op, Programmed, Retired},
    settings::Settings,
    state::{Change, Cluster, Dirty},
};

use super::{backoff::Backoff, effects::Effects, locality::NoLocalEndpoints, report::Report};
use crate::{
    dataplane::{Dataplane, Error, GracePeriod},
    source::{Event, Subject},
};

/// Retired slots and ids are given back after a quiet moment of this length,
const SETTLE_WHEN_QUIET: Duration = Duration::from_millis(50);
/// or, when there is no quiet moment, this long after they were retired.
const SETTLE_AT_LATEST: Duration = Duration::from_millis(500);

/// How often to look whether a grace period is over. It takes milliseconds, tens of them on a busy machine.
const GRACE_LOOK: Duration = Duration::from_millis(5);

/// What can be given back after a grace period: first these operations, then what they retire.
type Batch = Vec<(Vec<Op>, Retired)>;

/// See the module.
pub struct Engine<D> {
    pub(super) cluster: Cluster,
    pub(super) dataplane: D,
    /// What the tables hold. `None` before the first sync and after a failed one: then they are read again.
    pub(super) programmed: Option<Programmed>,
    pub(super) dirty: Dirty,
    pub(super) dirty_since: Option<Instant>,
    no_local: NoLocalEndpoints,
    /// What was last reported of each service that is not programmed as it should be.
    pub(super) unfit: BTreeMap<ObjectName, String>,
    pub(super) sources: BTreeMap<Subject, SourceState>,
    pub(super) skipped: BTreeMap<(Subject, String), String>,
    pub(super) last: Option<LastSync>,
    pub(super) last_success: Option<Instant>,
    pub(super) syncs: u64,
    pub(super) failures: u64,
    retired: Batch,
    retired_since: Option<Instant>,
    /// What is given back once the grace period is over, which nobody waits for: changes go on meanwhile.
    settling: Option<(GracePeriod, Batch)>,
    look_at_grace: Instant,
    last_event: Option<Instant>,
    node_was_there: bool,
    effects: Effects,
    health_checks: compile::HealthChecks,
    started: jiff::Timestamp,
    backoff: Backoff,
    pub(super) report: Report,
    after_first_sync: Option<Box<dyn FnOnce() + Send>>,
}

/// How the source of one kind of object does.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceState {
    /// Whether its whole list was received, once.
    pub listed: bool,
    /// When it last said something.
    pub last_event: Option<Instant>,
    /// Why it does not work at present.
    pub error: Option<String>,
}

/// When and how the last sync went.
#[derive(Clone, Debug)]
pub struct LastSync {
    /// When it ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl<D: Dataplane> Engine<D> {
    /// An engine that knows nothing yet and has not looked at the tables.
    pub fn new(node_name: &str, dataplane: D, report: Report) -> Self {
        Self {
            cluster: Cluster::new(node_name),
            dataplane,
            programmed: None,
            dirty: Dirty::default(),
            dirty_since: None,
            no_local: NoLocalEndpoints::default(),
            unfit: BTreeMap::new(),
            sources: BTreeMap::new(),
            skipped: BTreeMap::new(),
            last: None,
            last_success: None,
            syncs: 0,
            failures: 0,
            retired: Vec::new(),
            retired_since: None,
            settling: None,
            look_at_grace: Instant::now(),
            last_event: None,
            node_was_there: false,
            started: jiff::Timestamp::now(),
            backoff: Backoff::default(),
            report,
            effects: Effects::default(),
            health_checks: compile::HealthChecks::default(),
            after_first_sync: None,
        }
    }

    /// Who is told of what follows from syncs.
    pub fn with_effects(&mut self, effects: Effects) {
        self.effects = effects;
    }

    /// Settles what the operator decides.
    pub fn set_settings(&mut self, settings: Settings) {
        let dirty = self.cluster.set_settings(settings);
        self.dirty.merge(dirty);
    }

    /// Does `work` once the tables hold what every source says: only then is it known what an earlier agent left over.
    pub fn after_first_sync(&mut self, work: impl FnOnce() + Send + 'static) {
        self.after_first_sync = Some(Box::new(work));
    }

    /// Takes an event into the state. The tables follow with the next [`Engine::sync`].
    pub fn handle(&mut self, event: Event) {
        let now = Instant::now();
        self.last_event = Some(now);
        self.report.event(&event);
        self.effects.event(&event);
        match event {
            Event::Change(change) => self.change(change),
            Event::Listed(kind) => {
                let source = self.source(kind.into());
                source.last_event = Some(now);
                source.error = None;
                let first = !std::mem::replace(&mut source.listed, true);
                if first && self.is_ready() {
                    info!("every source has listed");
                }
            }
            Event::Skipped { kind, name, error } => {
                warn!(%kind, name, error, "skipped an object");
                self.effects.skipped(kind, &name, &error);
                self.skipped.insert((kind, name), error);
                self.report_skipped(kind);
            }
            Event::Restored { kind, name } => {
                info!(%kind, name, "an object that was skipped is fine now, or gone");
                self.skipped.remove(&(kind, name));
                self.report_skipped(kind);
            }
            Event::WatchFailed { kind, error } => {
                let source = self.source(kind);
                // An outage fails every few seconds: said once, and again when the reason is another.
                if source.error.as_ref() == Some(&error) {
                    debug!(%kind, error, "watch failed again");
                } else {
                    warn!(%kind, error, "watch failed");
                }
                source.error = Some(error);
            }
            Event::WatchStarted { kind } => {
                info!(%kind, "watching");
                self.source(kind).error = None;
            }
        }
    }

    fn source(&mut self, kind: Subject) -> &mut SourceState {
        self.sources.entry(kind).or_default()
    }

    fn change(&mut self, change: Change) {
        let kind = change.kind();
        let now = Instant::now();
        self.source(kind.into()).last_event = Some(now);
        let dirty = self.cluster.apply(change);
        if !dirty.is_empty() {
            self.dirty_since.get_or_insert(now);
            self.report.queued(kind);
            self.dirty.merge(dirty);
        }
        if kind == Kind::Node {
            let node = self.cluster.this_node();
            self.report.this_node(node, self.node_was_there);
            self.effects.this_node(node);
            self.node_was_there |= node.is_some();
        }
    }

    fn report_skipped(&self, subject: Subject) {
        if let Subject::Object(kind) = subject {
            let objects = self.skipped.keys().filter(|(of, _)| *of == subject);
            self.report.skipped_now(kind, objects.count());
        }
    }

    /// Whether every source has listed: before that, what is missing from the state may only not have arrived.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.has_listed(*kind))
    }

    /// Whether the whole list of that kind was received.
    pub(super) fn has_listed(&self, kind: Kind) -> bool {
        let source = self.sources.get(&kind.into());
        source.is_some_and(|source| source.listed)
    }

    /// Whether a sync would do anything now.
    #[must_use]
    pub fn wants_sync(&self, now: Instant) -> bool {
        self.is_ready()
            && (!self.dirty.is_empty()
                || self.programmed.as_ref().is_none_or(Programmed::wants_plan))
            && self.backoff.is_over(now)
    }

    /// When to look again if nothing happens: to try again what failed, or to give back what was retired.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let retry = self.backoff.until();
        retry.into_iter().chain(self.settle_at()).min()
    }

    /// When to look after what was retired.
    fn settle_at(&self) -> Option<Instant> {
        if self.settling.is_some() {
            return Some(self.look_at_grace);
        }
        let since = self.retired_since?;
        let quiet = self.last_event.unwrap_or(since) + SETTLE_WHEN_QUIET;
        Some(quiet.min(since + SETTLE_AT_LATEST))
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Instant) {
        if self.wants_sync(now) {
            self.sync();
        }
        if self.settle_at().is_some_and(|at| at <= now) {
            self.settle(now);
            // What was given back may be what another service waits for, and no deadline tells.
            if self.wants_sync(now) {
                self.sync();
            }
        }
    }

    /// Brings the tables to what the state asks for. A failure is reported and tried again later; until then the tables
    /// are whole, only old.
    pub fn sync(&mut self) {
        let syncing = self.report.started();
        let full = self.programmed.is_none();
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut triggers = std::mem::take(&mut dirty.triggers);
        let result = self.reach_desired(dirty);
        let took = match &result {
            Ok(done) => {
                self.syncs += 1;
                self.backoff.reset();
                self.dirty_since = None;
                self.last_success = Some(Instant::now());
                if let Some(work) = self.after_first_sync.take() {
                    work();
                }
                // What changed before this agent began was not its to bring into the kernel in time.
                triggers.retain(|trigger| *trigger > self.started);
                let took = self
                    .report
                    .done(&syncing, full, self.no_local.counts(), &triggers);
                if full {
                    info!(
                        services = done.services,
                        operations = done.operations,
                        ?took,
                        "kernel tables are in sync"
                    );
                } else {
                    debug!(
                        services = done.services,
                        operations = done.operations,
                        ?took,
                        "synced"
                    );
                }
                took
            }
            Err(failure) => {
                self.dirty.triggers.extend(triggers);
                let took = self.report.failed(&syncing, full);
                let wait = self.failed(failure, took);
                error!(%failure, retry_in = ?wait, "cannot write the kernel tables; they stay as they were");
                return;
            }
        };
        self.last = Some(LastSync {
            at: Instant::now(),
            took,
            error: None,
        });
    }

    /// Notes a failure; says how long to wait. What the tables hold is not known any more.
    fn failed(&mut self, failure: &Error, took: Duration) -> Duration {
        self.failures += 1;
        self.programmed = None;
        self.last = Some(LastSync {
            at: Instant::now(),
            took,
            error: Some(failure.to_string()),
        });
        self.backoff.fail(Instant::now())
    }

    fn reach_desired(&mut self, dirty: Dirty) -> Result<Done, Error> {
        let full = self.programmed.is_none();
        let mut programmed = match self.programmed.take() {
            Some(programmed) => programmed,
            None => self.adopt()?,
        };
        let mut gone = dirty.deleted;
        let names: BTreeSet<ObjectName> = if full {
            self.no_local = NoLocalEndpoints::default();
            self.health_checks = compile::HealthChecks::default();
            self.cluster.services().map(|s| s.name.clone()).collect()
        } else {
            dirty.services
        };
        let (cluster, no_local) = (&self.cluster, &mut self.no_local);
        let desired = names.iter().map(|name| {
            let desired = compile::service(cluster, name);
            no_local.note(&desired);
            desired
        });
        let goes_on = |backend: &_| cluster.goes_on(backend);
        let mut plans = vec![programmed.plan_sparing(desired, goes_on)];
        if full {
            plans.push(programmed.plan_leftovers_sparing(goes_on));
        }
        let mut operations = 0;
        for plan in plans {
            for op in &plan.ops {
                self.dataplane.apply(op)?;
            }
            // What was deleted while no agent ran; later, what loses its service may live on.
            if full {
                gone.extend(&plan.dropped);
            }
            // One without operations may still retire backends, which an agent wrote that was stopped before it used them.
            if !plan.is_empty() {
                operations += plan.ops.len();
                self.retired.push((plan.after_grace, plan.retired));
                self.retired_since.get_or_insert_with(Instant::now);
            }
        }
        self.report_unfit(&programmed);
        self.programmed = Some(programmed);
        self.effects.dropped(&self.cluster, &gone);
        let mut changed = full;
        for name in &names {
            changed |= self.health_checks.update(&self.cluster, name);
        }
        if changed {
            self.effects.health_checks(&self.health_checks);
        }
        Ok(Done {
            services: names.len(),
            operations,
        })
    }

    /// Reads the tables back. What was retired and not given back yet is simply found to be unused.
    fn adopt(&mut self) -> Result<Programmed, Error> {
        self.retired.clear();
        self.retired_since = None;
        self.settling = None;
        self.dataplane.grace_period();
        let snapshot = self.dataplane.snapshot()?;
        Ok(Programmed::adopt(self.dataplane.capacity(), snapshot))
    }

    /// Says what is not programmed as it should be, once for each thing there is to say.
    fn report_unfit(&mut self, programmed: &Programmed) {
        let unfit: BTreeMap<ObjectName, String> = programmed
            .errors()
            .map(|failure| (failure.service().clone(), failure.to_string()))
            .collect();
        for failure in programmed.errors() {
            let (service, text) = (failure.service(), failure.to_string());
            if unfit.get(service) == Some(&text) && self.unfit.get(service) != Some(&text) {
                warn!(%service, error = text, "a service is not programmed as it should be");
                self.effects.unfit(failure);
            }
        }
        self.report.unprogrammed_now(unfit.len());
        self.unfit = unfit;
    }

    /// Begins a grace period for everything that is retired, or gives back what was retired before the one that is over.
    fn settle(&mut self, now: Instant) {
        let (grace_period, retired) = self.settling.take().unwrap_or_else(|| {
            self.retired_since = None;
            let retired = std::mem::take(&mut self.retired);
            (self.dataplane.begin_grace_period(), retired)
        });
        if !grace_period.is_over() {
            self.settling = Some((grace_period, retired));
            self.look_at_grace = now + GRACE_LOOK;
            return;
        }
        for (ops, retired) in retired {
            for op in &ops {
                if let Err(failure) = self.dataplane.apply(op) {
                    // The tables are read again with the next sync: that finds whatever is unused.
                    let syncing = self.report.started();
                    let took = self.report.failed(&syncing, false);
                    let wait = self.failed(&failure, took);
                    error!(%failure, retry_in = ?wait, "cannot retire backends");
                    return;
                }
            }
            if let Some(programmed) = &mut self.programmed {
                programmed.release(retired);
            }
        }
    }
}

struct Done {
    services: usize,
    operations: usize,
}
