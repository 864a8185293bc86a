//! `bench control`: an agent's first sync from an API server's lists, and one change from its watch event to the kernel.
//!
//! The server is this process, the agent's source and engine are a child: lists, TLS, decoding, the state, the plan and the
//! kernel's own maps are all on the way, and the child's time and memory are the agent's alone. Between the two is a veth with
//! Ethernet's MTU: over loopback, with segments of 64 KiB, a window that was closed opens only when an acknowledgement is
//! due, 40 ms later.

mod objects;
mod server;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::json;
use weir::{
    bpffs::Layout,
    dataplane::{Dataplane, Error, GracePeriod, Kernel, Object},
    source::{
        EVENTS,
        kube::{Breadth, Options, Source},
    },
    sync::{self, Engine, Report},
};
use weir_core::plan::{Capacity, Op, Snapshot};
use weir_world::{Node, PeerCommand, Process, World};

use self::server::Server;
use crate::{control::cpu_time, usage};

/// How many single changes are timed.
const CHANGES: u32 = 400;
/// A sync or a change that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a first sync from an API server took, and changes after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sync {
    /// How many bytes of JSON the lists are.
    pub(crate) list_bytes: usize,
    /// From the first request to the last map write.
    pub(crate) wall: Duration,
    /// CPU time of the same.
    pub(crate) cpu: Duration,
    /// Anonymous memory (`RssAnon`) before, in bytes: the programs are loaded, nothing is listed.
    pub(crate) anonymous_before: u64,
    /// The most during the sync, seen every few milliseconds.
    pub(crate) anonymous_peak: u64,
    /// A second after it.
    pub(crate) anonymous: u64,
    /// From a watch event's departure at the server to the map write that makes it count: median.
    pub(crate) change_p50: Duration,
    /// The same: 99th of 100.
    pub(crate) change_p99: Duration,
    /// The same: the longest.
    pub(crate) change_max: Duration,
    /// CPU time of one change.
    pub(crate) change_cpu: Duration,
    /// What the machine makes of the least there can be: a line to another process (`cat`) and back, in turns with the
    /// changes. Median.
    pub(crate) echo_p50: Duration,
    /// The same: 99th of 100.
    pub(crate) echo_p99: Duration,
}

/// What the child says of the first sync.
#[derive(Serialize, Deserialize)]
struct Synced {
    wall: Duration,
    cpu: Duration,
    anonymous_before: u64,
}

/// What the child says of a change.
#[derive(Serialize, Deserialize)]
struct Changed {
    /// When the last service entry was written (nanoseconds of the monotonic clock).
    written: u64,
    /// The process's CPU time until then.
    cpu: Duration,
}

/// `bench control`.
pub(crate) fn bench(sizes: &[u32], rounds: u32) -> Result<()> {
    const ENDPOINTS: u32 = 10;
    println!(
        "First sync from an API server's lists (TLS), and one slice change from its watch event to the kernel; the best of \
         {rounds}, each in a process of its own:\n"
    );
    println!(
        "| services x endpoints | JSON | first sync: wall | CPU | anonymous memory before, at most, after | one slice \
         change: median | 99th of 100 | longest | CPU | a line to a process and back: median | 99th of 100 |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    let mut rows = Vec::new();
    for &services in sizes {
        let mut syncs = (0..rounds)
            .map(|_| first_sync(services, ENDPOINTS))
            .collect::<Result<Vec<_>>>()?;
        syncs.sort_by_key(|sync| sync.wall);
        let best = syncs.first().context("no round")?;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "| {services} x {ENDPOINTS} | {:.1} MB | {:.3} s | {:.3} s | {:.1}, {:.1}, {:.1} MB | {} us | {} us | {} us | {} us | {} us | {} us |",
            megabytes(best.list_bytes as u64),
            best.wall.as_secs_f64(),
            best.cpu.as_secs_f64(),
            megabytes(best.anonymous_before),
            megabytes(best.anonymous_peak),
            megabytes(best.anonymous),
            best.change_p50.as_micros(),
            best.change_p99.as_micros(),
            best.change_max.as_micros(),
            best.change_cpu.as_micros(),
            best.echo_p50.as_micros(),
            best.echo_p99.as_micros(),
        );
        rows.push(json!({"services": services, "endpoints": ENDPOINTS, "rounds": syncs}));
    }
    fs::create_dir_all("target/bench")?;
    fs::write(
        "target/bench/control.json",
        serde_json::to_vec_pretty(&json!(rows))?,
    )?;
    println!("\nwritten to target/bench/control.json");
    Ok(())
}

