//! Names and kinds of objects.

use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// The name of an object within its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; empty for kinds that have none.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The name of an object that lives in a namespace.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of an object whose kind has no namespaces.
    #[must_use]
    pub fn cluster_scoped(name: impl Into<Arc<str>>) -> Self {
        Self::new("", name)
    }
}

/// `namespace/name`, or just `name` where there is no namespace.
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A structure of two strings, `namespace` and `name`.
impl Serialize for ObjectName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("ObjectName", 2)?;
        fields.serialize_field("namespace", &*self.namespace)?;
        fields.serialize_field("name", &*self.name)?;
        fields.end()
    }
}

/// The kinds of objects that Weir watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Kind {
    /// `v1/Service`.
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`.
    EndpointSlice,
    /// `v1/Node`.
    Node,
    /// `v1/Namespace`.
    Namespace,
    /// `v1/Pod`.
    Pod,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::Namespace,
        Self::Pod,
    ];

    /// The kind as it is written in a manifest.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_in_kubectl() {
        assert_eq!(ObjectName::new("shop", "cart").to_string(), "shop/cart");
        assert_eq!(ObjectName::cluster_scoped("node-1").to_string(), "node-1");
        let json = serde_json::to_string(&ObjectName::new("shop", "cart")).expect("serialises");
        assert_eq!(json, r#"{"namespace":"shop","name":"cart"}"#);
    }

    #[test]
    fn kinds_read_as_in_manifests() {
        let labels: Vec<String> = Kind::ALL.iter().map(Kind::to_string).collect();
        assert_eq!(
            labels,
            ["Service", "EndpointSlice", "Node", "Namespace", "Pod"]
        );
        assert_eq!(
            serde_json::to_string(&Kind::EndpointSlice).expect("serialises"),
            r#""EndpointSlice""#
        );
    }
}
