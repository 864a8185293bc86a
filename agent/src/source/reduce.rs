//! The kinds that both sources read: which labels leave an object out, and the way from JSON to a reduced object.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_core::model::{self, Kind, ModelError, Object};

/// Set on Services that another service proxy serves.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Set on the slices of headless Services, and by users on what no service proxy shall serve.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A kind of Kubernetes object that Weir reads.
pub(super) trait Reduce:
    ::kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static
{
    /// The kind in Weir's own terms.
    const KIND: Kind;
    /// Whether objects of this kind live in a namespace.
    const NAMESPACED: bool = true;
    /// Labels that leave an object out, whatever their value. A watch asks the server to leave such objects out, so
    /// that setting the label is seen as a deletion and removing it as a creation.
    const LEFT_OUT_BY: &[&str] = &[];

    /// Reduces an object to what Weir needs of it.
    fn reduce(&self) -> Result<Object, ModelError>;
}

impl Reduce for Service {
    const KIND: Kind = Kind::Service;
    // kube-proxy 1.36 asks for !service-proxy-name here, and leaves headless Services out by a field selector that older
    // servers do not know; those come here and make no frontends. Until 1.34 it also left out what has the headless
    // label, and so does Weir.
    const LEFT_OUT_BY: &[&str] = &[SERVICE_PROXY_NAME, HEADLESS];

    fn reduce(&self) -> Result<Object, ModelError> {
        model::Service::reduce(self).map(Object::Service)
    }
}

impl Reduce for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
    // As kube-proxy 1.36 does.
    const LEFT_OUT_BY: &[&str] = &[HEADLESS];

    fn reduce(&self) -> Result<Object, ModelError> {
        model::EndpointSlice::reduce(self).map(Object::EndpointSlice)
    }
}

impl Reduce for Node {
    const KIND: Kind = Kind::Node;
    const NAMESPACED: bool = false;

    fn reduce(&self) -> Result<Object, ModelError> {
        model::Node::reduce(self).map(Object::Node)
    }
}

impl Reduce for Namespace {
    const KIND: Kind = Kind::Namespace;
    const NAMESPACED: bool = false;

    fn reduce(&self) -> Result<Object, ModelError> {
        model::Namespace::reduce(self).map(Object::Namespace)
    }
}

impl Reduce for Pod {
    const KIND: Kind = Kind::Pod;

    fn reduce(&self) -> Result<Object, ModelError> {
        model::Pod::reduce(self).map(Object::Pod)
    }
}

/// Reads one object; an error names the field that is wrong.
pub(super) fn read<K: Reduce>(value: &Value) -> Result<Object, String> {
    let object: K = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // "." is the object itself.
        if path == "." {
            error.to_string()
        } else {
            format!("{path}: {error}")
        }
    })?;
    object.reduce().map_err(|error| error.to_string())
}

/// The label selector of a watch; empty when every object is wanted.
pub(super) fn label_selector<K: Reduce>() -> String {
    let absent: Vec<_> = K::LEFT_OUT_BY
        .iter()
        .map(|label| format!("!{label}"))
        .collect();
    absent.join(",")
}
