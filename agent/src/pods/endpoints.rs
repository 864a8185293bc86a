//! The kernel's tables of local pods: `ENDPOINTS`, address -> interface, and `OPT_OUT`, the namespaces whose sockets are left
//! alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapError};
use tracing::info;
use weir_abi::{
    Address, Endpoint,
    config::flags,
    table::{CONFIG, ENDPOINTS, OPT_OUT},
};

use super::LocalPod;
use crate::{
    bpffs::Layout,
    dataplane::{Config, Object},
};

/// What is programmed for local pods. Tables that an earlier agent filled are taken over: nothing of them is removed before
/// [`Endpoints::listed`].
///
/// An address belongs to the pod whose interface is the youngest of those that have it. So a pod that reuses an address gets
/// it in one update, and the end of the one before takes nothing from it.
pub struct Endpoints {
    addresses: HashMap<aya::maps::MapData, Address, Endpoint>,
    opt_outs: HashMap<aya::maps::MapData, u64, u32>,
    config: Config,
    owners: Owners,
    /// The namespaces that opt out, and the interfaces that say so.
    opted_out: BTreeMap<u64, BTreeSet<u32>>,
    listed: bool,
    changed: bool,
}

impl Endpoints {
    /// Opens the pinned tables.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    pub fn open(layout: &Layout, config: Config) -> Result<Self> {
        let open = |name| -> Result<_> { Ok(Map::HashMap(Object::pinned_map(layout, name)?)) };
        Ok(Self {
            addresses: HashMap::try_from(open(ENDPOINTS)?)?,
            opt_outs: HashMap::try_from(open(OPT_OUT)?)?,
            config,
            owners: Owners::default(),
            opted_out: BTreeMap::new(),
            listed: false,
            changed: false,
        })
    }

    /// Maps the pinned `CONFIG`, for [`Endpoints::open`] and whoever else writes it.
    ///
    /// # Errors
    /// When it is missing or of another shape.
    pub fn config(layout: &Layout) -> Result<Config> {
        Ok(Config::new(&Object::pinned_map(layout, CONFIG)?)?)
    }

    /// Programs a pod whose interface is attached, or what has changed about it.
    ///
    /// # Errors
    /// When a table is full or refuses. What did fit is programmed.
    pub fn set(&mut self, pod: &LocalPod) -> Result<()> {
        let moved = self.owners.set(pod.ifindex, &pod.addresses);
        let addresses = self.write(&moved);
        let opt_out = self.set_opt_out(pod);
        addresses.and(opt_out)
    }

    /// Removes what no other pod has taken over.
    ///
    /// # Errors
    /// When a table refuses; the rest has been tried.
    pub fn remove(&mut self, pod: &LocalPod) -> Result<()> {
        let moved = self.owners.set(pod.ifindex, &[]);
        let addresses = self.write(&moved);
        let opt_out = self.clear_opt_out(pod.netns_cookie, pod.ifindex);
        addresses.and(opt_out)
    }

    /// Every pod that is there has been set, and every Pod object was read: what is left over from an earlier agent goes.
    ///
    /// # Errors
    /// When a table cannot be read or refuses.
    pub fn listed(&mut self) -> Result<()> {
        self.listed = true;
        let known: Vec<_> = self.addresses.keys().collect::<Result<_, _>>()?;
        let foreign = |address: &Address| self.owners.owner((*address).into()).is_none();
        let left: Vec<Address> = known.into_iter().filter(foreign).collect();
        for address in &left {
            absent(self.addresses.remove(address))?;
            self.changed = true;
        }
        let known: Vec<u64> = self.opt_outs.keys().collect::<Result<_, _>>()?;
        for cookie in known {
            if !self.opted_out.contains_key(&cookie) {
                absent(self.opt_outs.remove(&cookie))?;
            }
        }
        if !left.is_empty() {
            info!(
                addresses = left.len(),
                "removed addresses of pods that are gone"
            );
        }
        self.set_flag()
    }

    /// Tells flows that something has changed, if so. To be called when a round of changes is done.
    ///
    /// # Errors
    /// Never in practice.
    pub fn flush(&mut self) -> Result<()> {
        if std::mem::take(&mut self.changed) {
            self.config.next_epoch()?;
        }
        Ok(())
    }

    /// How many addresses are programmed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.claims.len()
    }

    /// Whether no address is programmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.claims.is_empty()
    }

    fn write(&mut self, moved: &[(IpAddr, Option<u32>)]) -> Result<()> {
        let mut result = Ok(());
        for (address, owner) in moved {
            let key = Address::from(*address);
            let written = match owner {
                Some(ifindex) => {
                    let value = Endpoint {
                        ifindex: *ifindex,
                        flags: 0,
                    };
                    // One that an earlier agent wrote in the same way needs no new epoch, and keeps what is known of it.
                    if matches!(self.addresses.get(&key, 0), Ok(now) if now.ifindex == *ifindex) {
                        continue;
                    }
                    self.addresses.insert(key, value, 0)
                }
                None => absent(self.addresses.remove(&key)),
            };
            self.changed = true;
            if let Err(error) = written {
                result = Err(error).with_context(|| format!("{ENDPOINTS} does not take {address}"));
            }
        }
        result
    }

    fn set_opt_out(&mut self, pod: &LocalPod) -> Result<()> {
        if !pod.opt_out {
            return self.clear_opt_out(pod.netns_cookie, pod.ifindex);
        }
        if !self.opted_out.contains_key(&pod.netns_cookie) {
            self.opt_outs
                .insert(pod.netns_cookie, 1, 0)
                .with_context(|| format!("{OPT_OUT} does not take {pod}"))?;
        }
        let interfaces = self.opted_out.entry(pod.netns_cookie).or_default();
        interfaces.insert(pod.ifindex);
        self.set_flag()
    }

    /// Before everything is listed it is not known who opts out, so nobody's choice of an earlier time is forgotten.
    fn clear_opt_out(&mut self, cookie: u64, ifindex: u32) -> Result<()> {
        let Some(interfaces) = self.opted_out.get_mut(&cookie) else {
            return Ok(());
        };
        interfaces.remove(&ifindex);
        if interfaces.is_empty() {
            self.opted_out.remove(&cookie);
            absent(self.opt_outs.remove(&cookie))?;
            self.set_flag()?;
        }
        Ok(())
    }

    /// The flag is taken back only when nothing of an earlier agent can be in the table.
    fn set_flag(&self) -> Result<()> {
        let any = !self.opted_out.is_empty();
        if !any && !self.listed {
            return Ok(());
        }
        self.config.update(|config| {
            if any {
                config.flags |= flags::OPT_OUTS;
            } else {
                config.flags &= !flags::OPT_OUTS;
            }
        })?;
        Ok(())
    }
}

