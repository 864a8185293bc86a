//! `weir check --migrate`: what kube-proxy does or left on this node, what will be different with Weir, what to do before,
//! and the way back. Nothing is changed by looking.

mod node;
mod rules;

use std::collections::BTreeMap;

use serde::Serialize;

pub use node::Proxy;
pub use rules::{Frontend, FrontendKind, Mode};

/// Everything that was found, and what it means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Migration {
    /// kube-proxies that run in this network namespace.
    pub running: Vec<Proxy>,
    /// What kube-proxy has programmed, by mode.
    pub programmed: Vec<Programmed>,
    /// Its settings that have no effect in Weir, and what becomes of them.
    pub settings: Vec<Setting>,
    /// The services it serves here, by name.
    pub services: Vec<Service>,
    /// What will be different for all of them.
    pub changes: Vec<String>,
    /// What to do before.
    pub before: Vec<String>,
    /// What to do once Weir runs on all nodes.
    pub after: Vec<String>,
    /// How to go back.
    pub back: Vec<String>,
    /// What could not be looked at, and why.
    pub unknown: Vec<String>,
}

/// The rules of one of kube-proxy's modes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Programmed {
    /// Which mode.
    pub mode: Mode,
    /// How many frontends they have: addresses and ports of services.
    pub frontends: usize,
}

/// A setting of kube-proxy's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The flag, or the field of the configuration file.
    pub name: String,
    /// What becomes of it.
    pub outcome: String,
}

/// A port of a service that kube-proxy serves on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// `namespace/name:port`; of IPVS, which keeps no names, the address.
    pub name: String,
    /// Its addresses and ports.
    pub frontends: Vec<Frontend>,
    /// What will be different.
    pub changes: Vec<String>,
}

/// Looks at this node.
#[must_use]
pub fn migrate() -> Migration {
    let mut migration = Migration::default();
    let found = rules::find(&mut migration.unknown);
    let node = node::look(&mut migration);
    migration.conclude(found, &node);
    migration
}

impl Migration {
    /// Says what it means.
    fn conclude(&mut self, found: rules::Found, node: &node::Facts) {
        for mode in Mode::ALL {
            let of_mode = found
                .frontends
                .iter()
                .filter(|frontend| frontend.mode == mode);
            let frontends = of_mode.count();
            if frontends > 0 || found.modes.contains(&mode) {
                self.programmed.push(Programmed { mode, frontends });
            }
        }
        let is_used = |mode| {
            self.programmed
                .iter()
                .any(|programmed| programmed.mode == mode)
        };
        let (iptables, ipvs) = (
            is_used(Mode::IptablesLegacy) || is_used(Mode::IptablesNft),
            is_used(Mode::Ipvs),
        );

        let mut services: BTreeMap<String, Service> = BTreeMap::new();
        for frontend in found.frontends {
            let service = services.entry(frontend.service.clone()).or_default();
            service.name.clone_from(&frontend.service);
            if !service.frontends.contains(&frontend) {
                service.frontends.push(frontend);
            }
        }
        for service in services.values_mut() {
            service.changes = changes_of(service, &found.affinity, node);
        }
        self.services = services.into_values().collect();

        if self.programmed.is_empty() && self.running.is_empty() {
            return;
        }
        self.changes.push(
            "Connections that are made from now on by pods and by this node get their endpoint when they are made, by Weir, also \
             while kube-proxy still runs. Those that exist keep the endpoint that kube-proxy gave them"
                .into(),
        );
        if ipvs {
            self.changes.push(
                "Connections through IPVS end when its services are removed: unlike those through iptables and nftables, they do \
                 not live on in conntrack"
                    .into(),
            );
        }
        self.before_and_after(iptables, ipvs, node);
    }

