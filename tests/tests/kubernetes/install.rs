//! The base manifests, as they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1 as core;
use kube::{Api, api::ListParams};
use serde_json::json;
use weir_tests::control_plane::{self, Cluster, Identity, Node, NodeGuard, Pod, eventually};

use crate::shop::{KINDS, Shop, wait_until_watching};

const SYSTEM: &str = "weir-system";

/// The base manifests in the cluster, which go when this is dropped.
struct Installation<'a> {
    cluster: &'a Cluster,
}

impl<'a> Installation<'a> {
    fn apply(cluster: &'a Cluster) -> Result<Self> {
        let installation = Self { cluster };
        installation.kubectl("apply", &[])?;
        Ok(installation)
    }

    fn kubectl(&self, verb: &str, more: &[&str]) -> Result<String> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base");
        let base = base.to_str().context("the path is not UTF-8")?;
        self.cluster.kubectl(&[&[verb, "-k", base], more].concat())
    }

    fn pods(&self) -> Result<Vec<core::Pod>> {
        let ours = ListParams::default().labels("k8s-app=weir");
        let list = |client| async move {
            Api::<core::Pod>::namespaced(client, SYSTEM)
                .list(&ours)
                .await
        };
        Ok(self.cluster.run(list)?.items)
    }

    /// How many pods that are not being deleted each node has.
    fn pods_by_node(&self) -> Result<BTreeMap<String, usize>> {
        let mut nodes = BTreeMap::new();
        for pod in self.pods()? {
            if pod.metadata.deletion_timestamp.is_none()
                && let Some(node) = pod.spec.and_then(|spec| spec.node_name)
            {
                *nodes.entry(node).or_default() += 1;
            }
        }
        Ok(nodes)
    }

    fn wait_for_one_pod_on_each_node(&self) -> Result<()> {
        eventually("there is one pod on each node", || {
            let names = nodes_of(self.cluster)?
                .into_iter()
                .filter_map(|node| node.metadata.name);
            let expected: BTreeMap<String, usize> = names.map(|name| (name, 1)).collect();
            Ok((self.pods_by_node()? == expected).then_some(()))
        })
        .with_context(|| format!("there are {:?}", self.pods_by_node()))
    }
}

impl Drop for Installation<'_> {
    fn drop(&mut self) {
        // No kubelet confirms that a pod has ended, and its namespace waits for that.
        let end_pods = || {
            eventually("the namespace of the installation is gone", || {
                let force = ["--force", "--grace-period=0", "--wait=false"];
                let pods = [&["-n", SYSTEM, "delete", "pods", "--all"], force.as_slice()].concat();
                self.cluster.kubectl(&pods)?;
                let get = |client| async move {
                    Api::<core::Namespace>::all(client).get_opt(SYSTEM).await
                };
                Ok(self.cluster.run(get)?.is_none().then_some(()))
            })
        };
        let removed = self.kubectl("delete", &["--wait=false", "--ignore-not-found"]);
        if let Err(error) = removed.and_then(|_| end_pods()) {
            eprintln!("cannot remove the installation: {error:#}");
        }
    }
}

fn nodes_of(cluster: &Cluster) -> Result<Vec<core::Node>> {
    let list = |client| async move {
        Api::<core::Node>::all(client)
            .list(&ListParams::default())
            .await
    };
    Ok(cluster.run(list)?.items)
}

