//! Whether packets between pods of this node may be handed over directly.
//!
//! `bpf_redirect_peer` puts a packet straight into the other pod, past everything on the node's side of its veth: faster, but also
//! past rules and programs there. So packets take the long way where that would be missed:
//!
//! - Software that enforces network policies in those places would be blinded.
//! - An answer to what the node's netfilter has translated (kube-proxy's services, the host ports of CNI plugins) would keep the
//!   endpoint's address. That is to be expected as long as there are rules that translate destinations, and after that as long as
//!   there are connections which were.

use std::{collections::BTreeSet, fs, io, time::Duration};

use clap::ValueEnum;
use rustix::net::netlink::NETFILTER;
use tracing::{info, warn};
use weir_abi::config::flags::{LOCAL_REDIRECT, OTHERS_TRANSLATE};

use crate::{
    check::chains,
    dataplane::Config,
    netlink::{Expect, attributes, request},
};

/// How often to look for who came later, while there is nobody,
const WHILE_ALONE: Duration = Duration::from_secs(1);
/// and for who went, while there is somebody.
const WHILE_NOT: Duration = Duration::from_secs(30);

/// What netfilter translates, in the words of the log.
const TRANSLATION: &str = "destinations translated by the node's netfilter";

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`
const GET_CHAINS: u16 = 10 << 8 | 4;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`: where destinations are translated.
const BEFORE_ROUTING: [u32; 2] = [0, 3];

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`
const GET_CONNECTIONS: u16 = 1 << 8 | 1;
const CONNECTION_STATUS: u16 = 3;
const CONNECTION_STATUS_MASK: u16 = 26;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 1 << 5;

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
    let mut found = enforcers();
    let translates = translates().unwrap_or_else(|error| {
        warn!(%error, "cannot tell whether the node's netfilter translates destinations; taken for granted");
        true
    });
    if translates {
        found.insert(TRANSLATION);
    }
    found
}

/// Whether the node's netfilter translates destinations, or goes on translating those of old connections.
fn translates() -> io::Result<bool> {
    let legacy = |file: &str| {
        let tables = fs::read_to_string(file).unwrap_or_default();
        tables.lines().any(|table| table == "nat")
    };
    Ok(legacy("/proc/thread-self/net/ip_tables_names")
        || legacy("/proc/thread-self/net/ip6_tables_names")
        || dump(GET_CHAINS, &[0; 4])?
            .iter()
            .any(|chain| translates_destinations(chain))
        || !translated_connections()?.is_empty())
}

/// As [`request`], of a kernel that may have neither nftables nor connection tracking.
fn dump(message: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    match request(NETFILTER, message, payload, Expect::Dump) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)
            ) =>
        {
            Ok(Vec::new())
        }
        result => result,
    }
}

fn translated_connections() -> io::Result<Vec<Vec<u8>>> {
    // `struct nfgenmsg`: any family; then the status that is asked for, and which of its bits count (since Linux 5.9).
    let mut payload = vec![0; 4];
    for kind in [CONNECTION_STATUS, CONNECTION_STATUS_MASK] {
        payload.extend(8_u16.to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(TRANSLATED.to_be_bytes());
    }
    dump(GET_CONNECTIONS, &payload)
}

/// Whether a chain is one of type `nat` at a hook before routing.
fn translates_destinations(chain: &[u8]) -> bool {
    let of_chain = |wanted| {
        let mut all = attributes(chain.get(4..).unwrap_or_default());
        all.find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let number = of_chain(CHAIN_HOOK).and_then(|hook| {
        let mut all = attributes(hook);
        let (_, value) = all.find(|(kind, _)| *kind == HOOK_NUMBER)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    });
    of_chain(CHAIN_TYPE).is_some_and(|kind| kind.starts_with(b"nat"))
        && number.is_some_and(|number| BEFORE_ROUTING.contains(&number))
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
