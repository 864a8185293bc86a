//! What is to be made, decided and checked before anything is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::handles::{Client, Node, NodeParts};
use super::{Pods, World, unknown};
use crate::address;
use crate::cgroup::Qos;
use crate::error::{Error, Result};
use crate::netns::NetNs;
use crate::place::Place;
use crate::spec::{PodSpec, WorldBuilder};
use crate::sweep;

/// A pod before it is made.
pub(super) struct PodPlan {
    pub(super) container: Place,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) qos: Qos,
    pub(super) node: Node,
    pub(super) cgroup: PathBuf,
    pub(super) sandbox: Option<PathBuf>,
    pub(super) container_id: String,
    pub(super) host_number: u8,
    pub(super) host_veth: String,
}

/// Refuses a world that the address plan has no room for.
pub(super) fn check(spec: &WorldBuilder) -> Result<()> {
    let most = address::MOST_NODES;
    if spec.nodes == 0 || spec.nodes > most || spec.clients.len() > most.into() {
        return Err(Error::Refused(format!(
            "a world has 1 to {most} nodes and at most {most} external clients"
        )));
    }
    for (index, client) in spec.clients.iter().enumerate() {
        check_name(client)?;
        if spec.clients[..index].contains(client) {
            return Err(Error::Refused(format!(
                "there are two external clients named {client:?}"
            )));
        }
    }
    Ok(())
}

/// Names become names of files and namespaces.
fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && !name.starts_with('.');
    if fits {
        Ok(())
    } else {
        Err(Error::Refused(format!(
            "{name:?} is no name: letters, digits, dashes and dots are"
        )))
    }
}

impl World {
    pub(super) fn netns(&self, place: &str) -> NetNs {
        NetNs::named(format!("{}-{place}", self.name))
    }

    pub(super) fn plan_node(&self, number: u8, cgroup: &Path) -> Node {
        let name = format!("node{number}");
        let cgroup_root = cgroup.join(&name);
        Node(Arc::new(NodeParts {
            number,
            run_directory: Path::new(sweep::RUN)
                .join(self.name.to_string())
                .join(&name),
            host: Place {
                netns: self.netns(&name),
                cgroup: cgroup_root.join("system.slice/host"),
                addresses: address::node(number),
                peer: self.peer.clone(),
                name,
            },
            cgroup_root,
        }))
    }

    pub(super) fn plan_client(&self, number: u8, name: &str, cgroup: &Path) -> Client {
        Client(Arc::new(Place {
            name: name.to_owned(),
            netns: self.netns(&format!("client-{name}")),
            cgroup: cgroup.join("clients").join(name),
            addresses: address::client(number),
            peer: self.peer.clone(),
        }))
    }

    pub(super) fn plan_pods(&self, pods: &mut Pods, specs: Vec<PodSpec>) -> Result<Vec<PodPlan>> {
        // Explicit addresses first, so that none of the free ones is given away that a later pod asks for.
        let mut taken = pods.hosts.clone();
        let mut names = BTreeSet::new();
        for spec in &specs {
            check_name(&spec.name)?;
            if pods.by_name.contains_key(&spec.name) || !names.insert(spec.name.clone()) {
                return Err(Error::Refused(format!(
                    "there are two pods named {:?}",
                    spec.name
                )));
            }
            if let Some(host) = spec.host {
                taken[self.index_of(&spec.node)?].take(host)?;
            }
        }
        let mut plans = Vec::with_capacity(specs.len());
        for spec in specs {
            let node = self.index_of(&spec.node)?;
            let host = match spec.host {
                Some(host) => host,
                None => taken[node].take_any()?,
            };
            pods.veths += 1;
            let node = self.nodes[node].clone();
            let uid = spec.uid.unwrap_or_else(|| pods.identifiers.uid());
            let container_id = pods.identifiers.container();
            let root = node.cgroup_root();
            plans.push(PodPlan {
                container: Place {
                    netns: self.netns(&format!("pod-{}", spec.name)),
                    cgroup: root.join(self.driver.container(spec.qos, &uid, &container_id)),
                    addresses: address::pod(node.0.number, host),
                    peer: self.peer.clone(),
                    name: spec.name,
                },
                cgroup: root.join(self.driver.pod(spec.qos, &uid)),
                sandbox: spec.pause.then(|| {
                    let sandbox = pods.identifiers.container();
                    root.join(self.driver.container(spec.qos, &uid, &sandbox))
                }),
                namespace: spec.namespace,
                qos: spec.qos,
                uid,
                container_id,
                host_number: host,
                host_veth: format!("veth{}", pods.veths),
                node,
            });
        }
        pods.hosts = taken;
        Ok(plans)
    }

    fn index_of(&self, node: &str) -> Result<usize> {
        let found = self.nodes.iter().position(|other| other.name() == node);
        found.ok_or_else(|| unknown("node", node))
    }
}
