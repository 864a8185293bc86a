//! Worlds: nodes, pods and external clients made of network namespaces, veths and cgroups on one machine, with real peers in
//! them. The tests and `weir demo` run the agent against such a world; no cluster is needed.
//!
//! A [`World`] has nodes on a common network (`192.0.2.0/24`, `2001:db8::/64`), each with a range of pod addresses
//! (`10.244.<node>.0/24`, `fd00:10:244:<node>::/64`), a cgroup that stands for its root, and a BPF file system of its own.
//! Nothing is added to the machine's own network namespace. Dropping the world removes all of it; what a killed process left
//! is removed before the next world is built.
//!
//! Both the network namespace and the cgroup of a process matter to eBPF, so sockets are opened by [`Peer`]s: worker
//! processes in the pod's namespace and cgroup, steered over pipes.
//!
//! ```no_run
//! use weir_world::{PeerCommand, PodSpec, World};
//!
//! # fn main() -> weir_world::Result<()> {
//! let world = World::builder(PeerCommand::new("target/debug/weir-peer"))
//!     .pod(PodSpec::new("server"))
//!     .pod(PodSpec::new("client"))
//!     .build()?;
//! let server = world.pod("server")?;
//! let serving = server.peer()?;
//! serving.echo(80)?;
//! let outcome = world.pod("client")?.peer()?.connect((server.addresses().v4, 80))?;
//! assert_eq!(outcome.answered_by.as_deref(), Some("server"));
//! # Ok(())
//! # }
//! ```

mod address;
mod cgroup;
mod error;
mod ip;
mod mounts;
mod name;
mod netns;
pub mod peer;
mod place;
mod spawn;
mod spec;
mod sweep;
mod wiring;
mod world;

pub use address::Addresses;
pub use cgroup::{CgroupDriver, Qos};
pub use error::{Error, Result};
pub use mounts::cgroup2;
pub use name::WorldName;
pub use netns::{NetNs, in_netns};
pub use peer::{Peer, PeerCommand};
pub use place::Place;
pub use rustix::process::Signal;
pub use spawn::Process;
pub use spec::{PodSpec, WorldBuilder};
pub use sweep::{leftovers, sweep};
pub use wiring::Wiring;
pub use world::{Client, Node, Pod, World};
