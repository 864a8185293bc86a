//! Other software on this node that balances services, or what it left behind.

use std::{fs, io, process::Command};

use aya::programs::loaded_programs;

use super::{Finding, Group, State, Thing};
use crate::netfilter;

pub(super) fn findings() -> Vec<Finding> {
    vec![process(), rules(), programs()]
}

fn process() -> Finding {
    let thing = Thing {
        name: "kube-proxy",
        group: Group::Conflicts,
        gives: "",
        costs: "both write what the node should do. Weir comes first for connections of pods and host, so they can run side by \
                side during a migration; then stop kube-proxy (kubectl -n kube-system delete daemonset kube-proxy)",
    };
    match kube_proxies() {
        Ok(found) if found.is_empty() => thing.is(State::Ok, "not running here"),
        Ok(found) => thing.is(
            State::Degraded,
            format!("running here, process {}", found.join(", ")),
        ),
        Err(error) => thing.is(
            State::Unknown,
            format!("cannot look at the processes: {error}"),
        ),
    }
}

/// Process ids of kube-proxies in this network namespace.
pub(super) fn kube_proxies() -> io::Result<Vec<String>> {
    let here = fs::read_link("/proc/self/ns/net")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // A process that ended meanwhile is none.
        let Ok(entry) = entry else { continue };
        let is_proxy = fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|name| name.trim_end() == "kube-proxy");
        if is_proxy && fs::read_link(entry.path().join("ns/net")).is_ok_and(|net| net == here) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

fn rules() -> Finding {
    let thing = Thing {
        name: "kube-proxy's rules",
        group: Group::Conflicts,
        gives: "",
        costs: "what Weir does not translate, they do, as of the day kube-proxy stopped: stale endpoints, and every new \
                connection walks them. Remove them: kube-proxy --cleanup, or nft delete table ip kube-proxy (and ip6)",
    };
    let mut found = Vec::new();
    match chains() {
        Ok(chains) => found.extend(of_kube_proxy(&chains)),
        Err(error) => {
            return thing.is(
                State::Unknown,
                format!("cannot list nftables' chains: {error}"),
            );
        }
    }
    match legacy_rules() {
        Ok(true) => found.push("iptables (legacy) nat KUBE-SERVICES".to_owned()),
        Ok(false) => {}
        Err(error) => {
            return thing.is(
                State::Unknown,
                format!("cannot list iptables' legacy rules: {error}"),
            );
        }
    }
    if found.is_empty() {
        return thing.is(State::Ok, "none");
    }
    thing.is(State::Degraded, found.join(", "))
}

/// (table, chain) of every nftables chain.
pub(super) fn chains() -> io::Result<Vec<(String, String)>> {
    let chains = netfilter::chains()?.into_iter();
    Ok(chains.map(|chain| (chain.table, chain.name)).collect())
}

fn of_kube_proxy(chains: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (table, chain) in chains {
        let what = if table == "kube-proxy" {
            "nftables table kube-proxy".to_owned()
        } else if chain == "KUBE-SERVICES" {
            format!("iptables {table} KUBE-SERVICES")
        } else {
            continue;
        };
        if !found.contains(&what) {
            found.push(what);
        }
    }
    found
}

/// Looks only when the legacy nat table is in use: listing it would make it otherwise.
fn legacy_rules() -> io::Result<bool> {
    let in_use = fs::read_to_string("/proc/self/net/ip_tables_names")
        .is_ok_and(|tables| tables.lines().any(|table| table == "nat"));
    if !in_use {
        return Ok(false);
    }
    let output = Command::new("iptables-legacy-save")
        .args(["-t", "nat"])
        .output()?;
    let rules = String::from_utf8_lossy(&output.stdout);
    Ok(rules
        .lines()
        .any(|line| line.starts_with(":KUBE-SERVICES ")))
}

fn programs() -> Finding {
    let thing = Thing {
        name: "other eBPF load balancers",
        group: Group::Conflicts,
        gives: "",
        costs: "who attached first translates first, and the other sees a pod's address. Switch one off: kubeProxyReplacement in \
                Cilium, bpfConnectTimeLoadBalancing in Calico",
    };
    let mut found: Vec<&str> = Vec::new();
    for program in loaded_programs() {
        let program = match program {
            Ok(program) => program,
            Err(error) => {
                return thing.is(
                    State::Unknown,
                    format!("cannot list the loaded programs: {error}"),
                );
            }
        };
        let owner = program.name_as_str().and_then(owner);
        found.extend(owner.filter(|owner| !found.contains(owner)));
    }
    if found.is_empty() {
        return thing.is(State::Ok, "none");
    }
    thing.is(
        State::Degraded,
        format!("socket programs of {} are loaded", found.join(" and ")),
    )
}

/// Whose socket program this is. The kernel keeps 15 characters of a name.
fn owner(program: &str) -> Option<&'static str> {
    if program.starts_with("cil_sock") {
        Some("Cilium")
    } else if program.starts_with("calico_connect") || program.starts_with("cali_ctlb") {
        Some("Calico")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `test` on a thread in a network namespace of its own, which goes with the thread.
    fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            // SAFETY: only this thread's network namespace is replaced; descriptors stay shared as before.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("tests run as root");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn nft(command: &str) {
        let status = Command::new("nft")
            .args(command.split(' '))
            .status()
            .expect("nft is installed");
        assert!(status.success(), "nft {command}");
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        in_fresh_namespace(|| {
            assert_eq!(chains().unwrap(), []);
            assert_eq!(rules().state, State::Ok);
            assert_eq!(process().state, State::Ok);
        });
    }

    #[test]
    fn the_rules_of_both_of_kube_proxys_modes_are_found() {
        in_fresh_namespace(|| {
            nft("add table ip kube-proxy");
            nft("add chain ip kube-proxy services");
            nft("add table ip6 kube-proxy");
            nft("add chain ip6 kube-proxy services");
            nft("add table ip nat");
            nft("add chain ip nat KUBE-SERVICES");
            nft("add chain ip nat OTHER");
            let finding = rules();
            assert_eq!(finding.state, State::Degraded);
            assert_eq!(
                finding.found,
                "nftables table kube-proxy, iptables nat KUBE-SERVICES"
            );
        });
    }

    #[test]
    fn socket_programs_are_known_by_their_names() {
        assert_eq!(owner("cil_sock4_conne"), Some("Cilium"));
        assert_eq!(owner("calico_connect_"), Some("Calico"));
        assert_eq!(owner("connect4"), None);
    }
}
