//! Whether packets between pods of this node may be handed over directly.
//!
//! `bpf_redirect_peer` puts a packet straight into the other pod, past everything on the node's side of its veth: faster, but also
//! past rules and programs there. So packets take the long way where that would be missed:
//!
//! - Software that enforces network policies in those places would be blinded.
//! - An answer to what the node's netfilter has translated (kube-proxy's services, the host ports of CNI plugins) would keep the
//!   endpoint's address. That is to be expected as long as there are rules that translate destinations, and after that as long as
//!   there are connections which were.

use std::{collections::BTreeSet, fs, time::Duration};

use clap::ValueEnum;
use tracing::{info, warn};
use weir_abi::config::flags::{LOCAL_REDIRECT, OTHERS_TRANSLATE};

use crate::{
    dataplane::Config,
    netfilter::{self, Chain},
};

/// How often to look for who came later, while there is nobody,
const WHILE_ALONE: Duration = Duration::from_secs(1);
/// and for who went, while there is somebody.
const WHILE_NOT: Duration = Duration::from_secs(30);

/// What netfilter translates, in the words of the log.
const TRANSLATION: &str = "destinations translated by the node's netfilter";

/// When to hand packets over directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LocalRedirect {
    /// Unless somebody on the way may enforce policies or translate addresses
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

/// Decides, and goes on deciding: others may come and go while the agent runs. Must be called within a Tokio runtime, and lets go
/// of the configuration when the runtime ends.
pub fn follow(choice: LocalRedirect, config: Config) {
    let mut last = None;
    let mut decide = move || {
        let found = in_the_way();
        let direct = match choice {
            LocalRedirect::Auto => found.is_empty(),
            LocalRedirect::On => true,
            LocalRedirect::Off => false,
        };
        if last.as_ref() == Some(&found) {
            return found.is_empty();
        }
        if choice == LocalRedirect::Auto && !direct {
            let found: Vec<&str> = found.iter().copied().collect();
            info!(
                found = found.join(", "),
                "packets between this node's pods pass the node's own stack, as they may be needed there; \
                 --local-redirect=on hands them over directly all the same"
            );
        }
        let others_translate = found.contains(TRANSLATION);
        match config.update(|config| {
            config.flags &= !(LOCAL_REDIRECT | OTHERS_TRANSLATE);
            config.flags |= if direct { LOCAL_REDIRECT } else { 0 };
            config.flags |= if others_translate {
                OTHERS_TRANSLATE
            } else {
                0
            };
        }) {
            Ok(()) => last = Some(found.clone()),
            Err(error) => warn!(%error, "cannot tell the packet programs how to reach local pods"),
        }
        found.is_empty()
    };
    let mut alone = decide();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(if alone { WHILE_ALONE } else { WHILE_NOT }).await;
            alone = decide();
        }
    });
}

/// Who may need to see the packets between pods of this node.
fn in_the_way() -> BTreeSet<&'static str> {
    let (chains, known) = match netfilter::chains() {
        Ok(chains) => (chains, true),
        Err(error) => {
            warn!(%error, "cannot list nftables' chains, to see who else enforces policies or translates destinations");
            (Vec::new(), false)
        }
    };
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let interfaces = interfaces.lines().filter_map(|line| line.split_once(':'));
    let mut found = recognise(&chains, interfaces.map(|(name, _)| name.trim()));
    // What cannot be told is taken for granted.
    if !known || translates(&chains) {
        found.insert(TRANSLATION);
    }
    found
}

/// Whether the node's netfilter translates destinations, or goes on translating those of old connections.
fn translates(chains: &[Chain]) -> bool {
    let legacy = |file: &str| {
        let tables = fs::read_to_string(file).unwrap_or_default();
        tables.lines().any(|table| table == "nat")
    };
    legacy("/proc/thread-self/net/ip_tables_names")
        || legacy("/proc/thread-self/net/ip6_tables_names")
        || chains.iter().any(|chain| chain.translates_destinations)
        || netfilter::has_translated_connections().unwrap_or_else(|error| {
            warn!(%error, "cannot tell whether connections are translated; taken for granted");
            true
        })
}

/// Software on this node that may enforce policies where redirected packets do not pass.
fn recognise<'a>(
    chains: &[Chain],
    interfaces: impl Iterator<Item = &'a str>,
) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for Chain { table, name, .. } in chains {
        found.extend(owner(&OF_TABLES, table).or_else(|| owner(&OF_CHAINS, name)));
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
            let chains: Vec<Chain> = chains
                .iter()
                .map(|(table, name)| Chain {
                    table: (*table).to_owned(),
                    name: (*name).to_owned(),
                    translates_destinations: false,
                })
                .collect();
            let found = recognise(&chains, interfaces.iter().copied());
            let found: Vec<&str> = found.into_iter().collect();
            assert_eq!(found, expected, "{chains:?} {interfaces:?}");
        }
    }
}
