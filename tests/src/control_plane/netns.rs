//! The network namespace that a control plane lives in, and the thread that keeps it.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// A handle of a network namespace. The control plane's own has no name: it is gone when the last
/// process and descriptor in it is, so that nothing has to remember to remove it.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// The namespace at `path`, for example a world's node's.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Moves the calling thread, for good, into this namespace.
    ///
    /// # Errors
    /// When the kernel refuses, for want of CAP_SYS_ADMIN.
    pub fn enter(&self) -> std::io::Result<()> {
        Ok(move_into_link_name_space(
            self.file.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// Runs `work` on a thread of its own inside this namespace and returns what it returns. A panic
    /// in there goes on in the caller.
    ///
    /// # Errors
    /// As [`Netns::enter`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                self.enter()
                    .context("cannot enter a network namespace: this needs root")?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A path that names this namespace, while this process lives, to whoever may ptrace it:
    /// `nsenter --net=PATH`, `ip link set DEVICE netns PATH`.
    pub fn path(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}",
            getpid().as_raw_nonzero(),
            self.file.as_raw_fd()
        )
        .into()
    }

    /// Has `command` start inside this namespace, and die with the thread that starts it.
    pub(super) fn confine(&self, command: &mut Command) {
        let netns = self.clone();
        die_with_parent(command);
        // SAFETY: the closure does nothing between fork and exec but one system call.
        unsafe { command.pre_exec(move || netns.enter()) };
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Has the kernel kill `command`'s process as soon as the thread that starts it has ended, however it
/// ended.
fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before the signal was asked for.
        if getppid() != Some(parent) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: the closure does nothing between fork and exec but two system calls; it builds its error
    // without allocating.
    unsafe { command.pre_exec(arm) };
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that made a network namespace, stays in it, and starts the long-lived processes: a parent
/// death signal goes by the thread that forked, and a test's own thread ends long before its process.
#[derive(Debug)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
    netns: Netns,
}

impl Keeper {
    /// Makes the namespace: loopback up, with `addresses` on it besides its own.
    pub(super) fn new(addresses: &[IpAddr]) -> Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (report, made) = mpsc::sync_channel(1);
        let addresses = addresses.to_vec();
        thread::Builder::new()
            .name("control-plane".to_owned())
            .spawn(move || {
                let netns = make(&addresses);
                if report.send(netns).is_ok() {
                    inbox.iter().for_each(|job| job());
                }
            })
            .context("cannot start a thread")?;
        let netns = made
            .recv()
            .map_err(|_| anyhow!("the thread of the network namespace ended early"))??;
        Ok(Self { jobs, netns })
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Starts `command` inside the namespace; it is killed when this process ends, however it ends.
    pub(super) fn spawn(&self, mut command: Command) -> Result<Child> {
        die_with_parent(&mut command);
        let program = command.get_program().to_owned();
        let (report, done) = mpsc::sync_channel(1);
        let job = move || {
            let _ = report.send(command.spawn());
        };
        self.jobs
            .send(Box::new(job))
            .map_err(|_| anyhow!("the control plane's thread has ended"))?;
        done.recv()
            .context("the control plane's thread has ended")?
            .with_context(|| format!("cannot start {}", program.display()))
    }
}

fn make(addresses: &[IpAddr]) -> Result<Netns> {
    // SAFETY: only the network namespace is unshared, no file descriptor table.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .context("cannot make a network namespace: the control plane needs root")?;
    let netns = Netns::open(Path::new("/proc/thread-self/ns/net"))?;
    ip(&["link", "set", "lo", "up"])?;
    for address in addresses {
        let address = address.to_string();
        // IPv6 addresses are usable at once on loopback, where nothing is probed for duplicates.
        ip(&["address", "add", &address, "dev", "lo"])?;
    }
    Ok(netns)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`: `cargo xtask setup` installs iproute2")?;
    if !output.status.success() {
        bail!(
            "`ip {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
