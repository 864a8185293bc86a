//! Whether packets between pods of this node may be handed over directly.
//!
//! `bpf_redirect_peer` puts a packet straight into the other pod, past everything on the node's side of its veth: faster, but also
//! past rules and programs there. Software that enforces network policies in those places would be blinded, so that where some is
//! found, packets take the long way.

use std::{collections::BTreeSet, fs, time::Duration};

use clap::ValueEnum;
use tracing::{info, warn};
use weir_abi::config::flags::LOCAL_REDIRECT;

use crate::{check::chains, dataplane::Config};

/// How often to look for software that came later.
const AGAIN: Duration = Duration::from_secs(30);

/// When to hand packets over directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LocalRedirect {
    /// Unless software is found that enforces policies on the way
    #[default]
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// Beginnings of the names of nftables' and iptables' chains, and of interfaces, that tell of policies.
const OF_CHAINS: [(&str, &str); 7] = [
    ("cali-", "Calico"),
    ("filter-cali-", "Calico"),
    ("KUBE-ROUTER-", "kube-router"),
    ("KUBE-NWPLCY-", "kube-router"),
    ("WEAVE-NPC", "Weave Net"),
    ("AZURE-NPM", "Azure NPM"),
    ("ANTREA-", "Antrea"),
];
const OF_TABLES: [(&str, &str); 2] = [
    ("kube-network-policies", "kube-network-policies"),
    ("kindnet-network-policies", "kindnet"),
];
const OF_INTERFACES: [(&str, &str); 5] = [
    ("cali", "Calico"),
    ("lxc_health", "Cilium"),
    ("cilium_host", "Cilium"),
    ("antrea-gw", "Antrea"),
    ("ovn-k8s-mp", "OVN-Kubernetes"),
];

/// Decides, and goes on deciding: such software may come and go while the agent runs. Must be called within a Tokio runtime, and
/// lets go of the configuration when the runtime ends.
pub fn follow(choice: LocalRedirect, config: Config) {
    let mut last = None;
    let mut decide = move || {
        let found = match choice {
            LocalRedirect::Auto => enforcers(),
            LocalRedirect::On | LocalRedirect::Off => BTreeSet::new(),
        };
        let direct = choice != LocalRedirect::Off && found.is_empty();
        if last.as_ref() == Some(&found) {
            return;
        }
        if !found.is_empty() {
            let found: Vec<&str> = found.iter().copied().collect();
            info!(
                found = found.join(", "),
                "packets between this node's pods pass the node's own stack, as this software may enforce policies there; \
                 --local-redirect=on hands them over directly all the same"
            );
        }
        match config.update(|config| {
            if direct {
                config.flags |= LOCAL_REDIRECT;
            } else {
                config.flags &= !LOCAL_REDIRECT;
            }
        }) {
            Ok(()) => last = Some(found),
            Err(error) => warn!(%error, "cannot tell the packet programs how to reach local pods"),
        }
    };
    decide();
    if choice == LocalRedirect::Auto {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                decide();
            }
        });
    }
}

/// Software on this node that may enforce policies where redirected packets do not pass.
fn enforcers() -> BTreeSet<&'static str> {
    let chains = chains().unwrap_or_else(|error| {
        warn!(%error, "cannot list nftables' chains, to see who else enforces policies");
        Vec::new()
    });
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let interfaces = interfaces.lines().filter_map(|line| line.split_once(':'));
    recognise(&chains, interfaces.map(|(name, _)| name.trim()))
}

fn recognise<'a>(
    chains: &[(String, String)],
    interfaces: impl Iterator<Item = &'a str>,
) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for (table, chain) in chains {
        found.extend(owner(&OF_TABLES, table).or_else(|| owner(&OF_CHAINS, chain)));
    }
    found.extend(interfaces.filter_map(|name| owner(&OF_INTERFACES, name)));
    found
}

fn owner(of: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    let owner = of.iter().find(|(beginning, _)| name.starts_with(beginning));
    owner.map(|(_, owner)| *owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_others_are_recognised_and_other_rules_are_not() {
        let none: &[(&str, &str)] = &[];
        for (chains, interfaces, expected) in [
            (
                none,
                &["lo", "eth0", "cni0", "vethab12cd34", "flannel.1"][..],
                &[][..],
            ),
            (
                &[
                    ("filter", "FORWARD"),
                    ("nat", "KUBE-SERVICES"),
                    ("kube-proxy", "services"),
                ],
                &[],
                &[],
            ),
            (
                &[("filter", "FLANNEL-FWD"), ("nat", "CNI-HOSTPORT-DNAT")],
                &[],
                &[],
            ),
            (&[("filter", "cali-FORWARD")], &[], &["Calico"]),
            (&[("calico", "filter-cali-FORWARD")], &[], &["Calico"]),
            (none, &["lo", "cali0123456789a"], &["Calico"]),
            (&[("filter", "KUBE-ROUTER-FORWARD")], &[], &["kube-router"]),
            (
                &[("kube-network-policies", "postrouting")],
                &["cilium_host"],
                &["Cilium", "kube-network-policies"],
            ),
        ] {
            let chains: Vec<(String, String)> = chains
                .iter()
                .map(|(table, chain)| ((*table).to_owned(), (*chain).to_owned()))
                .collect();
            let found = recognise(&chains, interfaces.iter().copied());
            let found: Vec<&str> = found.into_iter().collect();
            assert_eq!(found, expected, "{chains:?} {interfaces:?}");
        }
    }
}
