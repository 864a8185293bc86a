//! Desired entries of the service tables.

use std::sync::Arc;

use weir_abi::{Address, ServiceKey, Verdict};

use crate::model::ObjectName;
use crate::state::Cluster;

/// The table entries that one service should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// The service.
    pub name: ObjectName,
    /// Its ports; none if it should have no entries.
    pub ports: Vec<DesiredPort>,
}

/// The table entries that one port of a service should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// The port's name; may be empty.
    pub port_name: Arc<str>,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
    /// The backend lists that the frontends use.
    pub lists: Vec<Vec<BackendAddr>>,
    /// The frontends.
    pub frontends: Vec<Frontend>,
}

/// A backend as the tables identify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddr {
    /// The endpoint's address.
    pub addr: Address,
    /// The endpoint's port, network order.
    pub port_be: u16,
    /// One of [`weir_abi::service::proto`].
    pub proto: u8,
}

/// One address and port under which a service is reached, seen from one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Its key in `SERVICES`.
    pub key: ServiceKey,
    /// What becomes of its traffic.
    pub verdict: Verdict,
    /// Index into [`DesiredPort::lists`], when the verdict is [`Verdict::Translate`].
    pub list: Option<usize>,
}

/// Compiles one service. It has no ports if it does not exist or is left alone.
#[must_use]
pub fn service(cluster: &Cluster, name: &ObjectName) -> DesiredService {
    todo!("{cluster:?} {name}")
}
