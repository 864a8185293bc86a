//! The node around kube-proxy's rules: the process and its configuration, and settings of the kernel.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use serde::Serialize;

use super::{Migration, Setting};
use crate::{
    check::conflicts,
    cli::{self, kube_proxy, values::NodePorts},
};

/// Where kubeadm's DaemonSet has it in its container; also a place where people put it on a node.
const DEFAULT_CONFIGURATION: &str = "/var/lib/kube-proxy/config.conf";

/// A kube-proxy that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// Its process id.
    pub pid: u32,
    /// What it was started with.
    pub arguments: Vec<String>,
}

/// What matters for the conclusions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether kube-proxy was told `--nodeport-addresses`, which Weir takes as well.
    pub(super) has_node_port_addresses: bool,
    pub(super) ephemeral: (u16, u16),
    pub(super) reserved: String,
    pub(super) rp_filter: Option<u32>,
    pub(super) route_localnet: Option<u32>,
    pub(super) has_ipvs_device: bool,
    /// Ports at 127.0.0.1 that sockets are connected to, one for each socket.
    pub(super) localhost: Vec<u16>,
}

impl Facts {
    /// Whether a connection of the node's own may take this port.
    pub(super) fn may_be_ephemeral(&self, port: u16) -> bool {
        let reserved = self.reserved.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let within = || Some(first.trim().parse().ok()?..=last.trim().parse().ok()?);
            within().is_some_and(|range: std::ops::RangeInclusive<u16>| range.contains(&port))
        });
        (self.ephemeral.0..=self.ephemeral.1).contains(&port) && !reserved
    }

    pub(super) fn connections_to_localhost(&self, port: u16) -> usize {
        self.localhost.iter().filter(|to| **to == port).count()
    }
}

/// Looks at the node, and notes in `migration` what runs and how it is set.
pub(super) fn look(migration: &mut Migration) -> Facts {
    let sysctl = |name: &str| {
        let value =
            fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name)).unwrap_or_default();
        value.trim().to_owned()
    };
    let mut range = sysctl("ip_local_port_range")
        .split_whitespace()
        .map(str::parse)
        .collect::<Vec<_>>()
        .into_iter();
    let mut facts = Facts {
        ephemeral: match (range.next(), range.next()) {
            (Some(Ok(first)), Some(Ok(last))) => (first, last),
            _ => (32768, 60999),
        },
        reserved: sysctl("ip_local_reserved_ports"),
        rp_filter: sysctl("conf/all/rp_filter").parse().ok(),
        route_localnet: sysctl("conf/all/route_localnet").parse().ok(),
        has_ipvs_device: fs::read_to_string("/proc/self/net/dev").is_ok_and(|devices| {
            devices
                .lines()
                .any(|line| line.trim_start().starts_with("kube-ipvs0:"))
        }),
        localhost: fs::read_to_string("/proc/self/net/tcp")
            .map_or_else(|_| Vec::new(), |table| connected(&table)),
        ..Facts::default()
    };
    match conflicts::kube_proxies() {
        Ok(pids) => migration
            .running
            .extend(pids.iter().filter_map(|pid| proxy(pid))),
        Err(error) => migration
            .unknown
            .push(format!("the processes cannot be looked at: {error}")),
    }
    let mut sources: Vec<(String, Vec<String>)> = migration
        .running
        .iter()
        .map(|proxy| (format!("/proc/{}/root", proxy.pid), proxy.arguments.clone()))
        .collect();
    if sources.is_empty() && Path::new(DEFAULT_CONFIGURATION).exists() {
        sources.push((
            String::new(),
            vec![format!("--config={DEFAULT_CONFIGURATION}")],
        ));
    }
    for (root, arguments) in sources {
        settings(&root, &arguments, migration, &mut facts);
    }
    facts
}

fn proxy(pid: &str) -> Option<Proxy> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // A child that it has just begun bears its name until it runs something else.
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim_end() != "kube-proxy" {
        return None;
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let arguments = line
        .split('\0')
        .skip(1)
        .filter(|argument| !argument.is_empty());
    Some(Proxy {
        pid: pid.parse().ok()?,
        // What a program of many commands is told first.
        arguments: arguments
            .skip_while(|argument| !argument.starts_with('-'))
            .map(str::to_owned)
            .collect(),
    })
}

/// Reads its arguments as `weir run` would, with files below its own root.
fn settings(root: &str, arguments: &[String], migration: &mut Migration, facts: &mut Facts) {
    let mut line = vec!["weir".to_owned(), "run".to_owned()];
    let mut is_path = false;
    for argument in arguments {
        line.push(match argument.strip_prefix("--config=") {
            Some(path) => format!("--config={root}{path}"),
            None if is_path => format!("{root}{argument}"),
            None => argument.clone(),
        });
        is_path = argument == "--config";
    }
    match cli::parse(line) {
        Ok(cli::Cli {
            command: cli::Command::Run(options),
        }) => {
            let kube_proxy::Ignored { flags, fields, .. } = options.kube_proxy;
            for foreign in flags.into_iter().chain(fields) {
                let setting = Setting {
                    name: foreign.name,
                    outcome: foreign.outcome.to_owned(),
                };
                if !migration.settings.contains(&setting) {
                    migration.settings.push(setting);
                }
            }
            facts.has_node_port_addresses |= NodePorts::new(&options.nodeport_addresses)
                .is_ok_and(|ports| ports != NodePorts::Primary);
        }
        Ok(_) => {}
        Err(error) => migration
            .unknown
            .push(format!("kube-proxy's settings cannot be read: {error:#}")),
    }
}

/// The remote ports of established connections to 127.0.0.1 in `/proc/net/tcp`.
fn connected(table: &str) -> Vec<u16> {
    let remote = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let (addr, port) = words.next()?.split_once(':')?;
        let is_established = words.next()? == "01";
        let addr = IpAddr::V4(Ipv4Addr::from(
            u32::from_str_radix(addr, 16).ok()?.to_ne_bytes(),
        ));
        let port = u16::from_str_radix(port, 16).ok()?;
        (is_established && addr == Ipv4Addr::LOCALHOST).then_some(port)
    };
    table.lines().skip(1).filter_map(remote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_to_localhost_are_counted() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     \x20  0: 0100007F:9C40 0100007F:7594 01 00000000:00000000\n\
                     \x20  1: 0100007F:9C41 0100007F:7594 06 00000000:00000000\n\
                     \x20  2: 0100007F:9C42 0200007F:7594 01 00000000:00000000\n\
                     \x20  3: 00000000:1F90 00000000:0000 0A 00000000:00000000\n";
        if cfg!(target_endian = "little") {
            assert_eq!(connected(table), [30100]);
        }
    }

    #[test]
    fn reserved_ports_are_nobodys() {
        let facts = Facts {
            ephemeral: (30000, 60999),
            reserved: "30000-30100, 31000".to_owned(),
            ..Facts::default()
        };
        for (port, may) in [
            (29999, false),
            (30050, false),
            (30101, true),
            (31000, false),
            (61000, false),
        ] {
            assert_eq!(facts.may_be_ephemeral(port), may, "{port}");
        }
    }
}
