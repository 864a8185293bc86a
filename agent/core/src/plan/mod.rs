//! The way from the programmed tables to the desired ones: make before break.
//!
//! Whoever applies a plan applies [`Plan::ops`] in order; waits until every program that may still be reading what
//! they replaced has ended (a grace period); applies [`Plan::after_grace`]; and gives [`Plan::retired`] back with
//! [`Programmed::release`]. It may stop anywhere: after every single operation each frontend leads to the whole of its
//! old list or to the whole of its new one. Who has stopped, or has failed to apply an operation, reads the tables
//! back, waits for a grace period, adopts what was read ([`Programmed::adopt`]) and plans every service again.
//!
//! - New backends are written before slots refer to them, slots before an entry refers to them, and each entry is
//!   replaced in one atomic update. Slots that an entry refers to are never written.
//! - What nothing refers to any more is reused only after the grace period.
//! - Frontends are removed last, so that one that passes from one service to another never misses.
//! - What an entry asks about its traffic is there before the entry asks: the members of a list with session affinity,
//!   the source ranges of a guarded frontend. Members that are no longer wanted go once the entries are as they should
//!   be: who still asks for them chooses a backend anew. Ranges go with the first plan after the grace period: who still
//!   asks for them would keep out whom the new entry may let in.
//! - When an address or frontend became known or unknown, the epoch is bumped at the end: flows that remember "not a
//!   service" are looked at again.

mod adopt;
mod alloc;
mod backends;
mod guards;
mod members;
mod programmed;
mod room;
mod service;
mod tables;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;
use weir_abi::service::scope;
use weir_abi::table;
use weir_abi::{Backend, MemberKey, ServiceEntry, ServiceKey, SourceRangeKey};

use crate::backend::BackendAddr;
use crate::model::{ObjectName, Protocol};

pub use programmed::{Programmed, TableCounts};

/// How many entries each table has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `SERVICES`.
    pub services: u32,
    /// `SLOTS`.
    pub slots: u32,
    /// `BACKENDS`; id 0 is never used.
    pub backends: u32,
    /// `SERVICE_COUNTERS`, by service port id; id 0 is never used.
    pub ids: u32,
    /// `MEMBERS`.
    pub members: u32,
    /// `SOURCE_RANGES`.
    pub source_ranges: u32,
}

impl Default for Capacity {
    /// The capacities of [`weir_abi::table`].
    fn default() -> Self {
        Self {
            services: table::SERVICES_CAPACITY,
            slots: table::SLOTS_CAPACITY,
            backends: table::BACKENDS_CAPACITY,
            ids: table::SERVICE_COUNTERS_CAPACITY,
            members: table::MEMBERS_CAPACITY,
            source_ranges: table::SOURCE_RANGES_CAPACITY,
        }
    }
}

/// What was read back from the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All of `SERVICES`.
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    /// `SLOTS` from index 0; what is not given counts as 0.
    pub slots: Vec<u32>,
    /// `BACKENDS` from index 0; what is not given counts as zeroed.
    pub backends: Vec<Backend>,
    /// All keys of `MEMBERS`.
    pub members: Vec<MemberKey>,
    /// All keys of `SOURCE_RANGES`, each with its prefix length.
    pub source_ranges: Vec<(SourceRangeKey, u32)>,
}

/// One write to the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `BACKENDS[id] = backend`.
    WriteBackend {
        /// The backend's id.
        id: u32,
        /// The value.
        backend: Backend,
    },
    /// `SLOTS[offset..] = ids`.
    WriteSlots {
        /// The first slot.
        offset: u32,
        /// The backend ids.
        ids: Vec<u32>,
    },
    /// `SERVICE_COUNTERS[id] = 0` on every CPU.
    ResetCounters {
        /// The service port's id.
        id: u32,
    },
    /// `SERVICES[key] = entry`, in one atomic update.
    SetService {
        /// The key.
        key: ServiceKey,
        /// The entry.
        entry: ServiceEntry,
    },
    /// Deletes `SERVICES[key]`.
    RemoveService {
        /// The key.
        key: ServiceKey,
    },
    /// `MEMBERS[key] = 1`.
    SetMember {
        /// The key.
        key: MemberKey,
    },
    /// Deletes `MEMBERS[key]`.
    RemoveMember {
        /// The key.
        key: MemberKey,
    },
    /// `SOURCE_RANGES[key/prefix_len] = 1`.
    SetSourceRange {
        /// The key; the bits below the prefix length are zero.
        key: SourceRangeKey,
        /// The length of its prefix, 32 to 160: the id's bits count too.
        prefix_len: u32,
    },
    /// Deletes `SOURCE_RANGES[key/prefix_len]`.
    RemoveSourceRange {
        /// The key.
        key: SourceRangeKey,
        /// The length of its prefix.
        prefix_len: u32,
    },
    /// `CONFIG.epoch += 1`.
    BumpEpoch,
}

