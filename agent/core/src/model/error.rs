//! Everything that can be wrong with an object.

use thiserror::Error;

/// Why an object cannot be used: the field, and what is wrong with it.
///
/// An object that is wrong in several places is reported with the first.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct ModelError {
    /// The field's path, for example `spec.ports[2].port`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: Problem,
}

impl ModelError {
    pub(super) fn new(field: impl Into<String>, problem: Problem) -> Self {
        Self {
            field: field.into(),
            problem,
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// A field without which the object means nothing is not there.
    #[error("is missing; set it")]
    Missing,
    /// A number that is not a port.
    #[error("{0} is not a port (1-65535)")]
    Port(i32),
    /// Text that is not an IP address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// An address that no service or endpoint can have.
    #[error("{0} is an unspecified or multicast address; give an address of a host")]
    UnusableAddress(std::net::IpAddr),
    /// An address of the other family than the object says.
    #[error("{address} is not an {expected} address; put it into a slice of its own family")]
    Family {
        /// The address.
        address: std::net::IpAddr,
        /// The family the object names.
        expected: &'static str,
    },
    /// Text that is not a CIDR.
    #[error("{0:?} is not a CIDR such as 10.0.0.0/8 or fd00::/8")]
    Cidr(String),
    /// A protocol that no Service can have.
    #[error("{0:?} is not a protocol of a Service (TCP, UDP or SCTP)")]
    Protocol(String),
    /// A number of seconds outside of what the API allows.
    #[error("{0} is not a number of seconds between 1 and 86400")]
    AffinityTimeout(i32),
    /// Text that names no way of choosing backends.
    #[error("{0:?} is no way of choosing backends (random or maglev); they are chosen at random")]
    Selection(String),
    /// The same thing twice where it must be unique.
    #[error("{what} is there twice; keep one")]
    Duplicate {
        /// What is repeated.
        what: String,
    },
}
