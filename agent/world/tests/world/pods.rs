//! Pods that come and go.

use std::thread;
use std::time::Duration;

use weir_world::peer::Exchange;
use weir_world::{PodSpec, Result, Wiring};

use crate::{small, world};

const PORT: u16 = 8080;

#[test]
fn an_address_is_reused_by_the_next_pod() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let world = small().wiring(wiring).build()?;
        let client = world.pod("client")?.peer()?;
        let first = world.pod("server")?;
        let address = first.addresses();
        let serving = first.peer()?;
        serving.echo(PORT)?;
        let outcome = client.connect((address.v4, PORT))?;
        assert_eq!(outcome.answered_by.as_deref(), Some("server"));

        world.remove_pod("server")?;
        assert!(world.pod("server").is_err());
        assert!(!first.pod_cgroup().exists());
        assert!(first.netns().inode().is_err());
        assert!(
            serving.connect((address.v4, PORT)).is_err(),
            "its processes live on"
        );
        let soon = Exchange::tcp((address.v4, PORT)).timeout(Duration::from_millis(100));
        assert!(!client.exchange(soon)?.ok());

        let second = world.add_pod(PodSpec::new("other").host(first.host_number()))?;
        assert_eq!(second.addresses(), address);
        assert_ne!(second.uid(), first.uid());
        let serving = second.peer()?;
        serving.echo(PORT)?;
        for address in address.both() {
            let outcome = client.connect((address, PORT))?;
            assert_eq!(
                outcome.answered_by.as_deref(),
                Some("other"),
                "{wiring:?} {address}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_namespace_can_go_under_the_feet_of_its_processes() -> Result<()> {
    let world = small().build()?;
    let server = world.pod("server")?;
    let serving = server.peer()?;
    serving.echo(PORT)?;
    let veth = server.host_veth();
    assert_eq!(server.node().ifindex(veth)?, server.host_ifindex());

    server.delete_netns()?;
    assert!(server.node().ifindex(veth).is_err());
    assert!(serving.cpu_time().is_ok(), "its processes live on");
    let outcome = world
        .pod("client")?
        .peer()?
        .connect((server.addresses().v4, PORT))?;
    assert_eq!(outcome.errno(), Some("EHOSTUNREACH"));
    world.remove_pod("server")
}

#[test]
fn names_addresses_and_nodes_are_checked_before_anything_is_added() -> Result<()> {
    let world = small().build()?;
    let refused = |pod: PodSpec| {
        let before = world.pods().len();
        let error = world
            .add_pods([PodSpec::new("fine"), pod])
            .expect_err("it is to be refused");
        assert_eq!(world.pods().len(), before);
        error.to_string()
    };
    assert!(refused(PodSpec::new("client")).contains("two pods named \"client\""));
    assert!(refused(PodSpec::new("fine")).contains("two pods named \"fine\""));
    assert!(refused(PodSpec::new("x").host(2)).contains("host part 2"));
    assert!(refused(PodSpec::new("x").host(1)).contains("host part 1"));
    assert!(refused(PodSpec::new("x").on("node9")).contains("no node named \"node9\""));
    assert!(refused(PodSpec::new("../x")).contains("is no name"));
    let fine = world.add_pod(PodSpec::new("fine"))?;
    assert_eq!(
        fine.host_number(),
        4,
        "what was refused has taken no address"
    );
    Ok(())
}

#[test]
fn pods_are_added_from_several_threads() -> Result<()> {
    let world = world().build()?;
    thread::scope(|scope| {
        let add = |name: String| world.add_pod(PodSpec::new(name)).map(drop);
        let threads: Vec<_> = (0..4)
            .map(|number| scope.spawn(move || add(format!("pod-{number}"))))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let pods = world.pods();
    let addresses: std::collections::BTreeSet<_> =
        pods.iter().map(|pod| pod.addresses().v4).collect();
    assert_eq!((pods.len(), addresses.len()), (4, 4));
    Ok(())
}
