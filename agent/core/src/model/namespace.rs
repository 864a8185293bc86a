//! Namespaces.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::error::ModelError;
use super::parse;

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
    ///
    /// # Errors
    /// It has no name.
    pub fn reduce(object: &api::Namespace) -> Result<Self, ModelError> {
        Ok(Self {
            name: parse::plain_name(&object.metadata)?,
            labels: parse::labels(&object.metadata),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Problem;

    #[test]
    fn labels_are_kept_and_a_name_is_needed() {
        let object: api::Namespace = serde_json::from_str(
            r#"{"metadata": {"name": "shop", "labels": {"team": "blue", "env": "test"}}}"#,
        )
        .expect("a Namespace");
        let namespace = Namespace::reduce(&object).expect("valid");
        assert_eq!(&*namespace.name, "shop");
        let labels: Vec<_> = namespace.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(labels, [("env", "test"), ("team", "blue")]);

        let error = Namespace::reduce(&api::Namespace::default()).expect_err("nameless");
        assert_eq!(error, ModelError::new("metadata.name", Problem::Missing));
    }
}
