//! What this process may do, by its effective capabilities (capabilities(7)).

use std::fs;

/// A capability, by its number in `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capability(u32, &'static str);

pub(crate) const NET_ADMIN: Capability = Capability(12, "CAP_NET_ADMIN");
pub(crate) const SYS_PTRACE: Capability = Capability(19, "CAP_SYS_PTRACE");
pub(crate) const SYS_ADMIN: Capability = Capability(21, "CAP_SYS_ADMIN");
pub(crate) const PERFMON: Capability = Capability(38, "CAP_PERFMON");
pub(crate) const BPF: Capability = Capability(39, "CAP_BPF");

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// This process's effective set; `None` when `/proc` does not tell.
    pub(crate) fn own() -> Option<Self> {
        Self::effective(&fs::read_to_string("/proc/self/status").ok()?)
    }

    /// The effective set in the text of a `/proc/PID/status`.
    fn effective(status: &str) -> Option<Self> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    /// Whether a set has a capability. CAP_BPF and CAP_PERFMON were carved out of CAP_SYS_ADMIN, which still implies them.
    pub(crate) fn has(self, capability: Capability) -> bool {
        let has = |Capability(number, _)| self.0 & (1 << number) != 0;
        has(capability) || (matches!(capability, BPF | PERFMON) && has(SYS_ADMIN))
    }
}

/// Says which of `needed` this process lacks, and what to do; `None` when it lacks none, or does not know.
pub(crate) fn lacking(needed: &[Capability]) -> Option<String> {
    let own = Capabilities::own()?;
    let missing = needed.iter().filter(|capability| !own.has(**capability));
    let names: Vec<&str> = missing.map(|Capability(_, name)| *name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "this process lacks {}; run it as root, or with the capabilities of the manifests",
            names.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_and_sys_admin_implies_what_was_carved_out_of_it() {
        let status =
            "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000201000\nCapBnd:\t000001ffffffffff\n";
        let set = Capabilities::effective(status).unwrap();
        for capability in [NET_ADMIN, SYS_ADMIN, BPF, PERFMON] {
            assert!(set.has(capability), "{capability:?}");
        }
        assert!(!set.has(SYS_PTRACE));
        let set = Capabilities::effective("CapEff:\t0000008000000000\n").unwrap();
        assert!(set.has(BPF) && !set.has(PERFMON));
        assert_eq!(Capabilities::effective("Name:\tweir\n"), None);
    }
}
