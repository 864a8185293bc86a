//! Processes of a pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// How many levels of cgroups below a pod's are looked into: containers, and what runs containers or systemd itself.
const DEPTH: usize = 4;

/// A process, told from another one that gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks since boot.
    started: u64,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = start_time(&stat)?;
        Some(Self { pid, started })
    }

    /// Whether it still runs.
    pub(super) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// Why a pod's processes cannot be told.
pub(super) const OTHER_PID_NAMESPACE: &str =
    "its processes are in another PID namespace; the agent must run in the host's (hostPID: true)";

/// The oldest process in and below these cgroups: a sandbox's own, which is there as long as the pod is. Other processes of a
/// pod may have entered other network namespaces or made their own. `None` when there is none yet, or none any more.
///
/// # Errors
/// `Unsupported` when there are processes which this process cannot see.
pub(super) fn oldest(cgroups: &[PathBuf]) -> io::Result<Option<Process>> {
    let mut pids = Vec::new();
    for cgroup in cgroups {
        collect(cgroup, DEPTH, &mut pids);
    }
    if !pids.is_empty() && pids.iter().all(|pid| *pid == 0) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            OTHER_PID_NAMESPACE,
        ));
    }
    let processes = pids.into_iter().filter_map(Process::of);
    Ok(processes.min_by_key(|process| (process.started, process.pid)))
}

fn collect(cgroup: &Path, depth: usize, pids: &mut Vec<u32>) {
    // Gone since it was listed, or a threaded cgroup, which has no processes of its own.
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth - 1, pids);
        }
    }
}

/// Field 22 of proc_pid_stat(5); `None` for a zombie, which has no namespaces any more.
fn start_time(stat: &str) -> Option<u64> {
    // The command's name is in parentheses and may contain anything, so fields are counted after the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_time(&format!("7 (a) b) (c) S {rest}")), Some(4711));
        assert_eq!(start_time(&format!("7 (a) Z {rest}")), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn processes_that_cannot_be_seen_are_no_absence() {
        let pod = tempfile::tempdir().expect("a directory");
        let cgroups = [pod.path().to_path_buf()];
        assert_eq!(oldest(&cgroups).expect("readable"), None);
        let container = pod.path().join("c1");
        fs::create_dir(&container).expect("made");
        fs::write(container.join("cgroup.procs"), "0\n0\n").expect("written");
        let error = oldest(&cgroups).expect_err("of another PID namespace");
        assert!(error.to_string().contains("hostPID"), "{error}");
        fs::write(
            container.join("cgroup.procs"),
            std::process::id().to_string(),
        )
        .expect("written");
        let this = Process::of(std::process::id());
        assert_eq!(oldest(&cgroups).expect("readable"), this);
    }

    #[test]
    fn a_recycled_number_is_another_process() {
        let this = Process::of(std::process::id()).expect("this process runs");
        assert!(this.alive());
        let earlier = Process {
            started: this.started - 1,
            ..this
        };
        assert!(!earlier.alive());
    }
}
