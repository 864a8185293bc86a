//! Namespaces.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::ModelError;

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels, sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
}

impl Namespace {
    /// Reduces an API object.
    pub fn reduce(object: &api::Namespace) -> Result<Self, ModelError> {
        todo!("{object:?}")
    }
}
