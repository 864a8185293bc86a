//! What a watch decodes instead of a Kubernetes structure: an object that is already reduced, or the reason why not.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;
use weir_core::model::{Object, ObjectName};

use super::text::JsonText;
use crate::source::reduce::{Reduce, read};

/// One object of kind `K`, reduced while it is decoded. Decoding never fails, so that one malformed object can neither
/// spoil the list it is in nor end the watch.
pub(super) struct Reduced<K> {
    /// Namespace, name and resource version only.
    meta: ObjectMeta,
    outcome: Result<Object, String>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Reduced<K> {
    /// The name in its metadata, also of an object that cannot be read.
    pub(super) fn name(&self) -> ObjectName {
        ObjectName {
            namespace: self.meta.namespace.as_deref().unwrap_or_default().into(),
            name: self.meta.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// The object, or what is wrong with it.
    pub(super) fn outcome(self) -> Result<Object, String> {
        self.outcome
    }
}

impl<'de, K: Reduce> Deserialize<'de> for Reduced<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = JsonText::deserialize(deserializer)?;
        let (meta, outcome) = match serde_json::from_str::<K>(&text.0) {
            Ok(object) => (
                identity(object.meta()),
                object.reduce().map_err(|error| error.to_string()),
            ),
            // Read again, more slowly, for its name and what is wrong where.
            Err(_) => {
                let value = serde_json::from_str(&text.0).map_err(Error::custom)?;
                (identity_in(&value), read::<K>(&value))
            }
        };
        Ok(Self {
            meta,
            outcome,
            kind: PhantomData,
        })
    }
}

fn identity(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectMeta::default()
    }
}

fn identity_in(object: &Value) -> ObjectMeta {
    let field = |name| {
        let field = object.get("metadata")?.get(name)?.as_str()?;
        Some(field.to_owned())
    };
    ObjectMeta {
        namespace: field("namespace"),
        name: field("name"),
        resource_version: field("resourceVersion"),
        ..ObjectMeta::default()
    }
}

impl<K> Clone for Reduced<K> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            outcome: self.outcome.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Reduced<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reduced")
            .field("name", &self.meta.name)
            .field("namespace", &self.meta.namespace)
            .field("error", &self.outcome.as_ref().err())
            .finish_non_exhaustive()
    }
}

impl<K: Reduce> Resource for Reduced<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
