//! The control plane that other tests stand on does what they rely on.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use weir_tests::agent::peer_command;
use weir_tests::control_plane::{self, Identity, Node, Pod, Service, eventually};
use weir_world::World;

#[test]
fn controllers_make_endpoint_slices_of_ready_pods() -> Result<()> {
    let cluster = control_plane::shared()?;
    let namespace = cluster.namespace("slices")?;
    let _node = cluster.node(
        &Node::new("slices-1")
            .zone("a")
            .pod_cidrs(&["198.51.100.0/24", "2001:db8:1::/64"])
            .internal_ips(&["192.0.2.11", "2001:db8::11"]),
    )?;
    let service = namespace.service(
        &Service::new("web")
            .select("app", "web")
            .port("http", 80, "main"),
    )?;
    let addresses = service.spec.and_then(|spec| spec.cluster_ips);
    let addresses = addresses.context("the service has no addresses")?;
    ensure!(
        addresses.len() == 2
            && addresses[0].starts_with("10.96.")
            && addresses[1].starts_with("fd00:10:96::"),
        "a service gets an address of each family out of the ranges: {addresses:?}"
    );

    let pod = |name: &str| {
        Pod::new(name)
            .label("app", "web")
            .node("slices-1")
            .port("main", 8080)
    };
    namespace.pod(&pod("web-1").ips(&["198.51.100.1", "2001:db8:1::1"]))?;
    namespace.pod(&pod("web-2").ips(&["198.51.100.2"]).ready(false))?;
    let endpoints = namespace.wait_for_endpoints("web", "all pods are endpoints", |endpoints| {
        endpoints.all() == ["198.51.100.1", "198.51.100.2", "2001:db8:1::1"]
    })?;
    assert_eq!(endpoints.ready(), ["198.51.100.1", "2001:db8:1::1"]);
    for slice in &endpoints.slices {
        let ports = slice.ports.clone().unwrap_or_default();
        assert_eq!(
            ports.iter().map(|port| port.port).collect::<Vec<_>>(),
            [Some(8080)]
        );
        let zones = slice
            .endpoints
            .iter()
            .map(|endpoint| endpoint.zone.as_deref());
        assert_eq!(
            zones.collect::<Vec<_>>(),
            vec![Some("a"); slice.endpoints.len()]
        );
    }

    namespace.set_ready("web-2", true)?;
    namespace.wait_for_endpoints("web", "web-2 is ready", |endpoints| {
        endpoints.ready().contains(&"198.51.100.2")
    })?;
    namespace.terminate("web-1")?;
    namespace.wait_for_endpoints("web", "web-1 terminates but serves", |endpoints| {
        endpoints.ready() == ["198.51.100.2"]
            && endpoints.serving_terminating() == ["198.51.100.1", "2001:db8:1::1"]
    })?;
    namespace.delete::<core::Pod>("web-1")?;
    namespace.wait_for_endpoints("web", "web-1 is gone", |endpoints| {
        endpoints.all() == ["198.51.100.2"]
    })?;
    Ok(())
}

#[test]
fn scheduler_and_daemonset_controller_place_pods() -> Result<()> {
    // The daemon set gets a pod for every node there is, those of other tests included.
    let cluster = control_plane::exclusive()?;
    let namespace = cluster.namespace("placed")?;
    let _plain = cluster.node(&Node::new("placed-1"))?;
    let _tainted = cluster.node(&Node::new("placed-2").taint("example.com/away", "NoExecute"))?;
    namespace.pod(&Pod::new("single"))?;
    namespace.apply(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: everywhere
spec:
  selector:
    matchLabels: {app: everywhere}
  template:
    metadata:
      labels: {app: everywhere}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: main, image: none}]
"#,
    )?;
    eventually("the pods have their nodes", || {
        let placed = namespace.kubectl(&[
            "get",
            "pods",
            "-o",
            "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.labels.app}{'\\n'}{end}",
        ])?;
        let mut placed: Vec<&str> = placed.lines().map(str::trim).collect();
        placed.sort_unstable();
        Ok((placed == ["placed-1", "placed-1 everywhere", "placed-2 everywhere"]).then_some(()))
    })
}

#[test]
fn a_namespace_is_deleted_with_all_its_pods() -> Result<()> {
    let cluster = control_plane::shared()?;
    let _node = cluster.node(&Node::new("deleted-1"))?;
    let namespace = cluster.namespace("deleted")?;
    let name = namespace.name().to_owned();
    namespace.pod(&Pod::new("left").node("deleted-1"))?;
    drop(namespace);
    let pods = cluster.kubectl(&["get", "pods", "-n", &name, "-o", "name"])?;
    ensure!(pods.is_empty(), "there are still pods in {name}: {pods}");
    eventually("the namespace is gone", || {
        let namespaces = cluster.kubectl(&["get", "namespaces", "-o", "name"])?;
        Ok((!namespaces.contains(&name)).then_some(()))
    })
}

