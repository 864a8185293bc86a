//! Where the programs are attached: the hook table, and links that outlive the agent.

mod cgroup;
mod hooks;
mod socket;

pub use cgroup::{CgroupRoot, find_cgroup_root};
pub use hooks::{HOOKS, Hook, markdown_table};
pub use socket::{Attached, How, attach_socket_hooks};