/// Which interfaces have an address. The last is the youngest, as the kernel counts indices up.
#[derive(Default)]
struct Owners {
    claims: BTreeMap<IpAddr, BTreeSet<u32>>,
    addresses: BTreeMap<u32, Vec<IpAddr>>,
}

impl Owners {
    fn owner(&self, address: IpAddr) -> Option<u32> {
        self.claims.get(&address)?.last().copied()
    }

    /// Makes these the addresses of an interface. Returns all that are to be written: the interface's, and with their new
    /// owner, if any, those that it has no longer.
    fn set(&mut self, ifindex: u32, addresses: &[IpAddr]) -> Vec<(IpAddr, Option<u32>)> {
        let before = match addresses {
            [] => self.addresses.remove(&ifindex),
            some => self.addresses.insert(ifindex, some.to_vec()),
        };
        let mut touched: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        for address in &touched {
            self.claims.entry(*address).or_default().insert(ifindex);
        }
        for address in before.into_iter().flatten() {
            if addresses.contains(&address) {
                continue;
            }
            touched.insert(address);
            if let Some(claims) = self.claims.get_mut(&address) {
                claims.remove(&ifindex);
                if claims.is_empty() {
                    self.claims.remove(&address);
                }
            }
        }
        let owned = touched.into_iter();
        owned
            .map(|address| (address, self.owner(address)))
            .collect()
    }
}

/// Gone already is what was asked for.
fn absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_youngest_interface_has_the_address() {
        let mut owners = Owners::default();
        assert_eq!(
            owners.set(5, &[ip(1), ip(2)]),
            [(ip(1), Some(5)), (ip(2), Some(5))]
        );
        assert_eq!(owners.set(7, &[ip(1)]), [(ip(1), Some(7))]);
        // An older one that is seen late takes nothing.
        assert_eq!(owners.set(6, &[ip(1)]), [(ip(1), Some(7))]);
        assert_eq!(owners.set(5, &[]), [(ip(1), Some(7)), (ip(2), None)]);
        assert_eq!(owners.set(7, &[]), [(ip(1), Some(6))]);
        assert_eq!(owners.set(6, &[]), [(ip(1), None)]);
        assert!(owners.claims.is_empty() && owners.addresses.is_empty());
    }

    #[test]
    fn an_interface_changes_its_addresses() {
        let mut owners = Owners::default();
        owners.set(5, &[ip(1), ip(2)]);
        assert_eq!(
            owners.set(5, &[ip(2), ip(3)]),
            [(ip(1), None), (ip(2), Some(5)), (ip(3), Some(5))]
        );
    }
}
