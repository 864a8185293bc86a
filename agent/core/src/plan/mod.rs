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

mod adopt;
mod alloc;
mod backends;
mod programmed;
mod service;
mod tables;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;
use weir_abi::service::{proto, scope};
use weir_abi::{Backend, ServiceEntry, ServiceKey, table};

use crate::model::ObjectName;

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
}

impl Default for Capacity {
    /// The capacities of [`weir_abi::table`].
    fn default() -> Self {
        Self {
            services: table::SERVICES_CAPACITY,
            slots: table::SLOTS_CAPACITY,
            backends: table::BACKENDS_CAPACITY,
            ids: table::SERVICE_COUNTERS_CAPACITY,
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
}

impl Retired {
    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.backends.is_empty() && self.ids.is_empty()
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
        match key.proto {
            proto::TCP => write!(f, "{address}/TCP{from_outside}"),
            proto::UDP => write!(f, "{address}/UDP{from_outside}"),
            proto::SCTP => write!(f, "{address}/SCTP{from_outside}"),
            other => write!(f, "{address}/{other}{from_outside}"),
        }
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
