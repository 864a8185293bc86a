//! A KubeProxyConfiguration (`kubeproxy.config.k8s.io/v1alpha1`, YAML or JSON).

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Foreign,
    flags::{API, CONNTRACK, IPVS, LOCAL, LOG, MASQUERADE, MODE, SYNC},
};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// Fields that give options of `weir run` their defaults, and the options' ids.
const TAKEN: [(&str, &str); 6] = [
    ("clientConnection.kubeconfig", "kubeconfig"),
    ("healthzBindAddress", "healthz_bind_address"),
    ("hostnameOverride", "node_name"),
    ("logging.format", "log_format"),
    ("metricsBindAddress", "metrics_bind_address"),
    ("nodePortAddresses", "nodeport_addresses"),
];

const WINDOWS: &str = "it is for Windows";

/// What becomes of the other fields; a group stands for everything in it. The first that fits counts.
const OUTCOMES: &[(&str, &str)] = &[
    (
        "bindAddress",
        "Weir binds nothing to it; node ports are served on --nodeport-addresses",
    ),
    (
        "bindAddressHardFail",
        "a port that cannot be had ends Weir, but for those of health checks, which are tried again",
    ),
    ("clientConnection", API),
    ("clusterCIDR", LOCAL),
    ("configSyncPeriod", "watches are followed without resyncs"),
    ("conntrack", CONNTRACK),
    ("detectLocal", LOCAL),
    ("detectLocalMode", LOCAL),
    ("enableProfiling", "Weir has no profiler to serve"),
    ("featureGates", "they are of Kubernetes' own components"),
    ("iptables.syncPeriod", SYNC),
    ("iptables.minSyncPeriod", SYNC),
    (
        "iptables.localhostNodePorts",
        "localhost serves node ports when --nodeport-addresses holds it",
    ),
    ("iptables", MASQUERADE),
    ("ipvs.syncPeriod", SYNC),
    ("ipvs.minSyncPeriod", SYNC),
    (
        "ipvs.scheduler",
        "endpoints are chosen at random, or as a service's annotation says",
    ),
    ("ipvs", IPVS),
    ("nftables.syncPeriod", SYNC),
    ("nftables.minSyncPeriod", SYNC),
    ("nftables", MASQUERADE),
    ("logging", LOG),
    ("mode", MODE),
    ("oomScoreAdj", "set it for the container"),
    ("portRange", "kube-proxy ignores it as well"),
    ("showHiddenMetricsForVersion", "Weir hides no metrics"),
    ("windowsRunAsService", WINDOWS),
    ("winkernel", WINDOWS),
];

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct File {
    /// Options of `weir run` by their ids, with their values.
    pub(in crate::cli) defaults: Vec<(&'static str, Vec<String>)>,
    /// What else is set.
    pub(in crate::cli) foreign: Vec<Foreign>,
}

impl File {
    /// # Errors
    /// When it is no YAML, or another kind of object.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_yaml_ng::from_str(text).context("it is not YAML")?;
        let field = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (field("apiVersion"), field("kind"));
        ensure!(
            version == API_VERSION && kind == KIND,
            "it has apiVersion `{version}` and kind `{kind}`, not `{API_VERSION}` and `{KIND}`"
        );
        let mut file = Self::default();
        file.walk("", &value);
        Ok(file)
    }

    fn walk(&mut self, path: &str, value: &Value) {
        if let Some((_, option)) = TAKEN.iter().find(|(field, _)| *field == path) {
            let values: Vec<String> = match value {
                Value::String(value) => vec![value.clone()],
                Value::Array(values) => values
                    .iter()
                    .map(|value| {
                        value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned)
                    })
                    .collect(),
                _ => Vec::new(),
            };
            if values.iter().any(|value| !value.is_empty()) {
                self.defaults.push((option, values));
                return;
            }
        }
        match value {
            Value::Object(fields) if !is_a_map(path) => {
                for (name, value) in fields {
                    match path {
                        "" if name == "apiVersion" || name == "kind" => {}
                        "" => self.walk(name, value),
                        _ => self.walk(&format!("{path}.{name}"), value),
                    }
                }
            }
            value if is_unset(path, value) => {}
            _ => self.foreign.push(Foreign {
                name: path.to_owned(),
                outcome: outcome(path),
            }),
        }
    }
}

/// Whether the names in it are the user's, so that it is one field.
fn is_a_map(path: &str) -> bool {
    path == "featureGates"
}

/// Whether a field has the value of one that is not there: kubeadm writes them all.
fn is_unset(path: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => match text.as_str() {
            "" | "0" | "0s" => true,
            "0.0.0.0" | "::" => path == "bindAddress",
            _ => false,
        },
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn outcome(path: &str) -> &'static str {
    let fits = |group: &str| {
        path.strip_prefix(group)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    OUTCOMES
        .iter()
        .find(|(group, _)| fits(group))
        .map_or("kube-proxy 1.36 does not know it either", |(_, outcome)| {
            outcome
        })
}
