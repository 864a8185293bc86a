//! From a pod's cgroup to the host side of its interfaces, without asking whoever made them: the pod's oldest process, that
//! process's network namespace, the veths of this namespace that lead there, and the addresses on their other sides.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use super::{
    cgroups::Cgroups,
    links::{self, Link},
    monitor::Changes,
    namespace::{Namespace, NamespaceId, netns_cookie},
    process::{self, Process},
};
use crate::{
    capabilities::{SYS_ADMIN, SYS_PTRACE, lacking},
    netlink::Connection,
};

/// A veth whose other side is in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// The host side's index.
    pub(super) ifindex: u32,
    /// The host side's name.
    pub(super) device: String,
    /// Index of the pod's side, in the pod's namespace.
    inside: u32,
    /// What the pod's side carries, without what counts only on the link.
    pub(super) addresses: Vec<IpAddr>,
}

/// What is known of a pod's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Network {
    /// It has no process yet, or no interface here yet.
    #[default]
    Unknown,
    /// It shares the node's.
    Node,
    /// It has a namespace of its own.
    Own(Own),
}

/// A pod's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    id: NamespaceId,
    nsid: i32,
    pub(super) cookie: u64,
    pub(super) interfaces: Vec<Interface>,
}

#[derive(Default)]
struct Known {
    witness: Option<Process>,
    network: Network,
    error: Option<String>,
}

/// The pods of this node and their networks.
pub(super) struct Discovery {
    here: NamespaceId,
    netlink: Connection,
    pods: BTreeMap<Arc<str>, Known>,
    links: Vec<Link>,
}

impl Discovery {
    /// Discovers from the calling thread's network namespace, which is the node's.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            here: Namespace::own()?.id,
            netlink: links::connect()?,
            pods: BTreeMap::new(),
            links: Vec::new(),
        })
    }

    /// Brings what is known up to date. Only what `changes` name, and what does not fit to the interfaces there are, is looked
    /// at more closely.
    ///
    /// # Errors
    /// When the interfaces cannot be listed; then nothing has changed.
    pub(super) fn scan(&mut self, cgroups: &Cgroups, changes: &Changes) -> io::Result<()> {
        match links::links(&mut self.netlink) {
            Ok(links) => self.links = links,
            Err(error) => {
                // What is left of this answer must not be taken for the next one's.
                self.netlink = links::connect()?;
                return Err(error);
            }
        }
        self.pods.retain(|uid, _| cgroups.contains_key(uid));
        self.add_missed()?;
        let veths = veths_by_nsid(&self.links);
        for (uid, paths) in cgroups {
            let known = self.pods.entry(uid.clone()).or_default();
            known.error = None;
            if let Err(error) = look(known, paths, self.here, &mut self.netlink, &veths, changes) {
                // A pod that ends meanwhile is no error; it is looked at again.
                if !has_ended(&error) {
                    known.error = Some(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// A listing of interfaces that others change meanwhile may miss one. What was there before is asked for by itself.
    fn add_missed(&mut self) -> io::Result<()> {
        let listed: BTreeSet<u32> = self.links.iter().map(|link| link.index).collect();
        let known = self.pods.values().flat_map(|known| match &known.network {
            Network::Own(own) => own.interfaces.as_slice(),
            _ => &[],
        });
        let missed = known
            .map(|interface| interface.ifindex)
            .filter(|index| !listed.contains(index));
        for index in missed.collect::<Vec<_>>() {
            self.links.extend(links::link_at(&mut self.netlink, index)?);
        }
        Ok(())
    }

    /// All pods with a cgroup, by UID.
    pub(super) fn pods(&self) -> impl Iterator<Item = (&Arc<str>, &Network)> {
        self.pods.iter().map(|(uid, known)| (uid, &known.network))
    }

    /// Pods that could not be looked at, and why.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        let errors = self.pods.iter();
        errors.filter_map(|(uid, known)| Some((uid, known.error.as_deref()?)))
    }

    /// The pods' own network namespaces, each by a process that is in it.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = PathBuf> {
        let own = self.pods.values();
        let own = own.filter(|known| known.network != Network::Node);
        own.filter_map(|known| Some(format!("/proc/{}/ns/net", known.witness?.pid).into()))
    }

    /// The interfaces of the last scan, and a connection to ask more.
    pub(super) fn links(&mut self) -> (&[Link], &mut Connection) {
        (&self.links, &mut self.netlink)
    }
}

/// The host sides of veths, by the namespace of their other side.
type Veths<'a> = BTreeMap<i32, Vec<(&'a Link, u32)>>;

fn veths_by_nsid(links: &[Link]) -> Veths<'_> {
    let mut veths = Veths::new();
    for link in links.iter().filter(|link| link.kind == "veth") {
        if let Some(peer) = link.peer
            && let Some(nsid) = peer.nsid
        {
            veths.entry(nsid).or_default().push((link, peer.index));
        }
    }
    veths
}

fn look(
    known: &mut Known,
    cgroups: &[PathBuf],
    here: NamespaceId,
    netlink: &mut Connection,
    veths: &Veths<'_>,
    changes: &Changes,
) -> io::Result<()> {
    let mut found = known.witness.map_or(Ok(None), enter)?;
    if found.is_none() {
        known.witness = process::oldest(cgroups)?;
        let Some(witness) = known.witness else {
            // Its interfaces outlive its processes for a moment, and packets for it still come.
            keep_what_is_there(&mut known.network, veths);
            return Ok(());
        };
        found = enter(witness)?;
    }
    let namespace = found.ok_or(io::ErrorKind::NotFound)?;
    if namespace.id == here {
        known.network = Network::Node;
        return Ok(());
    }
    if let Network::Own(own) = &known.network
        && own.id == namespace.id
        && !changes.everything
        && !changes.there.contains(&own.nsid)
        && own.fits(veths)
    {
        return Ok(());
    }
    known.network = read(&namespace, netlink, veths)?;
    Ok(())
}

