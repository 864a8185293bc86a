//! The way from the programmed tables to the desired ones.

mod programmed;

use std::sync::Arc;

use thiserror::Error;
use weir_abi::{Backend, ServiceEntry, ServiceKey};

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
pub struct Retired {}

/// Operations to apply, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// To apply in order.
    pub ops: Vec<Op>,
    /// To apply in order once every program that may have read what `ops` replaced has ended.
    pub after_grace: Vec<Op>,
    /// To release once `after_grace` is applied.
    pub retired: Retired,
    /// What could not be planned.
    pub errors: Vec<PlanError>,
}

/// Why (a part of) a service is not programmed as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A table has no room; the service stays as it was.
    #[error("service {service} does not fit into {table}")]
    Full {
        /// The service.
        service: ObjectName,
        /// The table's name, of [`weir_abi::table`].
        table: &'static str,
    },
    /// Another service has the same frontend.
    #[error("service {service} claims a frontend of {owner}")]
    Conflict {
        /// The service that does not get it.
        service: ObjectName,
        /// The frontend.
        key: ServiceKey,
        /// The service that has it.
        owner: ObjectName,
    },
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
