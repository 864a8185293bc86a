//! The agent with the capabilities that the manifests give it, and with less.

use std::{fs, net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use serde_yaml_ng::Value;
use weir_tests::{
    agent::{self, Agent, peer_command},
    manifests::{Manifests, endpoints_of},
};
use weir_world::{Node, Peer, PodSpec, World};

const MANIFEST: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../manifests/base/daemonset.yaml"
);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);

/// The capabilities of the DaemonSet's container, as setpriv(1) names them.
fn granted() -> Result<Vec<String>> {
    let manifest: Value = serde_yaml_ng::from_str(&fs::read_to_string(MANIFEST)?)?;
    let container = &manifest["spec"]["template"]["spec"]["containers"][0];
    let context = &container["securityContext"];
    assert_ne!(
        context["privileged"],
        Value::Bool(true),
        "then none of this means anything"
    );
    let capabilities = &context["capabilities"];
    ensure!(
        capabilities["drop"][0] == "ALL",
        "not all capabilities are dropped"
    );
    let added = capabilities["add"]
        .as_sequence()
        .context("no capabilities are added")?;
    let names = added.iter().map(|name| Some(name.as_str()?.to_lowercase()));
    names
        .collect::<Option<_>>()
        .context("a capability is not a string")
}

struct Stage {
    world: World,
    manifests: Manifests,
    client: Peer,
    _serving: Peer,
}

impl Stage {
    fn open() -> Result<Self> {
        let world = World::builder(peer_command()?)
            .pods(["server", "client"].map(PodSpec::new))
            .build()?;
        let server = world.pod("server")?;
        let serving = server.peer()?;
        serving.echo(8080)?;
        let manifests = Manifests::new(world.nodes()[0].run_directory())?;
        let addresses = [&*WEB.to_string(), "fd00:10:96::80"];
        manifests.service("web", &addresses, &endpoints_of(&[&server], 8080))?;
        Ok(Self {
            client: world.pod("client")?.peer()?,
            manifests,
            _serving: serving,
            world,
        })
    }

    fn node(&self) -> &Node {
        &self.world.nodes()[0]
    }

    /// An agent as the container runtime would start it: as root with these capabilities and no way to any other.
    fn agent_with(&self, capabilities: &[String]) -> Result<Agent> {
        let set: String = capabilities
            .iter()
            .map(|name| format!(",+{name}"))
            .collect();
        let set = format!("-all{set}");
        let arguments = ["--manifests".as_ref(), self.manifests.path().as_os_str()];
        let agent = Agent::command(self.node(), self.node().name(), &arguments)?;
        let mut command = Command::new("setpriv");
        command
            .arg("--no-new-privs")
            .args(["--bounding-set", &set, "--inh-caps", &set])
            .arg(agent.get_program())
            .args(agent.get_args());
        Agent::spawn_command(self.node(), command)
    }
}

/// The permitted capabilities of a process, as the kernel shows them: a bit for each, in hexadecimal.
fn permitted(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    Ok(u64::from_str_radix(mask.context("no CapPrm")?.trim(), 16)?)
}

#[test]
fn the_capabilities_of_the_manifest_are_enough() -> Result<()> {
    let stage = Stage::open()?;
    let granted = granted()?;
    let agent = stage.agent_with(&granted)?;
    agent.wait_until_synced()?;
    // setpriv has become the agent, and has kept nothing back.
    assert_eq!(permitted(agent.id())?.count_ones() as usize, granted.len());
    for _ in 0..5 {
        let outcome = stage.client.connect((WEB, 80))?;
        assert_eq!(
            outcome.answered_by.as_deref(),
            Some("server"),
            "{outcome:?}"
        );
        assert_eq!(outcome.peer, Some((WEB, 80).into()));
    }
    assert_eq!(
        agent.metric(r#"weir_verdicts_total{verdict="translate"}"#)?,
        5.0
    );
    let refused = stage.client.connect((WEB, 81))?;
    assert_eq!(refused.errno(), Some("ECONNREFUSED"), "{refused:?}");
    // The pods' interfaces are found and served, though their processes have more rights than the agent.
    agent.wait_until("both pods are served", |agent| {
        let pods = &agent.status()?["pods"];
        assert_eq!(pods["failures"], Json::Array(Vec::new()));
        Ok(pods["interfaces"]
            .as_array()
            .is_some_and(|served| served.len() == 2))
    })?;

    // What it left is taken over with no more than that.
    agent.kill();
    let successor = stage.agent_with(&granted)?;
    successor.wait_until_synced()?;
    assert!(
        successor.log().contains("how=Replaced"),
        "{}",
        successor.log()
    );
    assert!(stage.client.connect((WEB, 80))?.ok());
    assert_eq!(
        successor.metric(r#"weir_verdicts_total{verdict="translate"}"#)?,
        6.0
    );
    stage.manifests.endpoints("web", &[])?;
    successor.wait_until("the change is programmed", |_| {
        Ok(stage.client.connect((WEB, 80))?.errno() == Some("ECONNREFUSED"))
    })?;
    successor.terminate()
}

#[test]
fn each_capability_of_the_manifest_is_needed_and_a_missing_one_is_named() -> Result<()> {
    let stage = Stage::open()?;
    let granted = granted()?;
    for missing in &granted {
        let rest: Vec<String> = granted
            .iter()
            .filter(|name| *name != missing)
            .cloned()
            .collect();
        let mut agent = stage.agent_with(&rest)?;
        match &**missing {
            "net_admin" => ends_saying(&mut agent, "this process lacks CAP_NET_ADMIN;")?,
            "sys_admin" => ends_saying(&mut agent, "this process lacks CAP_BPF and CAP_PERFMON;")?,
            // Without, whatever happens at sockets still works.
            "sys_ptrace" => {
                agent.wait_until("the pods cannot be looked at", |agent| {
                    let failures = agent.status()?["pods"]["failures"].to_string();
                    Ok(failures.contains("this process lacks CAP_SYS_PTRACE;"))
                })?;
                agent.wait_until_synced()?;
                assert!(stage.client.connect((WEB, 80))?.ok());
                agent.kill();
            }
            _ => panic!("what is {missing} for?"),
        }
        agent::cleanup(stage.node())?;
        fs::remove_file(stage.node().run_directory().join("agent.log"))?;
    }
    Ok(())
}

fn ends_saying(agent: &mut Agent, what: &str) -> Result<()> {
    let status = agent.wait()?;
    let log = agent.log();
    assert!(!status.success(), "it does without: {log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(what), "not the last word: {log}");
    Ok(())
}
