//! Kubernetes objects, reduced to what Weir uses.
//!
//! Each type has a `reduce` from its API structure. It fails with a [`ModelError`] only for what is wrong; a value of
//! an enumeration that this version does not know is read as kube-proxy reads it, which each type's page says.

mod error;
mod name;
mod namespace;
mod node;
mod parse;
mod pod;
mod service;
mod slice;

pub use error::{ModelError, Problem};
pub use name::{Kind, ObjectName};
pub use namespace::Namespace;
pub use node::{AddressKind, Node, NodeAddress};
pub use parse::Cidr;
pub use pod::{Pod, SOCKET_TRANSLATION};
pub use service::{
    Affinity, BackendSelection, LeftAlone, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};
pub use slice::{Endpoint, EndpointPort, EndpointSlice, Family, Hints};

/// An object of any kind that Weir watches.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
    /// A Namespace.
    Namespace(Namespace),
    /// A Pod.
    Pod(Pod),
}

impl Object {
    /// The object's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
        }
    }

    /// The object's name, with an empty namespace for kinds that have none.
    #[must_use]
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Service(service) => service.name.clone(),
            Self::EndpointSlice(slice) => slice.name.clone(),
            Self::Node(node) => ObjectName::cluster_scoped(node.name.clone()),
            Self::Namespace(namespace) => ObjectName::cluster_scoped(namespace.name.clone()),
            Self::Pod(pod) => pod.name.clone(),
        }
    }
}
