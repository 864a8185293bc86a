//! `weir check`: what this kernel and machine offer, found by trying, and what the absence of each thing costs.
//!
//! Nothing is changed: programs and maps are loaded and dropped, nothing is attached that any traffic passes.

mod conflicts;
mod kernel;
pub mod migrate;
mod node;
mod programs;
mod raw;
mod sockets;

use std::path::PathBuf;

use serde::Serialize;

/// What a thing is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Without these Weir does not run.
    Required,
    /// Translating, filtering and counting packets.
    Packets,
    /// Tracing programs.
    Tracing,
    /// Of general use.
    General,
    /// Other software that does the same work.
    Conflicts,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Degraded,
    /// Not there.
    Missing,
    /// It could not be found out, which `found` explains.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub group: Group,
    /// Whether it is there.
    pub state: State,
    /// What was seen: a version, a path, an error.
    pub found: String,
    /// What it gives.
    pub gives: &'static str,
    /// What its absence costs, and what to do about it.
    pub costs: &'static str,
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether Weir can run here.
    pub can_run: bool,
    /// Release and machine, as `uname` tells them.
    pub kernel: String,
    /// By group.
    pub findings: Vec<Finding>,
}

/// Where Weir would run.
#[derive(Clone, Debug)]
pub struct Target {
    /// `--cgroup-root`
    pub cgroup_root: Option<PathBuf>,
    /// `--bpffs`
    pub bpffs: PathBuf,
}

/// Looks at everything.
#[must_use]
pub fn check(target: &Target) -> Report {
    let mut findings = node::findings(target);
    findings.extend(programs::findings());
    findings.extend(sockets::findings());
    findings.extend(conflicts::findings());
    Report::new(kernel::name(), findings)
}

impl Report {
    fn new(kernel: String, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.group);
        let can_run = findings
            .iter()
            .filter(|finding| finding.group == Group::Required)
            .all(|finding| matches!(finding.state, State::Ok | State::Degraded));
        Self {
            can_run,
            kernel,
            findings,
        }
    }
}

/// The constant part of a finding.
#[derive(Clone, Copy, Debug)]
struct Thing {
    name: &'static str,
    group: Group,
    gives: &'static str,
    costs: &'static str,
}

impl Thing {
    fn is(self, state: State, found: impl Into<String>) -> Finding {
        Finding {
            name: self.name,
            group: self.group,
            state,
            found: found.into(),
            gives: self.gives,
            costs: self.costs,
        }
    }

    /// From the outcome of a probe: there, not there, or why that could not be found out.
    fn probed<E>(self, outcome: Result<bool, E>) -> Finding
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        match outcome {
            Ok(true) => self.is(State::Ok, ""),
            Ok(false) => self.is(State::Missing, "this kernel does not have it"),
            Err(error) => {
                let error = anyhow::Error::new(error);
                let refused = error.chain().any(|cause| {
                    cause
                        .downcast_ref::<std::io::Error>()
                        .is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
                });
                if refused && node::may_load_programs() {
                    let found = format!("refused by lockdown or a security module ({error:#})");
                    return self.is(State::Missing, found);
                }
                self.is(State::Unknown, format!("{error:#}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
