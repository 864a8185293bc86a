//! What processes use, told by /proc.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

/// CPU time of a process so far: of its threads that live, and of the children that it has waited for.
pub(crate) fn cpu(process: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while its process is looked at.
        sum += scheduled(&thread?.path().join("schedstat")).unwrap_or_default();
    }
    Ok(sum + children(process)?)
}

/// `cutime` and `cstime`: fields 16 and 17 of `/proc/PID/stat`, of which the second may have spaces and brackets in it.
fn children(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    let nanos = ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_nanos(nanos))
}

/// CPU time of all this process's children of a name so far.
pub(crate) fn cpu_of_children(name: &str) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for process in fs::read_dir("/proc")?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|id| id.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let ours = stat
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(") "))
            .and_then(|(comm, fields)| Some((comm, fields.split(' ').nth(1)?)))
            .is_some_and(|(comm, parent)| comm == name && parent == std::process::id().to_string());
        if ours {
            // It may have ended since.
            sum += cpu(id).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// Anonymous memory that a process has in RAM (`RssAnon`), in bytes.
pub(crate) fn anonymous(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("the kernel does not tell RssAnon")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// The kernel's threads that do network work on nobody's account.
pub(crate) struct Softirqs(Vec<PathBuf>);

impl Softirqs {
    pub(crate) fn find() -> Result<Self> {
        let mut found = Vec::new();
        for process in fs::read_dir("/proc")?.flatten() {
            let path = process.path();
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            if name.starts_with("ksoftirqd/") {
                found.push(path.join("schedstat"));
            }
        }
        Ok(Self(found))
    }

    /// CPU time of all of them so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.0.iter().filter_map(|path| scheduled(path)).sum()
    }
}

/// The first number of a schedstat file: nanoseconds on the CPU.
fn scheduled(path: &std::path::Path) -> Option<Duration> {
    let text = fs::read_to_string(path).ok()?;
    let nanos = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}
