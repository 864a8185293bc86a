//! What kube-proxy programmed: the services in its nftables table, its iptables chains and IPVS.

use std::{fs, io, net::IpAddr, process::Command};

use serde::Serialize;
use serde_json::Value;

use crate::check::conflicts;

/// Which of kube-proxy's modes programmed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// nftables, table `kube-proxy`.
    Nftables,
    /// iptables by way of nftables.
    IptablesNft,
    /// The old iptables.
    IptablesLegacy,
    /// IPVS.
    Ipvs,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Nftables,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Ipvs,
    ];
}

/// What sort of address a frontend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendKind {
    /// A cluster IP.
    ClusterIp,
    /// An external IP, or a load balancer's.
    External,
    /// A port of the node.
    NodePort,
    /// IPVS does not say.
    Unknown,
}

/// An address and port at which kube-proxy serves a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontend {
    /// `namespace/name:port`
    #[serde(skip)]
    pub service: String,
    /// By which mode.
    pub mode: Mode,
    /// What sort of address.
    pub kind: FrontendKind,
    /// The address; of node ports, those of the node.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// All there is.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) frontends: Vec<Frontend>,
    /// Modes that left something, even if no frontend.
    pub(super) modes: Vec<Mode>,
    /// Names of services with session affinity.
    pub(super) affinity: Vec<String>,
}

/// Looks everywhere. A tool that is missing or fails is noted in `unknown`, if there is something for it to show.
pub(super) fn find(unknown: &mut Vec<String>) -> Found {
    let mut found = Found::default();
    let chains = conflicts::chains().unwrap_or_else(|error| {
        unknown.push(format!("nftables' chains cannot be listed: {error}"));
        Vec::new()
    });
    if chains.iter().any(|(table, _)| table == "kube-proxy") {
        found.modes.push(Mode::Nftables);
        for family in ["ip", "ip6"] {
            match run("nft", &["-j", "list", "table", family, "kube-proxy"]) {
                Ok(Some(text)) => found.nftables(&text, unknown),
                // Of one family only.
                Ok(None) => {}
                Err(error) => unknown.push(format!(
                    "nft cannot be run ({error}): its services are not listed"
                )),
            }
        }
    }
    let is_ours = |chain: &str| ["KUBE-SERVICES", "KUBE-NODEPORTS"].contains(&chain);
    if chains
        .iter()
        .any(|(table, chain)| table != "kube-proxy" && is_ours(chain))
    {
        found.modes.push(Mode::IptablesNft);
        for tool in ["iptables-nft-save", "ip6tables-nft-save"] {
            found.iptables_of(tool, Mode::IptablesNft, unknown);
        }
    }
    // Listing legacy tables that are not in use would make them.
    for (names, tool) in [
        ("/proc/self/net/ip_tables_names", "iptables-legacy-save"),
        ("/proc/self/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        if fs::read_to_string(names).is_ok_and(|tables| tables.lines().any(|table| table == "nat"))
        {
            found.iptables_of(tool, Mode::IptablesLegacy, unknown);
        }
    }
    if let Ok(text) = fs::read_to_string("/proc/self/net/ip_vs") {
        found.ipvs(&text);
    }
    found
}

/// What a tool prints; nothing when it fails.
fn run(tool: &str, arguments: &[&str]) -> io::Result<Option<String>> {
    let output = Command::new(tool).args(arguments).output()?;
    Ok(output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

impl Found {
    fn iptables_of(&mut self, tool: &str, mode: Mode, unknown: &mut Vec<String>) {
        match run(tool, &[]) {
            Ok(Some(text)) => self.iptables(&text, mode),
            Ok(None) => unknown.push(format!("{tool} has failed: its services are not listed")),
            Err(error) => unknown.push(format!(
                "{tool} cannot be run ({error}): its services are not listed"
            )),
        }
    }

    /// Reads what `iptables-save` prints: one rule per frontend, whose comment is the service's name and the sort of address.
    pub(super) fn iptables(&mut self, text: &str, mode: Mode) {
        for line in text.lines() {
            if line.starts_with(":KUBE-SERVICES ") && !self.modes.contains(&mode) {
                self.modes.push(mode);
            }
            let words = words(line);
            let after = |option: &str| {
                let at = words.iter().position(|word| word == option)?;
                words.get(at + 1).map(String::as_str)
            };
            let chain = after("-A").unwrap_or_default();
            let Some(comment) = after("--comment") else {
                continue;
            };
            if words.iter().any(|word| word == "recent") && chain.starts_with("KUBE-SVC-") {
                let name = comment.split(" -> ").next().unwrap_or_default();
                self.affinity.push(name.to_owned());
            }
            let (Some(port), Some(protocol)) = (
                after("--dport").and_then(|port| port.parse().ok()),
                after("-p"),
            ) else {
                continue;
            };
            let (name, sort) = comment.split_once(' ').unwrap_or((comment, ""));
            if !name.contains('/') {
                continue;
            }
            let addr = after("-d").and_then(|addr| addr.split('/').next()?.parse::<IpAddr>().ok());
            let kind = match (chain, sort) {
                ("KUBE-NODEPORTS", "health check node port") => continue,
                ("KUBE-NODEPORTS", _) => FrontendKind::NodePort,
                ("KUBE-SERVICES", "cluster IP") => FrontendKind::ClusterIp,
                ("KUBE-SERVICES", "external IP" | "loadbalancer IP") => FrontendKind::External,
                // The filter table has rules of its own for what has no endpoints.
                ("KUBE-SERVICES", _) => FrontendKind::ClusterIp,
                ("KUBE-EXTERNAL-SERVICES", _) if addr.is_some() => FrontendKind::External,
                ("KUBE-EXTERNAL-SERVICES", _) => FrontendKind::NodePort,
                _ => continue,
            };
            self.push(Frontend {
                service: name.to_owned(),
                mode,
                kind,
                addr: if kind == FrontendKind::NodePort {
                    None
                } else {
                    addr
                },
                port,
                protocol: protocol.to_owned(),
            });
        }
    }

    /// Reads kube-proxy's table as `nft -j` prints it: maps from address, protocol and port to a chain that has the service's
    /// name in its own, or, without endpoints, in the element's comment.
    pub(super) fn nftables(&mut self, text: &str, unknown: &mut Vec<String>) {
        let table: Value = match serde_json::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                unknown.push(format!("what nft prints cannot be read: {error}"));
                return;
            }
        };
        for object in table["nftables"].as_array().into_iter().flatten() {
            if let Some(set) = object.get("set").and_then(|set| set["name"].as_str())
                && let Some(rest) = set.strip_prefix("affinity-")
                && let Some(name) = service_of_chain(rest.split("__").next().unwrap_or_default())
            {
                self.affinity.push(name);
            }
            let map = &object["map"];
            for element in map["elem"].as_array().into_iter().flatten() {
                let name = map["name"].as_str().unwrap_or_default();
                if let Some(frontend) = nftables_frontend(name, element) {
                    self.push(frontend);
                }
            }
        }
    }

    /// Reads `/proc/net/ip_vs`: a line for each virtual server, with its address in hexadecimal.
    pub(super) fn ipvs(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(protocol @ ("TCP" | "UDP" | "SCTP")), Some(at)) =
                (words.next(), words.next())
            else {
                continue;
            };
            let Some((addr, port)) = at.rsplit_once(':') else {
                continue;
            };
            let addr = match addr.strip_prefix('[') {
                Some(addr) => addr.trim_end_matches(']').parse().ok(),
                None => u32::from_str_radix(addr, 16)
                    .ok()
                    .map(|bits| IpAddr::V4(bits.into())),
            };
            let (Some(addr), Ok(port)) = (addr, u16::from_str_radix(port, 16)) else {
                continue;
            };
            let protocol = protocol.to_lowercase();
            self.push(Frontend {
                service: format!("{}/{protocol}", std::net::SocketAddr::new(addr, port)),
                mode: Mode::Ipvs,
                kind: FrontendKind::Unknown,
                addr: Some(addr),
                port,
                protocol,
            });
        }
    }

    fn push(&mut self, frontend: Frontend) {
        if !self.frontends.contains(&frontend) {
            self.frontends.push(frontend);
        }
    }
}

