//! The indexed cluster state.

use std::collections::BTreeSet;

use crate::model::{EndpointSlice, Kind, Namespace, Node, Object, ObjectName, Pod, Service};

/// A change of the cluster, as a source saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is new, or has changed.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectName),
    /// These are all objects of that kind; whatever else was known of it is gone.
    Replace {
        /// The kind.
        kind: Kind,
        /// The objects that could be read.
        objects: Vec<Object>,
        /// Objects that exist, but whose present version could not be read: their last good version stays, if there is one.
        keep: Vec<ObjectName>,
    },
}

/// What has to be compiled again after changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services to compile; they need not exist (any more).
    pub services: BTreeSet<ObjectName>,
    /// When the changes of endpoints happened, as the changed slices' annotations say it.
    pub triggers: Vec<jiff::Timestamp>,
}

impl Dirty {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Takes in what another change has made dirty.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.triggers.extend(other.triggers);
    }
}

/// All that is known of the cluster, from one node's point of view.
#[derive(Debug)]
pub struct Cluster {}

impl Cluster {
    /// An empty cluster, seen from the node of that name.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        todo!("{node_name}")
    }

    /// Takes in a change; returns what it made dirty, which is nothing when nothing that Weir uses has changed.
    pub fn apply(&mut self, change: Change) -> Dirty {
        todo!("{change:?}")
    }

    /// The name of the node whose point of view this is.
    #[must_use]
    pub fn node_name(&self) -> &str {
        todo!()
    }

    /// The node whose point of view this is, once it is known.
    #[must_use]
    pub fn this_node(&self) -> Option<&Node> {
        todo!()
    }

    /// A node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        todo!("{name}")
    }

    /// A service by name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        todo!("{name}")
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        std::iter::empty()
    }

    /// The slices of a service, by name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        let _ = service;
        std::iter::empty()
    }

    /// A pod by name.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        todo!("{name}")
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        std::iter::empty()
    }

    /// A namespace by name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        todo!("{name}")
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        todo!("{kind}")
    }
}
