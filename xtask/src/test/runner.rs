//! Runs test binaries side by side, each with its own log and a time limit.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::totals::Totals;
use crate::command::seconds;

/// For one test binary, far above what the slowest takes.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// From asking a binary to end until killing it.
const GRACE: Duration = Duration::from_secs(10);

/// A test binary to run.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) command: Command,
}

impl Job {
    pub(super) fn new(name: &str, program: OsString) -> Self {
        Self {
            name: name.to_owned(),
            command: Command::new(program),
        }
    }
}

/// What has happened so far; the lock also keeps the outputs apart.
#[derive(Default)]
struct Done {
    totals: Totals,
    /// Output of the jobs that failed, for the end.
    failures: Vec<String>,
}

/// Runs all jobs, as many at once as there are processors. Shows each output whole, the failed ones last.
///
/// # Errors
/// When a job cannot be started, or someone interrupts. A failed test is no error but in the totals.
pub(super) fn run(jobs: Vec<Job>, logs: &Path) -> anyhow::Result<Totals> {
    fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .context("cannot handle signals")?;
    }
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(jobs.len());
    let queue = Mutex::new(jobs.into_iter());
    let done = Mutex::new(Done::default());
    thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            loop {
                let Some(job) = lock(&queue).next() else {
                    return Ok(());
                };
                if interrupted.load(Ordering::Relaxed) {
                    return Ok(());
                }
                run_one(job, logs, &interrupted, &done)?;
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => bail!("a test runner panicked"),
            })
    })?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    for failure in &done.failures {
        print(failure);
    }
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(done.totals)
}

fn run_one(
    mut job: Job,
    logs: &Path,
    interrupted: &AtomicBool,
    done: &Mutex<Done>,
) -> anyhow::Result<()> {
    let log_path = logs.join(format!("{}.log", job.name.replace("::", ".")));
    let log =
        File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    // A file rather than a pipe: a process that a test leaves behind must not hold us up.
    job.command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let start = Instant::now();
    let mut child = job
        .command
        .spawn()
        .with_context(|| format!("cannot start {}", job.name))?;
    let end = wait(&mut child, interrupted)?;
    let took = seconds(start.elapsed());

    let mut output = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
    let counted = Totals::of(&output);
    let mut totals = counted.unwrap_or_default();
    let succeeded = matches!(end, End::Exited(status) if status.success()) && counted.is_some();
    if !succeeded && totals.failed == 0 {
        totals.failed = 1; // the binary itself
        match end {
            End::Exited(status) => {
                output += &format!("\nthe test binary ended without a result: {status}\n");
            }
            End::TooLong => output += &format!("\nkilled: still running after {took}\n"),
            End::Interrupted => output += "\ninterrupted\n",
        }
    }
    if end_group(&child) {
        output += "\nthe test binary left processes behind; they were killed\n";
    }

    let word = if succeeded { "ok" } else { "FAILED" };
    let shown = format!(
        "---- {}: {word} in {took}\n{}\n",
        job.name,
        output.trim_end()
    );
    let mut done = lock(done);
    done.totals += totals;
    if succeeded {
        // A binary of which the filter leaves nothing has nothing to say.
        if totals.passed + totals.ignored > 0 {
            print(&shown);
        }
    } else {
        print(&format!(
            "---- {}: FAILED in {took}, output at the end\n",
            job.name
        ));
        done.failures.push(shown);
    }
    Ok(())
}

/// How a test binary ended.
#[derive(Clone, Copy)]
enum End {
    Exited(ExitStatus),
    TooLong,
    Interrupted,
}

/// Waits, with an eye on the time limit and on interruption.
fn wait(child: &mut Child, interrupted: &AtomicBool) -> anyhow::Result<End> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        let end = if interrupted.load(Ordering::Relaxed) {
            End::Interrupted
        } else if start.elapsed() > TIME_LIMIT {
            End::TooLong
        } else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let group = Pid::from_child(child);
        // It may just have ended by itself.
        let _ = kill_process_group(group, Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE && child.try_wait()?.is_none() {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process_group(group, Signal::KILL);
        child.wait()?;
        return Ok(end);
    }
}

/// Kills what is left of the process group of a binary that has ended. Returns whether there was anything.
fn end_group(child: &Child) -> bool {
    let group = Pid::from_child(child);
    test_kill_process_group(group).is_ok() && kill_process_group(group, Signal::KILL).is_ok()
}

fn print(text: &str) {
    // Whoever reads our output may have gone; the exit code still tells.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
