//! What the kernel's tables hold, as far as this agent knows.

use weir_abi::{ServiceEntry, ServiceKey};

use super::{Capacity, Plan, PlanError, Retired, ServicePort, Snapshot};
use crate::compile::DesiredService;

/// How many entries of each table are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// `SERVICES`.
    pub services: u32,
    /// `SLOTS`.
    pub slots: u32,
    /// `BACKENDS`.
    pub backends: u32,
    /// `SERVICE_COUNTERS`.
    pub ids: u32,
}

/// What the kernel's tables hold.
#[derive(Debug)]
pub struct Programmed {}

impl Programmed {
    /// Empty tables.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        todo!("{capacity:?}")
    }

    /// Tables that an earlier agent, or this one, has left.
    #[must_use]
    pub fn adopt(capacity: Capacity, snapshot: Snapshot) -> Self {
        todo!("{capacity:?} {snapshot:?}")
    }

    /// Plans the way to the desired state of the given services; all others stay as they are.
    pub fn plan(&mut self, desired: impl Iterator<Item = DesiredService>) -> Plan {
        todo!("{:?}", desired.count())
    }

    /// Once every service was planned: removes the frontends that none of them claimed.
    pub fn plan_leftovers(&mut self) -> Plan {
        todo!()
    }

    /// Gives back what a plan retired, once its `after_grace` was applied.
    pub fn release(&mut self, retired: Retired) {
        todo!("{retired:?}")
    }

    /// Whether something that did not fit may fit now: plan again, if only with nothing.
    #[must_use]
    pub fn wants_plan(&self) -> bool {
        todo!()
    }

    /// What is not programmed as it should be, by service.
    pub fn errors(&self) -> impl Iterator<Item = &PlanError> {
        std::iter::empty()
    }

    /// The tables' capacity.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        todo!()
    }

    /// How much of it is in use.
    #[must_use]
    pub fn counts(&self) -> TableCounts {
        todo!()
    }

    /// The service ports and their ids.
    pub fn service_ports(&self) -> impl Iterator<Item = (&ServicePort, u32)> {
        std::iter::empty()
    }

    /// The entry of a frontend.
    #[must_use]
    pub fn entry(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        todo!("{key:?}")
    }
}
