//! `weir check --migrate` beside the real kube-proxy.

use std::{
    os::unix::{fs::symlink, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{
    agent::weir_bin,
    control_plane::{self, Cluster, Identity, Node, eventually},
};

/// What `weir check --migrate` says in the namespace in which kube-proxy runs.
fn look(cluster: &Cluster, format: &str) -> Result<String> {
    let weir = weir_bin()?;
    let output = cluster.in_netns(|| {
        Command::new(weir)
            .args(["check", "--migrate", "-o", format])
            .stdin(Stdio::null())
            .output()
    })??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn found(cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(&look(cluster, "json")?)?)
}

/// The multi-call binary by its component's name: it is by that name that a process is known.
fn kube_proxy(cluster: &Cluster) -> Result<PathBuf> {
    let link = cluster.directory().join("kube-proxy");
    if !link.exists() {
        symlink(cluster.kubectl_command(&[]).get_program(), &link)?;
    }
    Ok(link)
}

fn migrate_from(mode: &str, programmed: &str, node_port: u16) -> Result<()> {
    let cluster = control_plane::exclusive()?;
    let namespace = cluster.namespace("migrate")?;
    let name = format!("migrate-{mode}");
    let _node = cluster.node(
        &Node::new(&name)
            .internal_ips(&["192.0.2.1"])
            .pod_cidrs(&["198.51.100.0/24"]),
    )?;
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  sessionAffinity: ClientIP
  selector: {{app: web}}
  ports: [{{name: http, port: 80, nodePort: {node_port}}}]
"
    ))?;
    namespace.pod(
        &control_plane::Pod::new("web-1")
            .label("app", "web")
            .node(&name)
            .ips(&["198.51.100.1"]),
    )?;
    namespace.wait_for_endpoints("web", "there is one", |endpoints| {
        endpoints.ready().len() == 1
    })?;

    let config = cluster.directory().join(format!("{name}.conf"));
    let kubeconfig = cluster.kubeconfig(&cluster.url(), &Identity::Administrator)?;
    std::fs::write(
        &config,
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n\
             clusterCIDR: 198.51.100.0/24\nconntrack: {{maxPerCore: 0}}\nclientConnection: {{kubeconfig: {}}}\n",
            kubeconfig.display()
        ),
    )?;
    let mut command = Command::new(kube_proxy(&cluster)?);
    command
        .arg0("kube-proxy")
        .arg(format!("--config={}", config.display()));
    command.arg(format!("--hostname-override={name}"));
    let proxy = cluster.spawn("kube-proxy", command)?;
    let service = format!("{}/web:http", namespace.name());
    let is_served = |found: &Value| -> Option<Value> {
        let services = found["services"].as_array()?;
        services.iter().find(|one| one["name"] == *service).cloned()
    };
    let (found, served) = eventually("kube-proxy has programmed the service", || {
        let found = found(&cluster)?;
        Ok(is_served(&found).map(|served| (found, served)))
    })
    .with_context(|| proxy.log_tail())?;

    let running = &found["running"][0];
    ensure!(running["pid"] == proxy.id(), "{running}");
    ensure!(
        found["programmed"][0]["mode"] == programmed,
        "{}",
        found["programmed"]
    );
    let settings = found["settings"].to_string();
    ensure!(
        settings.contains("\"mode\"") && settings.contains("clusterCIDR"),
        "{settings}"
    );
    let frontends = served["frontends"].to_string();
    ensure!(
        frontends.contains("node-port")
            && frontends.contains(&node_port.to_string())
            && frontends.contains("cluster-ip"),
        "{frontends}"
    );
    let changes = served["changes"].to_string();
    ensure!(changes.contains("affinity"), "{changes}");
    assert_eq!(
        changes.contains("primary addresses only"),
        mode == "iptables",
        "{changes}"
    );
    assert_eq!(found["unknown"], Value::Array(Vec::new()));

    let text = look(&cluster, "text")?;
    ensure!(
        text.contains(&service) && text.contains("To go back"),
        "{text}"
    );

    // It ends, its rules stay, and they are found all the same until they are removed as the page says.
    drop(proxy);
    let left = self::found(&cluster)?;
    ensure!(
        is_served(&left).is_some() && left["running"] == Value::Array(Vec::new()),
        "{left}"
    );
    let mut cleanup = Command::new(kube_proxy(&cluster)?);
    cleanup.arg0("kube-proxy").arg("--cleanup");
    let output = cluster.in_netns(|| cleanup.output())??;
    let after = self::found(&cluster)?;
    ensure!(
        is_served(&after).is_none() && after["programmed"] == Value::Array(Vec::new()),
        "{after}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn kube_proxy_in_nftables_mode_is_understood() -> Result<()> {
    migrate_from("nftables", "nftables", 30180)
}

#[test]
fn kube_proxy_in_iptables_mode_is_understood() -> Result<()> {
    migrate_from("iptables", "iptables-nft", 30181)
}