/// Nodes in every state in which ordinary pods shun them.
fn shunned<'a>(cluster: &'a Cluster, prefix: &str) -> Result<Vec<NodeGuard<'a>>> {
    let node = |name: &str| Node::new(&format!("{prefix}-{name}"));
    let nodes = [
        node("reserved").taint("example.com/reserved", "NoSchedule"),
        node("evicting").taint("example.com/evicting", "NoExecute"),
        node("control-plane")
            .label("node-role.kubernetes.io/control-plane", "")
            .taint("node-role.kubernetes.io/control-plane", "NoSchedule"),
        // The controllers would do this as well, but no more than once in ten seconds.
        node("not-ready").taint("node.kubernetes.io/not-ready", "NoExecute"),
        node("unreachable").taint("node.kubernetes.io/unreachable", "NoExecute"),
        node("pressed"),
        node("cordoned"),
    ];
    let nodes = nodes
        .iter()
        .map(|node| cluster.node(node))
        .collect::<Result<Vec<_>>>()?;
    // The controllers make taints out of these, or leave the ones that fit.
    for (name, condition, status) in [
        ("not-ready", "Ready", "False"),
        ("unreachable", "Ready", "Unknown"),
        ("pressed", "MemoryPressure", "True"),
    ] {
        let patch = json!({ "status": { "conditions": [{
            "type": condition, "status": status, "reason": "Test", "message": "",
            "lastTransitionTime": "2020-01-01T00:00:00Z",
        }] } });
        let name = format!("{prefix}-{name}");
        let patch = patch.to_string();
        cluster.kubectl(&[
            "patch",
            "node",
            &name,
            "--subresource=status",
            "--type=strategic",
            "-p",
            &patch,
        ])?;
    }
    cluster.kubectl(&["cordon", &format!("{prefix}-cordoned")])?;
    eventually("the controllers have tainted the nodes", || {
        let nodes = nodes_of(cluster)?;
        let tainted = [
            ("not-ready", "not-ready", "NoSchedule"),
            ("not-ready", "not-ready", "NoExecute"),
            ("unreachable", "unreachable", "NoSchedule"),
            ("unreachable", "unreachable", "NoExecute"),
            ("pressed", "memory-pressure", "NoSchedule"),
            ("cordoned", "unschedulable", "NoSchedule"),
        ]
        .iter()
        .all(|(name, key, effect)| {
            let (name, key) = (
                format!("{prefix}-{name}"),
                format!("node.kubernetes.io/{key}"),
            );
            let node = nodes
                .iter()
                .find(|node| node.metadata.name.as_ref() == Some(&name));
            let taints = node.and_then(|node| node.spec.as_ref()?.taints.as_ref());
            let mut taints = taints.into_iter().flatten();
            taints.any(|taint| taint.key == key && taint.effect == *effect)
        });
        Ok(tainted.then_some(()))
    })?;
    Ok(nodes)
}

#[test]
fn the_base_manifests_put_one_agent_on_every_node_whatever_its_taints() -> Result<()> {
    // The daemon set gets a pod for every node there is.
    let cluster = control_plane::exclusive()?;
    let namespace = cluster.namespace("everywhere")?;
    let _plain = cluster.node(&Node::new("everywhere-plain"))?;
    let _shunned = shunned(&cluster, "everywhere")?;
    let installation = Installation::apply(&cluster)?;
    installation.wait_for_one_pod_on_each_node()?;

    // Also on one that comes later. An ordinary pod is evicted there, those of the daemon set stay.
    let _late =
        cluster.node(&Node::new("everywhere-late").taint("example.com/late", "NoExecute"))?;
    installation.wait_for_one_pod_on_each_node()?;
    for node in ["late", "evicting"] {
        let name = format!("ordinary-on-{node}");
        namespace.pod(&Pod::new(&name).node(&format!("everywhere-{node}")))?;
        eventually("an ordinary pod is evicted", || {
            let pod = namespace.get::<core::Pod>(&name)?;
            let evicted = pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
            Ok(evicted.then_some(()))
        })?;
    }
    installation.wait_for_one_pod_on_each_node()?;

    let pods = installation.pods()?;
    let pod = pods
        .first()
        .and_then(|pod| pod.spec.as_ref())
        .context("no pod")?;
    assert_eq!(pod.service_account_name.as_deref(), Some("weir"));
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(
        pod.priority_class_name.as_deref(),
        Some("system-node-critical")
    );
    Ok(())
}

