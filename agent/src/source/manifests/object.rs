//! From a document to the object it describes, with the defaults that an API server would fill in.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Map, Value};
use weir_core::model::{Kind, Object, ObjectName};

use crate::source::reduce::{Reduce, read};

/// What a document turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    /// An object that Weir reads, or what is wrong with it.
    Object(Kind, ObjectName, Result<Arc<Object>, String>),
    /// An object whose labels leave it out: as though it were not there.
    LeftOut,
    /// Not a kind that Weir reads.
    OtherKind,
    /// It cannot be told which object it is.
    Nameless(String),
}

/// Reads one document.
pub(super) fn find(value: Value) -> Found {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let version = text("apiVersion").to_owned();
    match text("kind") {
        "Service" => typed::<Service>(&version, value),
        "EndpointSlice" => typed::<EndpointSlice>(&version, value),
        "Node" => typed::<Node>(&version, value),
        "Namespace" => typed::<Namespace>(&version, value),
        "Pod" => typed::<Pod>(&version, value),
        _ => Found::OtherKind,
    }
}

fn typed<K: Reduce>(version: &str, mut value: Value) -> Found {
    let (wanted, group) = (K::api_version(&()), K::group(&()));
    let same_group = match version.split_once('/') {
        Some((of, _)) => of == group,
        None => group.is_empty(),
    };
    // Some other API's kind may bear the same name, as Knative's Service does.
    if !same_group && !version.is_empty() {
        return Found::OtherKind;
    }
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Found::Nameless("metadata: is missing; set it, with a name".to_owned());
    };
    let Some(name) = own_text(metadata, "name") else {
        return Found::Nameless("metadata.name: is missing; set it".to_owned());
    };
    let name = if K::NAMESPACED {
        let namespace = own_text(metadata, "namespace").unwrap_or_else(|| "default".to_owned());
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
        ObjectName::new(namespace, name)
    } else {
        metadata.remove("namespace");
        ObjectName::cluster_scoped(name)
    };
    if let Some(labels) = metadata.get("labels").and_then(Value::as_object)
        && K::LEFT_OUT_BY
            .iter()
            .any(|label| labels.contains_key(*label))
    {
        return Found::LeftOut;
    }
    if version != wanted {
        let error = format!("apiVersion: {version:?} is not read; write {wanted}");
        return Found::Object(K::KIND, name, Err(error));
    }
    if K::KIND == Kind::Service {
        complete_service(&name, &mut value);
    }
    let object = read::<K>(&value);
    Found::Object(K::KIND, name, object.map(Arc::new))
}

/// `clusterIPs` follows from `clusterIP`; an address that nobody wrote down cannot be assigned here.
fn complete_service(name: &ObjectName, service: &mut Value) {
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if spec.get("clusterIPs").is_some_and(|ips| !ips.is_null()) {
        return;
    }
    if let Some(ip) = own_text(spec, "clusterIP") {
        spec.insert("clusterIPs".to_owned(), Value::Array(vec![ip.into()]));
    } else if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
        tracing::info!(
            service = %name,
            "the Service has no clusterIP, and without an API server nobody assigns one: it can be reached at no address"
        );
    }
}

fn own_text(fields: &Map<String, Value>, field: &str) -> Option<String> {
    let text = fields.get(field)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}
