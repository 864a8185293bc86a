//! What is compared: a service proxy on a node, or none.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use weir_tests::{
    agent::{Agent, weir_bin},
    control_plane::{Cluster, Identity, Proxy},
    kube_proxy::{KubeProxy, Mode},
};
use weir_world::{Node, Signal};

/// Who carries the traffic to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Contender {
    /// Nobody: pods are addressed themselves.
    Direct,
    /// Weir.
    Weir,
    /// kube-proxy in its nftables mode.
    Nftables,
    /// kube-proxy in its iptables mode.
    Iptables,
}

impl Contender {
    /// All that can be compared with [`Contender::Direct`].
    pub(crate) const PROXIES: [Self; 3] = [Self::Weir, Self::Nftables, Self::Iptables];

    /// As in a table's head.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Weir => "Weir",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }

    /// How it is run with so many services; else why it is not.
    pub(crate) fn way(self, services: u32) -> Result<Way, &'static str> {
        Ok(match self {
            Self::Direct => Way::None,
            Self::Weir => Way::Weir,
            Self::Nftables if services <= 10_000 => Way::KubeProxy(Mode::Nftables),
            Self::Nftables => {
                return Err("not run: 10,000 services take it a minute, and it grows faster");
            }
            Self::Iptables if services <= 1_000 => Way::KubeProxy(Mode::Iptables),
            // With nft's tables underneath it is not ready in minutes.
            Self::Iptables if services <= 10_000 => Way::KubeProxy(Mode::IptablesLegacy),
            Self::Iptables => return Err("not run: its rules are walked one by one"),
        })
    }
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    None,
    Weir,
    KubeProxy(Mode),
}

/// A proxy at work on a node.
pub(crate) enum Proxying {
    Weir { agent: Agent, _api: Proxy },
    KubeProxy(KubeProxy),
}

impl Proxying {
    /// Starts it and waits for nothing.
    pub(crate) fn start(cluster: &Cluster, node: &Node, way: Way) -> Result<Option<Self>> {
        Ok(match way {
            Way::None => None,
            Way::Weir => {
                let api = cluster.proxy_in(node.netns().path())?;
                let kubeconfig = cluster.kubeconfig(api.url(), &Identity::Administrator)?;
                let mut command = Command::new(weir_bin()?);
                command
                    .arg("run")
                    .args(["--node-name", node.name(), "--log-level", "info"])
                    .arg("--kubeconfig")
                    .arg(kubeconfig)
                    .arg("--cgroup-root")
                    .arg(node.cgroup_root())
                    .arg("--bpffs")
                    .arg(node.bpffs())
                    .arg("--api-socket")
                    .arg(node.run_directory().join("weir.sock"));
                let agent = Agent::spawn_command(node, command)?;
                Some(Self::Weir { agent, _api: api })
            }
            Way::KubeProxy(mode) => Some(Self::KubeProxy(
                KubeProxy::start(cluster, node, node.name(), mode)
                    .context("cannot start kube-proxy")?,
            )),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Weir { agent, .. } => agent.id(),
            Self::KubeProxy(kube_proxy) => kube_proxy.id(),
        }
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        match self {
            Self::Weir { agent, .. } => agent.log(),
            Self::KubeProxy(kube_proxy) => kube_proxy.log(),
        }
    }

    /// How long it has to do nothing until it surely has nothing to do: kube-proxy leaves a second between two rounds of work.
    pub(crate) fn quiet(&self) -> Duration {
        Duration::from_millis(match self {
            Self::Weir { .. } => 300,
            Self::KubeProxy(_) => 1_100,
        })
    }

    /// Prepares for the API server's end. kube-proxy, which has done its part, is stopped, lest its regular work disturb what
    /// is measured; Weir goes on, for some of its tables need it.
    pub(crate) fn settle(&self) -> Result<()> {
        match self {
            Self::Weir { .. } => Ok(()),
            Self::KubeProxy(kube_proxy) => kube_proxy.signal(Signal::STOP),
        }
    }
}
