//! Worlds begin and end without a trace.

use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use weir_world::{PodSpec, Result, Wiring, leftovers, sweep};

use crate::{small, world};

#[test]
fn dropping_a_world_leaves_nothing() -> Result<()> {
    let built = small().nodes(2).client("outside").build()?;
    let name = built.name().clone();
    // Peers that outlive their world do not hold it up, nor do programs of other kinds.
    let peer = built.pod("server")?.peer()?;
    peer.echo(80)?;
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let mut sleep = built.node("node1")?.spawn(sleep)?;
    let (bpffs, run) = {
        let node = built.node("node1")?;
        (node.bpffs(), node.run_directory().to_owned())
    };
    fs::write(run.join("agent.yaml"), "{}").expect("the run directory can be written to");
    // Four namespaces of pods and nodes, the client's, the one that joins them, the cgroup, the run directory.
    assert_eq!(built.leftovers()?.len(), 8);

    drop(built);
    assert_eq!(leftovers(&name)?, Vec::<std::path::PathBuf>::new());
    assert!(!run.exists() && !bpffs.exists());
    assert!(peer.cpu_time().is_err());
    let status = sleep.wait_for(std::time::Duration::from_secs(5))?;
    assert!(status.is_some_and(|status| !status.success()));
    Ok(())
}

#[test]
fn a_panic_drops_its_world() {
    let mut name = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let built = small().build().expect("a world");
        name = Some(built.name().clone());
        let _peer = built
            .pod("server")
            .and_then(|pod| pod.peer())
            .expect("a peer");
        panic!("a test that fails, on purpose");
    }));
    assert!(panicked.is_err());
    let name = name.expect("the world was built");
    assert_eq!(
        leftovers(&name).expect("a list"),
        Vec::<std::path::PathBuf>::new()
    );
}

#[test]
fn a_world_that_cannot_be_built_leaves_nothing() -> Result<()> {
    let ours = || {
        let mine = format!("weirw-{}-", std::process::id());
        let names = fs::read_dir("/run/netns").expect("a directory");
        names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&mine) && name.ends_with("-pod-only-here"))
            .count()
    };
    let built = small()
        .pod(PodSpec::new("only-here"))
        .pod(PodSpec::new("lost").on("node7"))
        .build();
    assert!(built.is_err());
    assert_eq!(ours(), 0);
    let again = small().pod(PodSpec::new("only-here")).build()?;
    assert_eq!(ours(), 1);
    drop(again);
    Ok(())
}

/// A process that is killed with its handle.
struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        // Killing fails only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_owners_world_is_swept_by_the_next() -> Result<()> {
    let mut owner = Owner(
        Command::new(std::env::current_exe().expect("this test's own program"))
            .args([
                "--exact",
                "lifecycle::owner_to_be_killed",
                "--ignored",
                "--nocapture",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts again"),
    );
    let output = BufReader::new(owner.0.stdout.take().expect("a pipe"));
    let said = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("OWNED ").map(|(_, said)| said.to_owned()))
        .expect("the owner says what it owns");
    let (world_name, peer) = said.split_once(' ').expect("a name and a pid");
    let netns = Path::new("/run/netns").join(format!("{world_name}-pod-server"));
    let cgroup = weir_world::cgroup2()?.join(world_name);
    let run = Path::new("/run/weir-world").join(world_name);
    for path in [&netns, &cgroup, &run] {
        assert!(path.exists(), "{path:?}");
    }

    drop(owner);
    let next = small().build()?;
    for path in [&netns, &cgroup, &run] {
        assert!(!path.exists(), "{path:?}");
    }
    // Whoever inherits it may not have waited for it yet: then it is a zombie.
    let state = fs::read_to_string(format!("/proc/{peer}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(") ")
                .map(|(_, rest)| rest.starts_with('Z'))
        });
    assert_ne!(state, Some(false), "its peer lives on");
    drop(next);
    Ok(())
}

#[test]
#[ignore = "started, and killed, by a_killed_owners_world_is_swept_by_the_next"]
fn owner_to_be_killed() {
    let built = small().nodes(2).build().expect("a world");
    let peer = built
        .pod("server")
        .and_then(|pod| pod.peer())
        .expect("a peer");
    println!("\nOWNED {} {}", built.name(), peer.id());
    // Longer than whoever is to kill it takes, shorter than for ever.
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn worlds_stand_side_by_side() -> Result<()> {
    let (routed, bridged) = (small().build()?, small().wiring(Wiring::Bridged).build()?);
    assert_ne!(routed.name(), bridged.name());
    // The same addresses, and yet each reaches its own.
    let (here, there) = (routed.pod("server")?, bridged.pod("server")?);
    assert_eq!(here.addresses(), there.addresses());
    let (here_peer, there_peer) = (here.peer()?, there.peer()?);
    here_peer.echo_as("here", 80)?;
    there_peer.echo_as("there", 80)?;
    for (world, name) in [(&routed, "here"), (&bridged, "there")] {
        let client = world.pod("client")?.peer()?;
        let outcome = client.connect((here.addresses().v4, 80))?;
        assert_eq!(outcome.answered_by.as_deref(), Some(name));
    }
    // A living owner's worlds are nobody's leftovers.
    assert!(!sweep()?.contains(routed.name()));
    drop(routed);
    let client = bridged.pod("client")?.peer()?;
    assert!(client.connect((there.addresses().v4, 80))?.ok());
    Ok(())
}

#[test]
fn each_node_has_a_bpf_file_system_of_its_own() -> Result<()> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let built = world().nodes(2).build()?;
    let [one, two] = [built.nodes()[0].bpffs(), built.nodes()[1].bpffs()];
    for path in [&one, &two] {
        let kind = rustix::fs::statfs(path).expect("it is mounted").f_type;
        assert_eq!(u64::try_from(kind), Ok(BPF_FS_MAGIC), "{path:?}");
    }
    fs::create_dir(one.join("weir")).expect("a directory of pins");
    assert!(!two.join("weir").exists());
    Ok(())
}