/// A process's namespace, unless the process has ended: then the namespace may be that of another with the same number.
fn enter(witness: Process) -> io::Result<Option<Namespace>> {
    match Namespace::of(witness.pid) {
        Ok(namespace) => Ok(witness.alive().then_some(namespace)),
        Err(error) if has_ended(&error) => Ok(None),
        Err(error) => Err(denied(error)),
    }
}

/// Says what to do about a refusal that is for want of a capability.
fn denied(error: io::Error) -> io::Error {
    match lacking(&[SYS_ADMIN, SYS_PTRACE]) {
        Some(why) if error.kind() == io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!("its network namespace is closed to us: {why}"),
        ),
        _ => error,
    }
}

fn read(namespace: &Namespace, netlink: &mut Connection, veths: &Veths<'_>) -> io::Result<Network> {
    let nsid = links::nsid(netlink, namespace)?;
    let Some((nsid, veths)) = nsid.and_then(|nsid| Some((nsid, veths.get(&nsid)?))) else {
        return Ok(Network::Unknown);
    };
    let inside = || {
        let addresses = links::addresses(&mut links::connect()?)?;
        Ok((netns_cookie()?, addresses))
    };
    let (cookie, addresses) = namespace.run(inside).map_err(denied)?;
    let interfaces = veths.iter().map(|(link, inside)| {
        let carried = addresses.iter().filter(|carried| carried.index == *inside);
        let carried: BTreeSet<IpAddr> = carried.map(|carried| carried.address).collect();
        Interface {
            ifindex: link.index,
            device: link.name.clone(),
            inside: *inside,
            addresses: carried
                .into_iter()
                .filter(|address| is_routable(*address))
                .collect(),
        }
    });
    Ok(Network::Own(Own {
        id: namespace.id,
        nsid,
        cookie,
        interfaces: interfaces.collect(),
    }))
}

fn keep_what_is_there(network: &mut Network, veths: &Veths<'_>) {
    let Network::Own(own) = network else { return };
    let there = veths.get(&own.nsid).map(Vec::as_slice).unwrap_or_default();
    own.interfaces
        .retain(|interface| there.iter().any(|veth| interface.is(veth)));
    if own.interfaces.is_empty() {
        *network = Network::Unknown;
    }
}

impl Own {
    /// Whether these are exactly the veths that lead there.
    fn fits(&self, veths: &Veths<'_>) -> bool {
        let there = veths.get(&self.nsid).map(Vec::as_slice).unwrap_or_default();
        there.len() == self.interfaces.len()
            && there
                .iter()
                .all(|veth| self.interfaces.iter().any(|known| known.is(veth)))
    }
}

impl Interface {
    fn is(&self, (link, inside): &(&Link, u32)) -> bool {
        self.ifindex == link.index && self.inside == *inside && self.device == link.name
    }
}

/// Whether others than the link's own ends can use it.
fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified())
        }
    }
}

/// Whether an error says that the process, its cgroup or its namespace has gone.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::links::Peer;

    fn veth(index: u32, inside: u32, nsid: i32) -> Link {
        Link {
            index,
            name: format!("veth{index}"),
            kind: "veth".to_owned(),
            hardware: links::ETHERNET,
            flags: 0,
            peer: Some(Peer {
                index: inside,
                nsid: Some(nsid),
            }),
        }
    }

    fn own(interfaces: &[(u32, u32)]) -> Own {
        Own {
            id: Namespace::own().expect("this thread's").id,
            nsid: 3,
            cookie: 9,
            interfaces: interfaces
                .iter()
                .map(|(ifindex, inside)| Interface {
                    ifindex: *ifindex,
                    device: format!("veth{ifindex}"),
                    inside: *inside,
                    addresses: Vec::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_veth_more_or_less_is_noticed() {
        let links = [veth(7, 2, 3), veth(8, 2, 4)];
        let veths = veths_by_nsid(&links);
        assert!(own(&[(7, 2)]).fits(&veths));
        assert!(!own(&[(7, 2), (9, 3)]).fits(&veths));
        assert!(!own(&[(8, 2)]).fits(&veths));
        assert!(!own(&[]).fits(&veths));
    }

    #[test]
    fn a_pod_without_processes_keeps_the_interfaces_that_are_there() {
        let links = [veth(7, 2, 3)];
        let mut network = Network::Own(own(&[(7, 2), (9, 3)]));
        keep_what_is_there(&mut network, &veths_by_nsid(&links));
        assert_eq!(network, Network::Own(own(&[(7, 2)])));
        // The id of the namespace may be another's by now, with another veth.
        let links = [veth(11, 2, 3)];
        keep_what_is_there(&mut network, &veths_by_nsid(&links));
        assert_eq!(network, Network::Unknown);
    }

    #[test]
    fn addresses_of_the_link_alone_are_nobodys() {
        for address in [
            "127.0.0.1",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(
                !is_routable(address.parse().expect("an address")),
                "{address}"
            );
        }
        for address in ["10.1.2.3", "fd00::1", "2001:db8::1"] {
            assert!(
                is_routable(address.parse().expect("an address")),
                "{address}"
            );
        }
    }
}