    fn before_and_after(&mut self, iptables: bool, ipvs: bool, node: &node::Facts) {
        self.before.push(
            "Name the API servers with --apiserver: once kube-proxy is gone, their service works only where Weir runs".into(),
        );
        if !self.running.is_empty() {
            self.before.push(
                "While both run, give Weir other ports than kube-proxy's: --metrics-bind-address=127.0.0.1:10349 \
                 --healthz-bind-address=0.0.0.0:10356; health checks of services keep kube-proxy's until it ends"
                    .into(),
            );
        }
        let overlapping: Vec<u16> = self
            .services
            .iter()
            .flat_map(|service| &service.frontends)
            .filter(|frontend| {
                frontend.kind == FrontendKind::NodePort && node.may_be_ephemeral(frontend.port)
            })
            .map(|frontend| frontend.port)
            .collect();
        if let (Some(first), Some(last)) = (overlapping.iter().min(), overlapping.iter().max()) {
            self.before.push(format!(
                "Node ports {first} to {last} are within net.ipv4.ip_local_port_range ({} to {}), so that this node's own \
                 connections may take them: reserve them in net.ipv4.ip_local_reserved_ports",
                node.ephemeral.0, node.ephemeral.1
            ));
        }
        if node.rp_filter == Some(1) {
            self.before.push(
                "net.ipv4.conf.all.rp_filter is strict (1): where answers come in by another device than requests leave by, set \
                 it to 2"
                    .into(),
            );
        }
        let mut remove = Vec::new();
        if self
            .programmed
            .iter()
            .any(|programmed| programmed.mode == Mode::Nftables)
        {
            remove.push("nft delete table ip kube-proxy; nft delete table ip6 kube-proxy");
        }
        if iptables || ipvs {
            remove.push("kube-proxy --cleanup");
        }
        if !remove.is_empty() {
            self.after.push(format!(
                "Stop kube-proxy and remove what it programmed, or stale rules stay in the way of what Weir does not translate: {}",
                remove.join("; ")
            ));
        }
        if node.has_ipvs_device {
            self.after.push(
                "Remove the device kube-ipvs0, which makes every service address one of this node's: ip link delete kube-ipvs0"
                    .into(),
            );
        }
        if iptables && node.route_localnet == Some(1) {
            self.after.push(
                "kube-proxy set net.ipv4.conf.all.route_localnet for node ports on 127.0.0.1; Weir does not need it: set it to 0"
                    .into(),
            );
        }
        self.back.extend([
            "Start kube-proxy again, and wait until its /healthz on port 10256 answers 200".to_owned(),
            "Delete Weir's DaemonSet from the node, then run `weir cleanup`: from that moment kube-proxy balances what is new, \
             and what Weir translated at the socket goes on"
                .to_owned(),
        ]);
    }
}

fn changes_of(service: &Service, affinity: &[String], node: &node::Facts) -> Vec<String> {
    let mut changes = Vec::new();
    let is_everywhere = |frontend: &&Frontend| {
        frontend.kind == FrontendKind::NodePort && frontend.mode != Mode::Nftables
    };
    let mut ports: Vec<u16> = service
        .frontends
        .iter()
        .filter(is_everywhere)
        .map(|frontend| frontend.port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        if !node.has_node_port_addresses {
            changes.push(format!(
                "node port {port} is served on the node's primary addresses only, no longer on every address it has; \
                 --nodeport-addresses chooses others"
            ));
        }
        let used = node.connections_to_localhost(port);
        if used > 0 {
            changes.push(format!(
                "{used} connections use node port {port} at 127.0.0.1, which is served only when --nodeport-addresses holds \
                 127.0.0.0/8"
            ));
        }
    }
    if affinity.contains(&service.name) {
        changes.push(
            "each client's session affinity begins anew, so that it may change its endpoint once"
                .to_owned(),
        );
    }
    if service
        .frontends
        .iter()
        .any(|frontend| frontend.mode == Mode::Ipvs)
    {
        changes.push(
            "the scheduler of IPVS goes: endpoints are chosen at random, or as an annotation says"
                .to_owned(),
        );
    }
    changes
}

#[cfg(test)]
mod tests;
