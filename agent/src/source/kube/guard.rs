//! What a watch decodes instead of a Kubernetes structure: an object that is already reduced, or the reason why not.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use weir_core::model::{Object, ObjectName};

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
        let value = Value::deserialize(deserializer)?;
        let field = |name| {
            let field = value.get("metadata")?.get(name)?.as_str()?;
            Some(field.to_owned())
        };
        Ok(Self {
            meta: ObjectMeta {
                namespace: field("namespace"),
                name: field("name"),
                resource_version: field("resourceVersion"),
                ..ObjectMeta::default()
            },
            outcome: read::<K>(&value),
            kind: PhantomData,
        })
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
