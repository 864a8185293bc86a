//! Services, as a test writes them down.

use std::net::IpAddr;

use weir_abi::{
    Address, Backend, MemberKey, ServiceEntry, ServiceKey, SourceRangeKey, Verdict,
    service::{backend_state, flags, proto, scope},
};

use crate::rig::Rig;

pub(crate) const BOTH: &[u8] = &[scope::INTERNAL, scope::EXTERNAL];

/// One frontend.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    pub(crate) proto: u8,
    /// From where it is seen.
    pub(crate) scopes: &'static [u8],
    /// By id.
    pub(crate) backends: Vec<u32>,
    pub(crate) verdict: Verdict,
    /// What is done about ports that no service has: refused, or let pass.
    pub(crate) other_ports: Verdict,
    /// Session affinity's timeout in seconds.
    pub(crate) affinity: u32,
    /// The backends' ids are a Maglev table.
    pub(crate) maglev: bool,
    /// Prefixes of allowed sources.
    pub(crate) ranges: Vec<(IpAddr, u8)>,
}

impl Service {
    /// A cluster IP's port.
    pub(crate) fn new(id: u32, addr: IpAddr, port: u16, proto: u8) -> Self {
        Self {
            id,
            addr,
            port,
            proto,
            scopes: BOTH,
            backends: Vec::new(),
            verdict: Verdict::Translate,
            other_ports: Verdict::UnknownPort,
            affinity: 0,
            maglev: false,
            ranges: Vec::new(),
        }
    }

    pub(crate) fn backends(mut self, ids: &[u32]) -> Self {
        self.backends = ids.to_vec();
        self
    }

    /// With this address, which is also something else: a node's, for a node port.
    pub(crate) fn open(mut self) -> Self {
        self.other_ports = Verdict::Pass;
        self
    }

    pub(crate) fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }
}

impl Rig {
    /// An active backend.
    pub(crate) fn add_backend(&mut self, id: u32, (addr, port): (IpAddr, u16), proto: u8) {
        let backend = Backend {
            addr: addr.into(),
            port_be: port.to_be(),
            proto,
            state: backend_state::ACTIVE,
            generation: self.backend(id).generation,
        };
        self.set_backend(id, backend);
    }

    /// Writes a service into the tables, as user space does: what the entry leads to first.
    pub(crate) fn serve(&mut self, service: &Service) {
        let offset = self.next_slot;
        let count = u32::try_from(service.backends.len()).expect("a list's length");
        self.next_slot += count;
        for (slot, id) in (offset..).zip(&service.backends) {
            self.slots.set(slot, *id, 0).expect("SLOTS is written");
        }
        for (addr, prefix) in &service.ranges {
            let bits = if addr.is_ipv4() { 96 } else { 0 } + u32::from(*prefix);
            let key = SourceRangeKey {
                id: service.id,
                addr: (*addr).into(),
            };
            let key = aya::maps::lpm_trie::Key::new(32 + bits, key);
            self.ranges
                .insert(&key, 1, 0)
                .expect("SOURCE_RANGES is written");
        }
        let list = if service.affinity == 0 {
            0
        } else {
            2 * service.id
        };
        if service.affinity != 0 {
            for &backend_id in &service.backends {
                self.members
                    .insert(MemberKey { list, backend_id }, 1, 0)
                    .expect("MEMBERS is written");
            }
        }
        for &scope in service.scopes {
            let addr = Address::from(service.addr);
            let key = ServiceKey {
                addr,
                port_be: service.port.to_be(),
                proto: service.proto,
                scope,
            };
            let mut entry = ServiceEntry::new(&key, service.id, offset, count, service.verdict);
            entry.list = list;
            entry.affinity_timeout = service.affinity;
            entry.flags = if service.affinity == 0 {
                0
            } else {
                flags::AFFINITY
            } | if service.maglev { flags::MAGLEV } else { 0 }
                | if service.ranges.is_empty() {
                    0
                } else {
                    flags::SOURCE_RANGES
                };
            self.services
                .insert(key, entry.sealed(&key), 0)
                .expect("SERVICES is written");
            let key = ServiceKey {
                port_be: 0,
                proto: proto::ANY,
                ..key
            };
            let entry = ServiceEntry::new(&key, 0, 0, 0, service.other_ports);
            self.services
                .insert(key, entry, 0)
                .expect("SERVICES is written");
        }
    }

    /// Takes a frontend away.
    pub(crate) fn withdraw(&mut self, service: &Service) {
        for &scope in service.scopes {
            let key = ServiceKey {
                addr: service.addr.into(),
                port_be: service.port.to_be(),
                proto: service.proto,
                scope,
            };
            self.services.remove(&key).expect("SERVICES is written");
            let key = ServiceKey::address_only(service.addr.into(), scope);
            self.services.remove(&key).expect("SERVICES is written");
        }
    }
}
