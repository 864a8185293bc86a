//! The thread that follows pods and devices.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tracing::warn;
use weir_core::{model::Kind, state::Change};

use super::{
    Choice, Failure, LocalPod, Sink, View,
    cgroups::{Cgroups, Watch},
    devices::{self, Chosen},
    discover::{Discovery, Network, Own},
    monitor::{Changes, Monitor},
    objects::Objects,
    reconcile::Reconciler,
};
use crate::source::Event;

/// Everything is looked at again this often, whatever was told.
const RESYNC: Duration = Duration::from_secs(10);
/// Two looks are this far apart at least, and twice as far as a look takes, so that a storm of events is taken at once.
const GAP: Duration = Duration::from_millis(5);
/// A pod that is not ready is looked at again after this, then after twice as long, ...
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// ... and no more after this: what it waits for is told, or found by the next look at everything.
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Devices follow what happens to interfaces after this: addresses come before routes.
const DEVICES_DELAY: Duration = Duration::from_millis(200);

/// What to follow.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cgroup that is this node's root.
    pub cgroup_root: PathBuf,
    /// This node's name, as objects have it.
    pub node_name: String,
    /// Which devices are external.
    pub devices: Choice,
}

/// The running thread. Dropping it ends it; what the sink did stays.
pub struct Follower {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Tells the thread of objects, and asks it what there is.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    messages: Sender<Message>,
}

struct Shared {
    wake: OwnedFd,
    view: Mutex<Arc<View>>,
}

enum Message {
    Change(Change),
    PodsListed,
    End,
}

impl Handle {
    /// Takes what a source says of pods and nodes; passes over the rest. Never waits.
    pub fn observe(&self, event: &Event) {
        if !Objects::concerned(event) {
            return;
        }
        match event {
            Event::Change(change) => self.send(Message::Change(change.clone())),
            Event::Listed(Kind::Pod) => self.send(Message::PodsListed),
            _ => {}
        }
    }

    /// What there was at the last look.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        let view = self.shared.view.lock();
        view.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, message: Message) {
        // A thread that has ended needs nothing any more.
        let _ = self.messages.send(message);
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

impl Follower {
    /// The way to tell and to ask it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.handle.send(Message::End);
        if let Some(thread) = self.thread.take() {
            // It has said on its own why, if it panicked.
            let _ = thread.join();
        }
    }
}

/// Follows the pods and devices of the calling thread's network namespace, and tells `sink`.
///
/// # Errors
/// When the kernel gives out no more descriptors or threads.
pub fn follow(options: Options, sink: Box<dyn Sink>) -> Result<Follower> {
    let shared = Arc::new(Shared {
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        view: Mutex::default(),
    });
    let (messages, received) = mpsc::channel();
    let mut followed = Followed {
        watch: Watch::new(&options.cgroup_root)
            .context("cannot watch cgroups: raise fs.inotify.max_user_instances")?,
        monitor: Monitor::open().context("cannot follow interfaces")?,
        discovery: Discovery::new().context("cannot list interfaces")?,
        objects: Objects::new(&options.node_name),
        reconciler: Reconciler::new(sink),
        chosen: Chosen::default(),
        listed: false,
        shared: shared.clone(),
        received,
        options,
    };
    let thread = thread::Builder::new()
        .name("weir-pods".into())
        .spawn(move || followed.run())
        .context("cannot start the thread that follows pods")?;
    Ok(Follower {
        handle: Handle { shared, messages },
        thread: Some(thread),
    })
}

struct Followed {
    options: Options,
    watch: Watch,
    monitor: Monitor,
    discovery: Discovery,
    objects: Objects,
    reconciler: Reconciler,
    chosen: Chosen,
    listed: bool,
    shared: Arc<Shared>,
    received: Receiver<Message>,
}

/// When to look next, if nothing happens.
struct Schedule {
    resync: Instant,
    devices: Option<Instant>,
    retry: Option<(Instant, Duration)>,
}

impl Schedule {
    fn next(&self) -> Instant {
        let retry = self.retry.map(|(at, _)| at);
        let soonest = [self.devices, retry].into_iter().flatten().min();
        soonest.map_or(self.resync, |at| at.min(self.resync))
    }

    /// Plans the next try of what is not ready, twice as late as the last one unless something has happened since.
    fn retry_later(&mut self, happened: bool, now: Instant) {
        let delay = match self.retry {
            Some((_, delay)) if !happened => delay * 2,
            None if !happened => return,
            _ => RETRY_FIRST,
        };
        self.retry = (delay <= RETRY_LAST).then(|| (now + delay, delay));
    }
}

impl Followed {
    fn run(&mut self) {
        let mut schedule = Schedule {
            resync: Instant::now(),
            devices: None,
            retry: None,
        };
        let mut changes = Changes::default();
        loop {
            let Some(told) = self.gather(&mut changes) else {
                return;
            };
            let now = Instant::now();
            let resync = now >= schedule.resync;
            if resync {
                self.watch.look_again();
                schedule.resync = now + RESYNC;
            }
            if changes.here || changes.everything || told {
                schedule.devices.get_or_insert(now + DEVICES_DELAY);
            }
            let devices_due = resync || schedule.devices.is_some_and(|at| now >= at);
            if devices_due {
                schedule.devices = None;
            }
            let happened = resync || told || !changes.is_empty();
            let ready = match self.look(&std::mem::take(&mut changes), devices_due, resync) {
                Ok(ready) => ready,
                Err(error) => {
                    warn!(%error, "cannot look at the pods' cgroups and interfaces; trying again");
                    changes.everything = true;
                    false
                }
            };
            if ready {
                schedule.retry = None;
            } else {
                schedule.retry_later(happened, Instant::now());
            }
            let gap = GAP.max(now.elapsed() * 2);
            let look_ended = Instant::now();
            self.wait(schedule.next());
            thread::sleep(gap.saturating_sub(look_ended.elapsed()));
        }
    }