/// Splits a line of `iptables-save` at spaces outside of quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// An element of one of the maps: `[key, verdict]`, the key perhaps with a comment.
fn nftables_frontend(map: &str, element: &Value) -> Option<Frontend> {
    let (key, verdict) = (element.get(0)?, element.get(1)?);
    let (key, comment) = match key.get("elem") {
        Some(elem) => (&elem["val"], elem["comment"].as_str()),
        None => (key, None),
    };
    let target = verdict["goto"]["target"].as_str().unwrap_or_default();
    let parts = key["concat"].as_array()?;
    let is_node_port = ["service-nodeports", "no-endpoint-nodeports"].contains(&map);
    if !is_node_port && !["service-ips", "no-endpoint-services"].contains(&map) {
        return None;
    }
    let (addr, rest) = if is_node_port {
        (None, parts.as_slice())
    } else {
        (
            Some(parts.first()?.as_str()?.parse().ok()?),
            parts.get(1..)?,
        )
    };
    let port = u16::try_from(rest.get(1)?.as_u64()?).ok()?;
    let (prefix, chain) = target.split_once('-').unwrap_or_default();
    Some(Frontend {
        service: match comment {
            Some(comment) => comment.to_owned(),
            None => service_of_chain(chain)?,
        },
        mode: Mode::Nftables,
        kind: match prefix {
            _ if is_node_port => FrontendKind::NodePort,
            "external" | "firewall" => FrontendKind::External,
            _ => FrontendKind::ClusterIp,
        },
        addr,
        port,
        protocol: rest.first()?.as_str()?.to_owned(),
    })
}

/// `HASH-namespace/name/protocol/port` -> `namespace/name:port`, as kube-proxy names it elsewhere.
fn service_of_chain(chain: &str) -> Option<String> {
    let (_, name) = chain.split_once('-')?;
    let mut parts = name.split('/');
    let (namespace, name, _protocol) = (parts.next()?, parts.next()?, parts.next()?);
    Some(match parts.next() {
        Some(port) if !port.is_empty() => format!("{namespace}/{name}:{port}"),
        _ => format!("{namespace}/{name}"),
    })
}