/// Measures one first sync, and changes after it.
pub(crate) fn first_sync(services: u32, endpoints: u32) -> Result<Sync> {
    let world = World::builder(PeerCommand::new("/bin/false"))
        .client("apiserver")
        .build()?;
    let server = Server::start(
        world.client("apiserver")?,
        objects::lists(services, endpoints),
    )?;
    let mut agent = Agent::start(&world.nodes()[0], &server)?;
    let synced: Synced = serde_json::from_str(&agent.line()?)?;
    thread::sleep(Duration::from_secs(1));
    let anonymous_peak = agent.peak()?;
    let anonymous = usage::anonymous(agent.process.id())?;

    let mut changes = Vec::new();
    let mut cpu = Vec::new();
    let mut echoes = Vec::new();
    let mut echo = Echo::start()?;
    for round in 0..CHANGES {
        let slice = objects::slice(round % services, endpoints, 1 + round / services);
        let event = json!({"type": "MODIFIED", "object": slice}).to_string();
        let left = server.send(objects::SLICES, event)?;
        let changed: Changed = serde_json::from_str(&agent.line()?)?;
        changes.push(Duration::from_nanos(changed.written.saturating_sub(left)));
        cpu.push(changed.cpu);
        echoes.push(echo.once()?);
        // Out of step with the agent's own timers.
        thread::sleep(Duration::from_millis(u64::from(round * 7 % 97)));
    }
    let change_cpu = (cpu[cpu.len() - 1] - cpu[0]) / (CHANGES - 1);
    changes.sort_unstable();
    echoes.sort_unstable();
    let percentile = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    Ok(Sync {
        list_bytes: server.list_bytes(),
        wall: synced.wall,
        cpu: synced.cpu,
        anonymous_before: synced.anonymous_before,
        anonymous_peak,
        anonymous,
        change_p50: percentile(&changes, 50),
        change_p99: percentile(&changes, 99),
        change_max: changes[changes.len() - 1],
        change_cpu,
        echo_p50: percentile(&echoes, 50),
        echo_p99: percentile(&echoes, 99),
    })
}

/// The child.
struct Agent {
    process: Process,
    lines: mpsc::Receiver<String>,
    peak: Option<thread::JoinHandle<u64>>,
    enough: mpsc::Sender<()>,
}

impl Agent {
    fn start(node: &Node, server: &Server) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("control-child")
            .arg(server.kubeconfig())
            .arg(node.bpffs())
            .stdout(Stdio::piped());
        let mut process = node.spawn(command)?;
        let stdout = process.child().stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
        });
        let pid = process.id();
        let (enough, stop) = mpsc::channel::<()>();
        let peak = thread::spawn(move || {
            let mut peak = 0;
            // Until somebody says so, or the process is gone.
            while stop.recv_timeout(Duration::from_millis(3))
                == Err(mpsc::RecvTimeoutError::Timeout)
                && let Ok(now) = usage::anonymous(pid)
            {
                peak = peak.max(now);
            }
            peak
        });
        Ok(Self {
            process,
            lines,
            peak: Some(peak),
            enough,
        })
    }

    /// What it says next.
    fn line(&self) -> Result<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.context("the agent has said nothing for a minute, or has ended")
    }

    /// The most anonymous memory it has had until now.
    fn peak(&mut self) -> Result<u64> {
        let peak = self.peak.take().context("asked twice")?;
        let _ = self.enough.send(());
        peak.join().ok().context("the sampling thread panicked")
    }
}

/// A process that sends back what it gets.
struct Echo {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Echo {
    fn start() -> Result<Self> {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start cat")?;
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// How long a line takes, there and back.
    fn once(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.input.write_all(b"line\n")?;
        self.output.read_line(&mut String::new())?;
        Ok(start.elapsed())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child: the agent's source and engine, and the kernel's own maps.
pub(crate) fn child(kubeconfig: &str, bpffs: &str) -> Result<()> {
    let layout = Layout::new(Path::new(bpffs));
    layout.create()?;
    let _object = Object::open(&layout, &Capacity::default())?;
    let (writes, written) = mpsc::channel();
    let kernel = Noted {
        kernel: Kernel::open(&layout)?,
        writes,
    };
    let mut engine = Engine::new(objects::THIS_NODE, kernel, Report::default());
    let (first, is_synced) = mpsc::channel();
    engine.after_first_sync(move || {
        // The receiver waits for it.
        let _ = first.send((Instant::now(), cpu_time()));
    });

    let anonymous_before = usage::anonymous(std::process::id())?;
    let (start, cpu) = (Instant::now(), cpu_time());
    let (events, received) = tokio::sync::mpsc::channel(EVENTS);
    let (engine, _thread) = sync::spawn(engine, received)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let options = Options {
        kubeconfig: Some(PathBuf::from(kubeconfig)),
        node_name: objects::THIS_NODE.to_owned(),
        nodes: Breadth::ThisNode,
        pods: Breadth::ThisNode,
    };
    runtime.spawn(async move {
        let source = Source::open(options).await.expect("the server is there");
        source.run(events).await;
    });
    let (end, cpu_then) = is_synced.recv_timeout(PATIENCE)?;
    say(&Synced {
        wall: end - start,
        cpu: cpu_then - cpu,
        anonymous_before,
    })?;
    while written.try_recv().is_ok() {}
    loop {
        let mut last = written.recv()?;
        // It answers between two syncs: then this one is over.
        engine
            .ask_blocking(|_| ())
            .context("the engine has ended")?;
        last = written.try_iter().last().unwrap_or(last);
        say(&Changed {
            written: last,
            cpu: cpu_time(),
        })?;
    }
}

/// The kernel's tables; tells when a service entry was written, which is what makes a change count.
struct Noted {
    kernel: Kernel,
    writes: mpsc::Sender<u64>,
}

impl Dataplane for Noted {
    fn capacity(&self) -> Capacity {
        self.kernel.capacity()
    }

    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.kernel.snapshot()
    }

    fn apply(&mut self, op: &Op) -> Result<(), Error> {
        self.kernel.apply(op)?;
        if matches!(op, Op::SetService { .. }) {
            // Whoever reads them outlives the engine.
            let _ = self.writes.send(monotonic());
        }
        Ok(())
    }

    fn grace_period(&mut self) {
        self.kernel.grace_period();
    }

    fn begin_grace_period(&mut self) -> GracePeriod {
        self.kernel.begin_grace_period()
    }
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(line)?)?;
    Ok(stdout.flush()?)
}

/// Nanoseconds of the clock that all processes share.
fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
