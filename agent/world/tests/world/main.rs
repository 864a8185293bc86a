//! Worlds as their users see them. Needs root; every test has worlds of its own and may run beside any other.

mod cgroups;
mod lifecycle;
mod paths;
mod peers;
mod pods;

use weir_world::{PeerCommand, PodSpec, World, WorldBuilder};

/// A world whose peers are this crate's own program.
fn world() -> WorldBuilder {
    World::builder(PeerCommand::new(env!("CARGO_BIN_EXE_weir-peer")))
}

/// One node with the pods `client` and `server`.
fn small() -> WorldBuilder {
    world()
        .pod(PodSpec::new("client"))
        .pod(PodSpec::new("server"))
}
