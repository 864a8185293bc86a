//! Processes in a network namespace and a cgroup of choice, which end with their owner.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Doing, Result};
use crate::netns::NetNs;

/// A process of a world. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, to take its pipes from.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .doing(|| format!("signal process {}", self.child.id()))
    }

    /// Waits for its end, for so long; `None` if it still runs.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_for(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self
                .child
                .try_wait()
                .doing(|| format!("wait for process {}", self.child.id()))?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // An error means that it has been waited for: there is nothing left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `command` in a network namespace and a cgroup, in a process group of its own, to be killed when this process ends.
pub(crate) fn spawn(mut command: Command, netns: &NetNs, cgroup: &Path) -> Result<Process> {
    let name = command.get_program().to_string_lossy().into_owned();
    let namespace = netns.open()?;
    let procs = cgroup.join("cgroup.procs");
    let procs = OpenOptions::new()
        .write(true)
        .open(&procs)
        .doing(|| format!("open {}", procs.display()))?;
    let owner = Pid::from_raw(std::process::id().cast_signed());
    // Ctrl-C at a terminal is for the owner, which then ends its world in order.
    command.process_group(0);
    let enter = move || enter(&namespace, &procs, owner);
    // SAFETY: between fork and exec `enter` makes only system calls on descriptors opened before; it allocates and locks nothing.
    unsafe { command.pre_exec(enter) };
    on_lasting_thread(move || command.spawn())
        .doing(|| format!("start {name} in {}", netns.name()))
        .map(|child| Process { child })
}

fn enter(namespace: &File, procs: &File, owner: Option<Pid>) -> io::Result<()> {
    rustix::io::write(procs, b"0")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // An owner that ended before the line above sends no signal any more.
    if getppid() == owner {
        Ok(())
    } else {
        Err(io::ErrorKind::NotConnected.into())
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` on a thread that lasts as long as the process.
///
/// The signal at a parent's death is sent at the end of the *thread* that started the child. A test's own thread ends long
/// before what it shares with others does.
fn on_lasting_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static THREAD: OnceLock<Mutex<mpsc::Sender<Work>>> = OnceLock::new();
    let queue = THREAD.get_or_init(|| {
        let (queue, works) = mpsc::channel::<Work>();
        thread::spawn(move || works.into_iter().for_each(|work| work()));
        Mutex::new(queue)
    });
    let (answer, answered) = mpsc::sync_channel(1);
    let work: Work = Box::new(move || {
        // Nobody waits for the answer only if the asking thread is gone.
        let _ = answer.send(work());
    });
    let stopped = || io::Error::other("the thread that starts processes has stopped");
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send(work)
        .map_err(|_| stopped())?;
    answered.recv().map_err(|_| stopped())?
}
