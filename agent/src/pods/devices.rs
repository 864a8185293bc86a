//! The node's external devices: where packets come from that are not from its pods.

use std::{collections::BTreeSet, fmt, io, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::links::{self, ETHERNET, Link};
use crate::{cli::values::Device as DeviceName, netlink::Connection};

const IFF_LOOPBACK: u32 = 8;

/// Which devices are external.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Those of the default routes, and those that carry one of the node's addresses.
    #[default]
    Found,
    /// These, by name.
    Named(Vec<DeviceName>),
}

/// An external device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A device that should be served and cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftDevice {
    /// Its name.
    pub name: String,
    /// Why it is left alone.
    pub reason: String,
}

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) devices: Vec<Device>,
    pub(super) left: Vec<LeftDevice>,
}

/// Chooses among all interfaces. `pods` are those that are known to be pods'.
pub(super) fn choose(
    choice: &Choice,
    netlink: &mut Connection,
    all: &[Link],
    pods: &BTreeSet<u32>,
    node_addresses: &BTreeSet<IpAddr>,
) -> io::Result<Chosen> {
    let wanted: BTreeSet<u32> = match choice {
        Choice::Named(names) => {
            let named = |link: &&Link| names.iter().any(|name| name.matches(&link.name));
            all.iter().filter(named).map(|link| link.index).collect()
        }
        Choice::Found => {
            let mut wanted = links::default_route_links(netlink)?;
            let carried = links::addresses(netlink)?.into_iter();
            let carried = carried.filter(|carried| node_addresses.contains(&carried.address));
            wanted.extend(carried.map(|carried| carried.index));
            wanted
        }
    };
    let mut chosen = Chosen::default();
    for link in all.iter().filter(|link| wanted.contains(&link.index)) {
        if link.flags & IFF_LOOPBACK != 0 || pods.contains(&link.index) {
            continue;
        }
        if link.hardware == ETHERNET {
            chosen.devices.push(Device {
                ifindex: link.index,
                name: link.name.clone(),
            });
        } else {
            chosen.left.push(LeftDevice {
                name: link.name.clone(),
                reason: format!(
                    "its packets have no Ethernet header (type {}): node ports and load balancers are not served there",
                    link.hardware
                ),
            });
        }
    }
    if let Choice::Named(names) = choice {
        let missing = |name: &&DeviceName| !all.iter().any(|link| name.matches(&link.name));
        chosen
            .left
            .extend(names.iter().filter(missing).map(|name| LeftDevice {
                name: name.to_string(),
                reason: "there is no such device".to_owned(),
            }));
    }
    chosen.devices.sort();
    Ok(chosen)
}
