//! A process inside the control plane's namespace: its log, its end.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::netns::Keeper;

/// How long a process that was asked to end may take for it.
const GRACE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// A running process. It is killed when this value is dropped, and by the kernel when the test's
/// process ends in whatever way.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` through `keeper`; both its outputs are appended to the file `log`.
    pub(super) fn start(
        keeper: &Keeper,
        name: &str,
        mut command: Command,
        log: PathBuf,
    ) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let copy = file.try_clone().context("cannot duplicate a descriptor")?;
        command
            .stdin(Stdio::null())
            .stdout(copy)
            .stderr(file)
            // A terminal's ^C is for the test alone.
            .process_group(0);
        Ok(Self {
            name: name.to_owned(),
            child: keeper.spawn(command)?,
            log,
        })
    }

    /// The process' id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written to its standard output and standard error so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The file that [`Process::log`] reads.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its exit status, or None while it runs.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Sends `signal`, for example [`Signal::HUP`].
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status()? {
            anyhow::bail!("{} has ended ({status}):\n{}", self.name, self.log_tail());
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for it to end by itself; None if it still runs after `patience`.
    ///
    /// # Errors
    /// As [`Process::status`].
    pub fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.status()?;
            if status.is_some() || start.elapsed() >= patience {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has, killing it should it take too long.
    ///
    /// # Errors
    /// When it has ended before, which it should not have.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        if let Some(status) = self.wait(GRACE)? {
            return Ok(status);
        }
        self.kill()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