#[test]
fn kubeconfigs_grant_what_their_identity_may_do() -> Result<()> {
    let cluster = control_plane::shared()?;
    let namespace = cluster.namespace("rights")?;
    namespace.kubectl(&["create", "serviceaccount", "reader"])?;
    namespace.kubectl(&[
        "create",
        "role",
        "reader",
        "--verb=list",
        "--resource=services",
    ])?;
    let subject = format!("--serviceaccount={}:reader", namespace.name());
    namespace.kubectl(&["create", "rolebinding", "reader", "--role=reader", &subject])?;

    let account = Identity::ServiceAccount(namespace.name(), "reader");
    let kubeconfig = cluster.kubeconfig(&cluster.url(), &account)?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    eventually("the reader may list services", || {
        Ok(namespace.kubectl(&[&kubeconfig, "get", "services"]).ok())
    })?;
    let refused = namespace.kubectl(&[&kubeconfig, "get", "pods"]);
    let refused = refused
        .err()
        .context("the reader may list pods")?
        .to_string();
    let expected = format!(
        r#"User "system:serviceaccount:{}:reader" cannot list resource "pods""#,
        namespace.name()
    );
    ensure!(refused.contains(&expected), "unexpected refusal: {refused}");

    let kubeconfig = cluster.kubeconfig(&cluster.url(), &Identity::User("nobody"))?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let refused = namespace.kubectl(&[&kubeconfig, "get", "services"]);
    let refused = refused
        .err()
        .context("nobody may list services")?
        .to_string();
    ensure!(
        refused.contains(r#"User "nobody" cannot list"#),
        "unexpected refusal: {refused}"
    );
    Ok(())
}

#[test]
fn a_proxy_spoils_only_its_own_connections() -> Result<()> {
    let cluster = control_plane::shared()?;
    let proxy = cluster.proxy()?;
    let kubeconfig = cluster.kubeconfig(proxy.url(), &Identity::Administrator)?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let start_watch = || {
        let arguments = [&kubeconfig, "get", "namespaces", "--watch", "-o", "name"];
        cluster.spawn("watch", cluster.kubectl_command(&arguments))
    };

    let mut watching = start_watch()?;
    eventually("the watch is connected", || {
        Ok((proxy.open() > 0).then_some(()))
    })?;
    let seen = cluster.namespace("proxied")?;
    eventually("the watch shows a namespace", || {
        Ok(watching.log().contains(seen.name()).then_some(()))
    })?;
    // The namespace may have been in the list already, and the watch's own connection be made after a first cut.
    eventually("the watch whose connection is cut ends", || {
        proxy.cut();
        Ok(watching.wait(Duration::from_millis(200))?.map(drop))
    })?;
    assert_eq!(proxy.open(), 0);

    let accepted = proxy.accepted();
    proxy.refuse();
    let refused = cluster.kubectl(&[&kubeconfig, "get", "namespaces"]);
    let refused = refused.err().context("a proxy that refuses lets through")?;
    ensure!(
        refused.to_string().contains("refused"),
        "unexpected error: {refused}"
    );
    assert_eq!(proxy.accepted(), accepted);
    cluster.kubectl(&["get", "namespaces"])?;

    proxy.restore()?;
    cluster.kubectl(&[&kubeconfig, "get", "namespaces"])?;
    let mut watching = start_watch()?;
    eventually("the watch is connected", || {
        Ok((proxy.open() > 0).then_some(()))
    })?;
    let first = cluster.namespace("proxied")?;
    eventually("the watch shows a namespace", || {
        Ok(watching.log().contains(first.name()).then_some(()))
    })?;
    proxy.stall();
    let second = cluster.namespace("proxied")?;
    ensure!(
        watching.wait(Duration::from_millis(500))?.is_none()
            && !watching.log().contains(second.name()),
        "a stalled watch goes on or ends: {}",
        watching.log()
    );
    proxy.restore()?;
    eventually("the watch shows what it missed", || {
        Ok(watching.log().contains(second.name()).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_proxy_brings_the_api_server_into_another_network_namespace() -> Result<()> {
    let cluster = control_plane::shared()?;
    let world = World::builder(peer_command()?).build()?;
    let node = &world.nodes()[0];
    let reach = |url: &str| -> Result<std::process::Output> {
        let kubeconfig = cluster.kubeconfig(url, &Identity::Administrator)?;
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let arguments = [&kubeconfig, "--request-timeout=5s", "get", "namespaces"];
        let mut command = cluster.kubectl_command(&arguments);
        Ok(node.run(|| command.output())??)
    };
    ensure!(
        !reach(&cluster.url())?.status.success(),
        "the API server is not in its own namespace"
    );
    let proxy = cluster.proxy_in(node.netns().path())?;
    let reached = reach(proxy.url())?;
    ensure!(
        reached.status.success(),
        "not reached: {}",
        String::from_utf8_lossy(&reached.stderr)
    );
    Ok(())
}

#[test]
fn the_api_server_restarts_and_knows_what_it_knew() -> Result<()> {
    let cluster = control_plane::exclusive()?;
    let namespace = cluster.namespace("restart")?;
    namespace.service(&Service::new("kept").port("http", 80, 80))?;
    cluster.stop_api_server()?;
    let refused = cluster.in_netns(|| TcpStream::connect("192.0.2.1:6443").err())?;
    let refused = refused.context("a stopped API server accepts connections")?;
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    cluster.start_api_server()?;
    namespace
        .get::<core::Service>("kept")?
        .context("the service is gone")?;
    cluster.kill_api_server()?;
    cluster.start_api_server()?;
    // The controllers have found it again.
    cluster.namespace("restart").map(drop)
}

#[test]
fn a_watch_from_an_expired_resource_version_is_gone() -> Result<()> {
    let cluster = control_plane::exclusive()?;
    let namespace = cluster.namespace("expired")?;
    let version = cluster.run(|client| async move {
        let services: Api<core::Service> = Api::all(client);
        let list = services.list(&ListParams::default()).await?;
        anyhow::Ok(list.metadata.resource_version.unwrap_or_default())
    })?;
    namespace.service(&Service::new("later").port("http", 80, 80))?;
    assert_eq!(watch_from(&cluster, &version)?, "later");
    cluster.expire_resource_versions()?;
    let answer = watch_from(&cluster, &version)?;
    ensure!(answer.starts_with("410 "), "unexpected answer: {answer}");
    Ok(())
}

/// The first event of a watch of all services: an object's name, or an error's code and message.
fn watch_from(cluster: &control_plane::Cluster, version: &str) -> Result<String> {
    let version = version.to_owned();
    cluster.run(|client| async move {
        let services: Api<core::Service> = Api::all(client);
        let events = services.watch(&WatchParams::default(), &version).await?;
        let event = std::pin::pin!(events).try_next().await?;
        match event.context("the watch ended")? {
            WatchEvent::Added(service) => Ok(service.metadata.name.unwrap_or_default()),
            WatchEvent::Error(status) => Ok(format!("{} {}", status.code, status.message)),
            other => anyhow::bail!("unexpected event {other:?}"),
        }
    })
}

/// What a control plane of another process says about itself.
struct Other {
    process: Child,
    directory: PathBuf,
    /// Device and inode of its network namespace.
    netns: PathBuf,
}

impl Other {
    fn start() -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_control-plane"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start another control plane")?;
        let output = process.stdout.take().context("no output")?;
        let mut said = HashMap::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            let (key, value) = line.split_once(' ').context("unexpected line")?;
            if key == "try" {
                break;
            }
            said.insert(key.to_owned(), PathBuf::from(value));
        }
        let netns = said.remove("netns").context("it has said no namespace")?;
        Ok(Self {
            directory: said
                .remove("directory")
                .context("it has said no directory")?,
            netns: fs::read_link(netns)?,
            process,
        })
    }

    /// Processes inside its network namespace, by command line.
    fn processes(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            if fs::read_link(entry.path().join("ns/net")).is_ok_and(|netns| netns == self.netns) {
                let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&command).replace('\0', " "));
            }
        }
        Ok(found)
    }

    fn is_gone(&self) -> Result<bool> {
        Ok(self.processes()?.is_empty() && !self.directory.exists())
    }
}

#[test]
fn nothing_is_left_of_a_killed_process() -> Result<()> {
    // As a machine leaves it behind that was switched off.
    let left = tempfile::Builder::new()
        .prefix("weir-control-plane.")
        .tempdir()?;
    fs::write(left.path().join("file"), "left")?;

    let mut other = Other::start()?;
    ensure!(
        !left.path().exists(),
        "{} is still there",
        left.path().display()
    );
    let processes = other.processes()?;
    for component in [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        ensure!(
            processes
                .iter()
                .any(|command| command.contains(&format!(" {component} "))),
            "no {component} among {processes:?}"
        );
    }
    ensure!(other.directory.join("pki").exists());
    other.process.kill()?;
    other.process.wait()?;
    eventually("nothing is left of a killed control plane", || {
        Ok(other.is_gone()?.then_some(()))
    })
}

#[test]
fn nothing_is_left_of_a_process_that_ends() -> Result<()> {
    let mut other = Other::start()?;
    drop(other.process.stdin.take());
    ensure!(other.process.wait()?.success());
    eventually("nothing is left of a control plane", || {
        Ok(other.is_gone()?.then_some(()))
    })
}
