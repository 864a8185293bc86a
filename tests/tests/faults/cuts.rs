//! An agent that ends between any two operations on the kernel's tables: they are whole, and the next one finds its way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use weir::{
    bpffs::Layout,
    dataplane::{Dataplane, Error, Kernel, Object},
    source::Event,
    sync::{Engine, Report},
};
use weir_core::{
    model::{Kind, ObjectName},
    plan::{Capacity, Op, Snapshot},
    state::Change,
};
use weir_tests::agent::peer_command;
use weir_world::World;

use crate::tables::{Lists, Model, Random, read, reduce};

const CAPACITY: Capacity = Capacity {
    services: 1000,
    slots: 2000,
    backends: 500,
    ids: 200,
    members: 1000,
    source_ranges: 100,
};

/// The kernel's tables, until a number of operations is done.
struct Mortal {
    kernel: Kernel,
    left: Arc<AtomicU64>,
}

impl Dataplane for Mortal {
    fn capacity(&self) -> Capacity {
        self.kernel.capacity()
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.kernel.snapshot()
    }

    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        let left = self.left.load(Ordering::Relaxed);
        let left = left.checked_sub(1).ok_or(Error::Injected)?;
        self.left.store(left, Ordering::Relaxed);
        self.kernel.apply(op)
    }

    fn grace_period(&mut self) {
        // No program reads these tables, and it would be waited for a thousand times.
    }
}

/// An agent's engine, and how many operations it has left to live.
struct Life {
    engine: Engine<Mortal>,
    left: Arc<AtomicU64>,
}

impl Life {
    /// One that knows nothing.
    fn new(layout: &Layout) -> Result<Self> {
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let mortal = Mortal {
            kernel: Kernel::open(layout)?,
            left: Arc::clone(&left),
        };
        let engine = Engine::new("node1", mortal, Report::default());
        Ok(Self { engine, left })
    }

    /// Is told of the model, in place of the one before, and does all it can. Whether it has lived to see the end of it.
    fn take(&mut self, model: &Model, before: &Model) -> Result<bool> {
        for name in model.objects() {
            let object = model.object(&name).context("it is listed")?;
            let change = Change::Apply(reduce(object)?);
            self.engine.handle(Event::Change(change));
        }
        for name in before.objects() {
            if model.object(&name).is_none() {
                self.engine.handle(Event::Change(deleted(&name)));
            }
        }
        for kind in Kind::ALL {
            self.engine.handle(Event::Listed(kind));
        }
        self.engine.tick(Instant::now());
        let failed = |engine: &Engine<Mortal>| engine.status().sync.failures > 0;
        while !failed(&self.engine)
            && let Some(at) = self.engine.next_deadline()
        {
            self.engine.tick(at);
        }
        Ok(!failed(&self.engine))
    }
}

fn deleted(name: &str) -> Change {
    match name.strip_prefix("service-") {
        Some(service) => Change::Delete(Kind::Service, ObjectName::new("default", service)),
        None => Change::Delete(Kind::EndpointSlice, ObjectName::new("default", name)),
    }
}

/// Every frontend leads to the whole of its old list or to the whole of its new one.
fn is_old_or_new(now: &Lists, old: &Lists, new: &Lists) -> Result<()> {
    for frontend in now.keys().chain(old.keys()).chain(new.keys()) {
        let leads = now.get(frontend);
        ensure!(
            leads == old.get(frontend) || leads == new.get(frontend),
            "{frontend:?} leads to {leads:?}"
        );
    }
    Ok(())
}

#[test]
fn wherever_it_ends_the_tables_are_whole_and_the_next_agent_makes_them_right() -> Result<()> {
    let world = World::builder(peer_command()?).build()?;
    let layout = Layout::new(&world.nodes()[0].bpffs());
    layout.create()?;
    let _object = Object::open(&layout, &CAPACITY)?;
    let mut random = Random::new(7);
    let nothing = Model::default();
    let mut old = Model::default();
    for _ in 0..25 {
        old.change(&mut random);
    }
    let mut new = old.clone();
    for _ in 0..8 {
        new.change(&mut random);
    }
    let (before, after) = (old.expected(), new.expected());
    let mut cuts = 0;
    for operations in 0.. {
        // Whoever comes first finds what the last one of the round before has left.
        let mut life = Life::new(&layout)?;
        ensure!(life.take(&old, &nothing)?);
        let context = || format!("cut before operation {operations}");
        ensure!(before.is(&read(&layout).with_context(context)?));
        life.left.store(operations, Ordering::Relaxed);
        let done = life.take(&new, &old)?;
        drop(life);
        let now = read(&layout).with_context(context)?;
        is_old_or_new(&now.lists, &before.lists, &after.lists).with_context(context)?;
        let mut next = Life::new(&layout)?;
        ensure!(next.take(&new, &nothing)?);
        let now = read(&layout).with_context(context)?;
        ensure!(after.is(&now), "{}: {now:#?}\n{after:#?}", context());
        if done {
            break;
        }
        cuts += 1;
    }
    ensure!(cuts > 25, "there were only {cuts} operations");
    Ok(())
}
