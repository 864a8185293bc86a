//! How each component of the control plane is run.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::pki::{ADMINISTRATORS, Pki, api_server_names};

/// The API server's port on every address of the namespace.
pub(super) const API_PORT: u16 = 6443;
/// etcd's client port on the namespace's loopback, without TLS.
pub(super) const ETCD_PORT: u16 = 2379;
/// What the cluster takes its services' addresses from.
pub(super) const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/108";

/// The arguments of every component, ready to be run any number of times.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) etcd: Vec<OsString>,
    pub(super) api_server: Vec<OsString>,
    pub(super) controller_manager: Vec<OsString>,
    pub(super) scheduler: Vec<OsString>,
}

/// A command that runs `component` out of the multi-call `binary`.
pub(super) fn command(binary: &Path, component: &str, arguments: &[OsString]) -> Command {
    let mut command = Command::new(binary);
    command.arg(component).args(arguments);
    // The control plane is reached directly, whatever the machine's own traffic has to go through.
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env_remove(variable);
    }
    command
}

impl Components {
    /// Issues what the components need and writes down how to run them. `addresses` are the
    /// namespace's own, the first of them the one that the API server advertises.
    pub(super) fn new(
        pki: &Pki,
        directory: &Path,
        url: &str,
        addresses: &[IpAddr],
    ) -> Result<Self> {
        let server = pki.server("kube-apiserver", &api_server_names(addresses))?;
        let kubelet_client =
            pki.client("kubelet-client", "kube-apiserver", Some(ADMINISTRATORS))?;
        let signing_key = pki.signing_key("service-account")?;
        let authority = pki.authority();
        // The controllers are told apart by the roles that the API server itself creates for them.
        let controller_manager = pki
            .client("controller-manager", "system:kube-controller-manager", None)
            .and_then(|client| {
                pki.kubeconfig("controller-manager.kubeconfig", url, &client.user())
            })?;
        let scheduler = pki
            .client("scheduler", "system:kube-scheduler", None)
            .and_then(|client| pki.kubeconfig("scheduler.kubeconfig", url, &client.user()))?;
        let advertised = addresses.first().map(IpAddr::to_string).unwrap_or_default();
        let etcd = format!("http://127.0.0.1:{ETCD_PORT}");

        Ok(Self {
            etcd: vec![
                option("data-dir", directory.join("etcd")),
                option("listen-client-urls", &etcd),
                option("advertise-client-urls", &etcd),
                option("listen-peer-urls", "http://127.0.0.1:2380"),
                // What it keeps need not outlive the machine.
                "--unsafe-no-fsync".into(),
                option("log-level", "warn"),
            ],
            api_server: vec![
                option("advertise-address", advertised),
                option("secure-port", API_PORT.to_string()),
                option("etcd-servers", etcd),
                // Only tests compact, when they say so.
                option("etcd-compaction-interval", "0"),
                option("service-cluster-ip-range", SERVICE_RANGES),
                option("authorization-mode", "Node,RBAC"),
                option("allow-privileged", "true"),
                option("client-ca-file", &authority),
                option("tls-cert-file", server.certificate),
                option("tls-private-key-file", server.key),
                option("kubelet-client-certificate", kubelet_client.certificate),
                option("kubelet-client-key", kubelet_client.key),
                option("kubelet-preferred-address-types", "InternalIP"),
                option(
                    "service-account-issuer",
                    "https://kubernetes.default.svc.cluster.local",
                ),
                option("service-account-key-file", signing_key.public),
                option("service-account-signing-key-file", &signing_key.private),
                option("shutdown-delay-duration", "0"),
                // Else it waits a minute for its watchers to go away by themselves.
                option("shutdown-watch-termination-grace-period", "1s"),
            ],
            controller_manager: vec![
                option("kubeconfig", controller_manager),
                option("leader-elect", "false"),
                option("secure-port", "0"),
                option("use-service-account-credentials", "true"),
                option("root-ca-file", &authority),
                option("service-account-private-key-file", signing_key.private),
                // Nodes here have no kubelet that would report every few seconds.
                option("node-monitor-grace-period", "24h"),
                option("node-startup-grace-period", "24h"),
                option("kube-api-qps", "1000"),
                option("kube-api-burst", "1000"),
            ],
            scheduler: vec![
                option("kubeconfig", scheduler),
                option("leader-elect", "false"),
                option("secure-port", "0"),
            ],
        })
    }
}

/// The kubeconfig of the one who may do everything.
pub(super) fn administrator(pki: &Pki, url: &str) -> Result<PathBuf> {
    let client = pki.client("admin", "weir-tests", Some(ADMINISTRATORS))?;
    pki.kubeconfig("admin.kubeconfig", url, &client.user())
}

fn option(name: &str, value: impl Into<OsString>) -> OsString {
    let mut option = OsString::from(format!("--{name}="));
    option.push(value.into());
    option
}
