//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::error::ModelError;
use super::name::ObjectName;
use super::parse;

/// Annotation of a pod whose sockets are left alone, if its value is `disabled`: its packets are translated on their way instead.
/// For what looks at its sockets' addresses itself, such as a service mesh's sidecar.
pub const SOCKET_TRANSLATION: &str = "weir.dev/socket-translation";

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its UID; a manifest has none.
    pub uid: Option<Arc<str>>,
    /// The node it runs on, once it is scheduled.
    pub node: Option<Arc<str>>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether all its containers have ended for good (phase `Succeeded` or `Failed`); its addresses may be another's.
    pub finished: bool,
    /// Whether it has been deleted and its containers are told to end.
    pub terminating: bool,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its labels, sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// Whether its sockets are to be left alone ([`SOCKET_TRANSLATION`]).
    pub opt_out: bool,
}

impl Pod {
    /// Reduces an API object. A phase that this version does not know is taken for one of a running pod.
    ///
    /// # Errors
    /// It has no name, or one of its addresses is none.
    pub fn reduce(object: &api::Pod) -> Result<Self, ModelError> {
        let spec = object.spec.as_ref();
        let phase = object
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        Ok(Self {
            name: parse::namespaced_name(&object.metadata)?,
            uid: object.metadata.uid.as_deref().map(Arc::from),
            node: spec
                .and_then(|spec| spec.node_name.as_deref())
                .filter(|node| !node.is_empty())
                .map(Arc::from),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            terminating: object.metadata.deletion_timestamp.is_some(),
            ips: object.status.as_ref().map_or(Ok(Vec::new()), addresses)?,
            labels: parse::labels(&object.metadata),
            opt_out: opts_out(&object.metadata),
        })
    }
}

fn opts_out(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get(SOCKET_TRANSLATION));
    value.is_some_and(|value| value.trim() == "disabled")
}

fn addresses(status: &api::PodStatus) -> Result<Vec<IpAddr>, ModelError> {
    match (&status.pod_ips, &status.pod_ip) {
        (Some(ips), _) if !ips.is_empty() => ips
            .iter()
            .enumerate()
            .map(|(i, ip)| parse::host_address(&ip.ip, || format!("status.podIPs[{i}].ip")))
            .collect(),
        (_, Some(ip)) if !ip.is_empty() => {
            parse::host_address(ip, || "status.podIP".to_owned()).map(|ip| vec![ip])
        }
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Problem;

    fn reduce(json: &str) -> Result<Pod, ModelError> {
        Pod::reduce(&serde_json::from_str(json).expect("a Pod"))
    }

    #[test]
    fn a_whole_pod() {
        let pod = reduce(
            r#"{"metadata": {"namespace": "shop", "name": "cart-0", "uid": "u-1", "labels": {"app": "cart"}},
                "spec": {"nodeName": "n1", "hostNetwork": true, "containers": []},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}"#,
        )
        .expect("valid");
        assert_eq!(pod.name, ObjectName::new("shop", "cart-0"));
        assert_eq!(pod.uid.as_deref(), Some("u-1"));
        assert_eq!(pod.node.as_deref(), Some("n1"));
        assert!(pod.host_network && !pod.finished);
        let ips: Vec<_> = pod.ips.iter().map(IpAddr::to_string).collect();
        assert_eq!(ips, ["10.0.0.1", "fd00::1"]);
        assert_eq!(pod.labels.len(), 1);
    }

    #[test]
    fn a_bare_pod_is_in_the_default_namespace_and_on_no_node() {
        let pod = reduce(r#"{"metadata": {"name": "p"}, "spec": {"nodeName": "", "containers": []}, "status": {"podIP": ""}}"#)
            .expect("valid");
        assert_eq!(pod.name, ObjectName::new("default", "p"));
        assert_eq!((pod.uid, pod.node), (None, None));
        assert!(pod.ips.is_empty() && !pod.host_network);
    }

    #[test]
    fn only_two_phases_are_final() {
        for (phase, finished) in [
            ("Pending", false),
            ("Running", false),
            ("Unknown", false),
            ("Hibernating", false),
            ("Succeeded", true),
            ("Failed", true),
        ] {
            let pod = reduce(&format!(
                r#"{{"metadata": {{"name": "p"}}, "status": {{"phase": "{phase}"}}}}"#
            ));
            assert_eq!(pod.expect("valid").finished, finished, "{phase}");
        }
    }

    #[test]
    fn sockets_are_left_alone_on_request_only() {
        for (value, opt_out) in [
            ("disabled", true),
            (" disabled ", true),
            ("enabled", false),
            ("", false),
        ] {
            let pod = reduce(&format!(
                r#"{{"metadata": {{"name": "p", "annotations": {{"weir.dev/socket-translation": "{value}"}}}}}}"#
            ));
            assert_eq!(pod.expect("valid").opt_out, opt_out, "{value:?}");
        }
        let bare = reduce(r#"{"metadata": {"name": "p"}}"#).expect("valid");
        assert!(!bare.opt_out);
    }

    #[test]
    fn errors_name_the_field() {
        for (json, field) in [
            (
                r#"{"metadata": {"name": "p"}, "status": {"podIP": "x"}}"#,
                "status.podIP",
            ),
            (
                r#"{"metadata": {"name": "p"}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "x"}]}}"#,
                "status.podIPs[1].ip",
            ),
        ] {
            let error = reduce(json).expect_err("no address");
            assert_eq!(
                error,
                ModelError::new(field, Problem::Address("x".to_owned()))
            );
        }
        let error = reduce(r#"{"metadata": {}}"#).expect_err("nameless");
        assert_eq!(error, ModelError::new("metadata.name", Problem::Missing));
    }
}