    /// Takes in all that has been told; whether it was anything of cgroups or objects. `None`: the end.
    fn gather(&mut self, changes: &mut Changes) -> Option<bool> {
        let mut counter = [0; 8];
        // Nothing to read means that nobody woke us.
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
        let mut told = self.watch.drain();
        changes.merge(self.monitor.drain());
        loop {
            match self.received.try_recv() {
                Ok(Message::Change(change)) => self.objects.apply(change),
                Ok(Message::PodsListed) => self.objects.listed = true,
                Ok(Message::End) | Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => return Some(told),
            }
            told = true;
        }
    }

    /// Looks at everything and tells the sink; whether nothing is waited for.
    fn look(&mut self, changes: &Changes, devices_due: bool, resync: bool) -> io::Result<bool> {
        let cgroups: Cgroups = self.watch.walk()?;
        let changes = Changes {
            everything: changes.everything || resync,
            ..changes.clone()
        };
        self.discovery.scan(&cgroups, &changes)?;
        let (pods, mut ready) = self.wanted();
        let waiting = self.waiting();
        ready &= waiting.is_empty();

        if devices_due {
            let pods = pods.iter().map(|pod| pod.ifindex).collect();
            self.choose_devices(&pods)?;
        }
        self.reconciler.devices(&self.chosen.devices);
        self.reconciler.pods(pods);
        let unknown = self.discovery.errors().next().is_some();
        if !self.listed && self.objects.listed && !unknown {
            self.listed = self.reconciler.listed();
        }
        self.reconciler.done();
        ready &= !unknown && self.reconciler.failures().next().is_none();
        self.publish(waiting);
        Ok(ready)
    }

    fn choose_devices(&mut self, pods: &BTreeSet<u32>) -> io::Result<()> {
        let (links, netlink) = self.discovery.links();
        let addresses = &self.objects.node_addresses;
        let chosen = devices::choose(&self.options.devices, netlink, links, pods, addresses)?;
        for left in &chosen.left {
            if !self.chosen.left.contains(left) {
                warn!(
                    device = left.name,
                    reason = left.reason,
                    "an external device is left alone"
                );
            }
        }
        self.chosen = chosen;
        Ok(())
    }

    /// The interfaces to serve, and whether each has its addresses.
    fn wanted(&self) -> (Vec<LocalPod>, bool) {
        let mut pods = Vec::new();
        let mut ready = true;
        for (uid, network) in self.discovery.pods() {
            if let Network::Own(own) = network {
                let before = pods.len();
                pods.extend(self.local_pods(uid, own));
                ready &= pods[before..]
                    .iter()
                    .any(|pod: &LocalPod| !pod.addresses.is_empty())
                    || pods.len() == before;
            }
        }
        (pods, ready)
    }

    fn local_pods(&self, uid: &Arc<str>, own: &Own) -> Vec<LocalPod> {
        let carried: Vec<_> = own
            .interfaces
            .iter()
            .flat_map(|i| i.addresses.iter().copied())
            .collect();
        let object = self.objects.by_uid(uid);
        let object = object.or_else(|| self.objects.by_address(&carried));
        if object.is_some_and(|object| object.finished) {
            return Vec::new();
        }
        let mut pods: Vec<_> = own
            .interfaces
            .iter()
            .map(|interface| LocalPod {
                uid: uid.clone(),
                name: object.map(|object| object.name.clone()),
                device: interface.device.clone(),
                ifindex: interface.ifindex,
                addresses: interface.addresses.clone(),
                netns_cookie: own.cookie,
                opt_out: object.is_some_and(|object| object.opt_out),
            })
            .collect();
        // A sandbox with a network stack of its own (gVisor) takes the addresses away from the interface.
        if carried.is_empty()
            && let (Some(object), Some(first)) = (object, pods.first_mut())
        {
            first.addresses.clone_from(&object.ips);
        }
        pods
    }

    /// Pods that should have an interface and have none yet, as far as can be told.
    fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for (uid, network) in self.discovery.pods() {
            let object = self.objects.by_uid(uid);
            let expected = object.is_none_or(|object| !object.host_network && !object.finished);
            if *network == Network::Unknown && expected {
                waiting.push(
                    object.map_or_else(|| format!("pod {uid}"), |object| object.name.to_string()),
                );
            }
        }
        waiting
    }

    fn publish(&self, waiting: Vec<String>) {
        let unread = self.discovery.errors().map(|(uid, reason)| Failure {
            subject: format!("pod {uid}"),
            reason: reason.to_owned(),
        });
        let mut devices: Vec<String> = self.reconciler.served_devices().map(Into::into).collect();
        devices.sort();
        let view = View {
            listed: self.listed,
            interfaces: self.reconciler.served().map(Into::into).collect(),
            waiting,
            devices,
            left: self.chosen.left.clone(),
            failures: unread.chain(self.reconciler.failures().cloned()).collect(),
            namespaces: self.discovery.namespaces().collect(),
        };
        let mut shared = self
            .shared
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *shared = Arc::new(view);
    }

    /// Waits until something is told, or that moment.
    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut sources = [
            self.watch.as_fd(),
            self.monitor.as_fd(),
            self.shared.wake.as_fd(),
        ]
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        // An interrupted wait ends early, which does no harm.
        let _ = poll(&mut sources, Some(&timeout));
    }
}
