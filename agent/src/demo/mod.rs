//! `weir demo`: a node with pods out of network namespaces, a real agent on it, traffic, and what becomes of it. No cluster
//! is needed, and nothing stays behind.

mod interrupt;
mod screen;
mod stage;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use weir_world::{
    Peer,
    peer::{Exchange, Job, LoadReport, LoadSpec},
};

use self::{interrupt::Interrupt, screen::Screen, stage::Stage};

const WEB_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const LONELY: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 99);
const WEB_V6: &str = "[fd00:10:96::80]:80";

/// How long each act is shown.
const ACT: Duration = Duration::from_secs(4);
const REDRAW: Duration = Duration::from_millis(250);

/// Plays the demo; with `keep`, waits at the end until it is interrupted.
///
/// # Errors
/// When the world cannot be built (root, `ip`, cgroup v2 and bpffs are needed), the agent does not start, or what it shows
/// is not what Weir promises.
pub fn demo(keep: bool) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut screen = Screen::new();
    screen.say("Building a node and four pods out of network namespaces, veths and cgroups ...");
    let mut stage = Stage::build()?;
    screen.say(&format!(
        "Starting a real agent on it: weir run --manifests {}",
        stage.manifests().display()
    ));
    stage.start_agent()?;
    screen.say(
        "It balances service demo/web (10.96.0.80 and fd00:10:96::80, port 80) over web-1, web-2 and web-3 (port 8080).",
    );

    let client = stage.client()?;
    let mut traffic = Traffic::start(&client, interrupt.clone())?;

    screen.act("Pod client connects to the service, both families, as fast as 8 workers please");
    traffic.show(&mut screen, ACT)?;

    screen.act("web-3 goes away: its endpoint is removed, then its pod is deleted");
    stage.remove_endpoint()?;
    interrupt.sleep(Duration::from_millis(500))?;
    stage.delete_pod("web-3")?;
    traffic.mark()?;
    traffic.show(&mut screen, ACT)?;

    screen
        .act("The agent is killed (SIGKILL) while the traffic goes on: the kernel keeps balancing");
    stage.kill_agent();
    traffic.mark()?;
    traffic.show(&mut screen, ACT / 2)?;
    screen.say("Starting it again: it adopts the tables and replaces its programs in place.");
    stage.start_agent()?;
    traffic.show(&mut screen, ACT / 2)?;

    screen.act("What nobody serves is refused at once, instead of timing out");
    refused(
        &mut screen,
        &client,
        "demo/lonely, which has no endpoints",
        (LONELY, 80).into(),
    )?;
    refused(
        &mut screen,
        &client,
        "demo/web on port 81, which it has not",
        (WEB_V4, 81).into(),
    )?;
    let outcome = client.connect((WEB_V4, 80))?;
    if let Some(peer) = outcome.peer {
        screen.say(&format!(
            "And a connection that {} answered still has {peer} as its peer: applications see what they asked for.",
            outcome.answered_by.as_deref().unwrap_or("nobody")
        ));
    }

    let failures = traffic.stop()?;
    screen.summary(&failures);
    ensure!(
        failures.failed == 0,
        "{} connections failed",
        failures.failed
    );

    if keep {
        screen.say(&stage.how_to_play());
        interrupt.wait();
    }
    screen.say("Cleaning up.");
    stage.tear_down()
}

/// Connects to what must be refused, and says how long that took.
fn refused(screen: &mut Screen, client: &Peer, what: &str, to: SocketAddr) -> Result<()> {
    let outcome = client.connect(to)?;
    let errno = outcome.errno().unwrap_or("no error");
    screen.say(&format!(
        "{what}: {errno} after {:.1} ms",
        outcome.elapsed.as_secs_f64() * 1000.0
    ));
    ensure!(
        errno == "ECONNREFUSED",
        "connecting to {to} was not refused: {outcome:?}"
    );
    Ok(())
}

/// The load on the service, both families.
struct Traffic {
    jobs: [(&'static str, Job<LoadReport>); 2],
    before: [LoadReport; 2],
    interrupt: Interrupt,
}

/// How the whole of it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    ok: u64,
    failed: u64,
    slowest: Duration,
}

impl Traffic {
    fn start(client: &Peer, interrupt: Interrupt) -> Result<Self> {
        let load = |to: SocketAddr| {
            client.load(
                LoadSpec::new(Exchange::tcp(to), Duration::from_secs(60))
                    .workers(4)
                    .pause(Duration::from_millis(1)),
            )
        };
        Ok(Self {
            jobs: [
                ("IPv4", load((WEB_V4, 80).into())?),
                ("IPv6", load(WEB_V6.parse()?)?),
            ],
            before: Default::default(),
            interrupt,
        })
    }

    /// Counts from here.
    fn mark(&mut self) -> Result<()> {
        for ((_, job), before) in self.jobs.iter().zip(&mut self.before) {
            *before = job.report()?;
        }
        Ok(())
    }

    fn show(&mut self, screen: &mut Screen, during: Duration) -> Result<()> {
        let end = Instant::now() + during;
        loop {
            let last = Instant::now() >= end;
            let mut rows = Vec::new();
            for ((family, job), before) in self.jobs.iter().zip(&self.before) {
                rows.push((*family, since(before, &job.report()?)));
            }
            screen.spread(&rows, last);
            if last {
                return Ok(());
            }
            self.interrupt
                .sleep(REDRAW.min(end.saturating_duration_since(Instant::now())))?;
        }
    }

    fn stop(self) -> Result<Totals> {
        let mut totals = Totals::default();
        for (_, job) in &self.jobs {
            let report = job.stop()?;
            totals.ok += report.ok;
            totals.failed += report.failures();
            totals.slowest = totals.slowest.max(report.max);
        }
        Ok(totals)
    }
}

fn since(before: &LoadReport, now: &LoadReport) -> LoadReport {
    let mut delta = now.clone();
    delta.ok -= before.ok;
    for (server, count) in &mut delta.answered_by {
        *count -= before.answered_by.get(server).copied().unwrap_or(0);
    }
    delta
}
