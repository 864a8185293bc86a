//! External IPs that the cluster's operator may switch off.

use std::ffi::OsStr;

use anyhow::{Result, ensure};
use weir_tests::{
    agent::{Agent, peer_command},
    manifests::{Manifests, endpoints_of, service},
};
use weir_world::{PodSpec, World};

#[test]
fn switched_off_they_are_not_served() -> Result<()> {
    let world = World::builder(peer_command()?)
        .pods(["server", "client"].map(PodSpec::new))
        .build()?;
    let (node, server) = (&world.nodes()[0], world.pod("server")?);
    let serving = server.peer()?;
    serving.echo(8080)?;
    let manifests = Manifests::new(node.run_directory())?;
    let mut object = service("web", &["10.96.0.80", "fd00:10:96::80"]);
    object["spec"]["externalIPs"] = serde_json::json!(["198.51.100.80", "2001:db8:200::80"]);
    manifests.apply("web", &object)?;
    manifests.endpoints("web", &endpoints_of(&[&server], 8080))?;
    let directory = manifests.path().as_os_str();
    let agent = |served: &str| -> Result<Agent> {
        let served = OsStr::new(served);
        let arguments = [
            "--manifests".as_ref(),
            directory,
            "--external-ips".as_ref(),
            served,
        ];
        let agent = Agent::spawn(node, &arguments)?;
        agent.wait_until_synced()?;
        Ok(agent)
    };
    let client = world.pod("client")?.peer()?;
    for served in ["true", "false", "true"] {
        let agent = agent(served)?;
        for ip in ["198.51.100.80", "2001:db8:200::80"] {
            let outcome = client.connect((ip.parse::<std::net::IpAddr>()?, 80))?;
            ensure!(outcome.ok().to_string() == served, "{served}: {outcome:?}");
        }
        ensure!(
            client
                .connect((std::net::Ipv4Addr::new(10, 96, 0, 80), 80))?
                .ok()
        );
        agent.terminate()?;
    }
    Ok(())
}
