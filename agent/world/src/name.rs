//! Names of worlds, which say who owns them, so that what a killed owner left can be told from what is in use.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "weirw-";

/// Name of a world: `weirw-<owner's pid>-<owner's start time in clock ticks>-<number>`.
///
/// Everything a world makes outside its own namespaces begins with it: network namespaces, its cgroup, its run directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorldName {
    pid: u32,
    started: u64,
    number: u32,
}

impl WorldName {
    /// A name no other world has had.
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        Self {
            pid,
            // A process without a readable /proc/self/stat would only lose the sweep of its own leftovers.
            started: start_time(pid).unwrap_or(0),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The world a namespace, cgroup or directory of this name belongs to, if it is one of ours.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(4, '-');
        Some(Self {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    }

    /// Whether the process that made this world still runs.
    #[must_use]
    pub fn owner_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// A number that differs between worlds, for identifiers that must too.
    pub(crate) fn seed(&self) -> u64 {
        (u64::from(self.pid) << 40) ^ (self.started << 12) ^ u64::from(self.number)
    }
}

impl fmt::Display for WorldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}-{}", self.pid, self.started, self.number)
    }
}

/// Start time of a process in clock ticks since boot; `None` if it is gone or a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
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
    fn a_name_is_read_back_from_what_it_prefixes() {
        let name = WorldName::fresh();
        assert_eq!(WorldName::of(&name.to_string()), Some(name.clone()));
        assert_eq!(WorldName::of(&format!("{name}-pod-a-b")), Some(name));
        assert_eq!(WorldName::of("weirw-1-2"), None);
        assert_eq!(WorldName::of("cni-1-2-3"), None);
    }

    #[test]
    fn an_owner_is_its_pid_and_its_start_time() {
        let name = WorldName::fresh();
        assert!(name.owner_alive());
        let recycled = WorldName {
            started: name.started + 1,
            ..name
        };
        assert!(!recycled.owner_alive());
    }
}