/// What a plan no longer needs, to be given back with [`Programmed::release`].
#[derive(Debug, Default)]
#[must_use = "what is not released is lost to the tables until the next adoption"]
pub struct Retired {
    /// Which [`Programmed`] it is from: indices mean nothing to another.
    instance: u64,
    /// Slots: (offset, count).
    ranges: Vec<(u32, u32)>,
    /// Backend ids.
    backends: Vec<u32>,
    /// Service port ids.
    ids: Vec<u32>,
    /// Service port ids some of whose source ranges nobody asks for any more.
    guards: Vec<u32>,
}

impl Retired {
    fn is_empty(&self) -> bool {
        let Self {
            instance: _,
            ranges,
            backends,
            ids,
            guards,
        } = self;
        ranges.is_empty() && backends.is_empty() && ids.is_empty() && guards.is_empty()
    }
}

/// Operations to apply, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// To apply in order.
    pub ops: Vec<Op>,
    /// To apply in order once every program that may have read what `ops` replaced has ended.
    pub after_grace: Vec<Op>,
    /// To release once `after_grace` is applied.
    pub retired: Retired,
    /// Backends that no frontend leads to any more. Those whose endpoint [`crate::state::Cluster::has_endpoint`] does not
    /// know either were deleted; with [`crate::state::Dirty::deleted`], which tells what is deleted later than that, they
    /// are all.
    pub dropped: Vec<BackendAddr>,
    /// What is still not as it should be of the services that this plan has dealt with, by service.
    pub errors: Vec<PlanError>,
}

impl Plan {
    /// Whether there is nothing to apply.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.after_grace.is_empty() && self.retired.is_empty()
    }
}

/// Why a service, or part of it, is not programmed as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A table has no room. The service stays whole as it was, and is planned again when something has become free.
    #[error(
        "service {service} does not fit: it needs {needed} more entries in {table}, where {free} are free; it stays as it was until there is room"
    )]
    Full {
        /// The service.
        service: ObjectName,
        /// The table's name, of [`weir_abi::table`].
        table: &'static str,
        /// How many more entries it needs; slots have to be in one row.
        needed: u32,
        /// How many entries the table has left.
        free: u32,
    },
    /// Another service has had the same frontend for longer. This one gets it when the other lets it go; its other
    /// frontends are programmed.
    #[error(
        "service {service} does not get {}, which service {owner} has; give one of them another address or port",
        FrontendName(key)
    )]
    Conflict {
        /// The service that does not get it.
        service: ObjectName,
        /// The frontend.
        key: ServiceKey,
        /// The service that has it.
        owner: ObjectName,
    },
}

impl PlanError {
    /// The service that is not as it should be.
    #[must_use]
    pub fn service(&self) -> &ObjectName {
        match self {
            Self::Full { service, .. } | Self::Conflict { service, .. } => service,
        }
    }
}

/// A frontend as people write it: `10.96.0.1:80/TCP`.
struct FrontendName<'a>(&'a ServiceKey);

impl fmt::Display for FrontendName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0;
        let address = SocketAddr::new(IpAddr::from(key.addr), u16::from_be(key.port_be));
        let from_outside = match key.scope {
            scope::EXTERNAL => " from outside",
            _ => "",
        };
        let protocol = Protocol::label_of(key.proto);
        write!(f, "{address}/{protocol}{from_outside}")
    }
}

/// Identifies a port of a service, for counters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The service.
    pub name: ObjectName,
    /// The port's name; may be empty.
    pub port_name: Arc<str>,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
}

#[cfg(test)]
mod tests;