#[test]
fn the_agent_needs_no_more_rights_than_the_base_manifests_give() -> Result<()> {
    // The server counts all that it forbids.
    let cluster = control_plane::exclusive()?;
    let installation = Installation::apply(&cluster)?;
    let account = Identity::ServiceAccount(SYSTEM, "weir");
    let shop = Shop::open_as(&cluster, "granted", &account)?;
    eventually("the rights are in force", || {
        let account = format!("system:serviceaccount:{SYSTEM}:weir");
        let may = |resource| {
            cluster.kubectl(&["auth", "can-i", "watch", resource, "-A", "--as", &account])
        };
        Ok((may("pods").is_ok() && may("endpointslices.discovery.k8s.io").is_ok()).then_some(()))
    })?;
    let forbidden = forbidden(&cluster)?;

    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    shop.pods(&["web-2"])?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;
    shop.proxy.cut();
    shop.namespace.delete::<core::Pod>("web-1")?;
    shop.wait_for(&agent, &to, &["web-2"])?;
    wait_until_watching(&agent)?;
    // Its own pod, made for its node by the daemon set, is one that it watches.
    installation.wait_for_one_pod_on_each_node()?;
    agent.wait_until("it knows the pods of its node", |agent| {
        let status = agent.status()?;
        Ok(crate::shop::source(&status, "Pod")?["objects"] == 2)
    })?;
    agent.terminate()?;
    let agent = shop.agent()?;
    shop.wait_for(&agent, &to, &["web-2"])?;
    let status = agent.status()?;
    assert_eq!(status["healthy"], true, "{status}");
    assert!(!agent.log().contains("may not"), "{}", agent.log());
    assert_eq!(
        self::forbidden(&cluster)?,
        forbidden,
        "something was forbidden"
    );

    // That all this could have failed: the same credentials are denied what the manifests do not grant, and it is counted.
    let kubeconfig = cluster.kubeconfig(&cluster.url(), &account)?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let denied = cluster.kubectl(&[&kubeconfig, "get", "secrets", "-A"]);
    let denied = denied
        .err()
        .context("the agent may list secrets")?
        .to_string();
    let expected =
        format!(r#"User "system:serviceaccount:{SYSTEM}:weir" cannot list resource "secrets""#);
    ensure!(denied.contains(&expected), "{denied}");
    ensure!(
        self::forbidden(&cluster)? > forbidden,
        "what is forbidden is not counted"
    );

    // And what they grant is what the agent watches, and to make Events, nothing more.
    let role = cluster.kubectl(&["get", "clusterrole", "weir", "-o", "json"])?;
    let role: serde_json::Value = serde_json::from_str(&role)?;
    let rules = role["rules"].as_array().context("no rules")?;
    let strings = |field: &str| -> BTreeSet<String> {
        let values = rules
            .iter()
            .flat_map(|rule| rule[field].as_array().into_iter().flatten());
        values
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(
        strings("verbs"),
        BTreeSet::from(["create", "list", "watch"].map(str::to_owned))
    );
    let watched = KINDS.map(|kind| format!("{}s", kind.to_lowercase()));
    let mut granted = strings("resources");
    assert!(granted.remove("events"));
    assert_eq!(granted, BTreeSet::from(watched));
    let created = rules
        .iter()
        .filter(|rule| rule["verbs"].to_string().contains("create"));
    assert!(
        created
            .map(|rule| &rule["resources"])
            .eq([&serde_json::json!(["events"])])
    );
    Ok(())
}

/// How many requests the API server has forbidden since it started.
fn forbidden(cluster: &Cluster) -> Result<u64> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"])?;
    let denied = metrics.lines().find_map(|line| {
        // RBAC grants and never denies; what nobody grants is forbidden.
        line.strip_prefix(r#"authorization_attempts_total{result="no-opinion"} "#)
    });
    // There is no such line before the first one.
    Ok(denied.map_or(Ok(0), str::parse)?)
}
