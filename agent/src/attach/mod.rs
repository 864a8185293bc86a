//! Where the programs are attached: the hook table, and links that outlive the agent.

mod cgroup;
mod hooks;
mod replace;
mod socket;
mod tcx;

pub use cgroup::{CgroupRoot, find_cgroup_root};
pub use hooks::{HOOKS, Hook, INTERFACE_HOOKS, markdown_table};
pub use replace::Replacements;
pub use socket::{Attached, How, attach_socket_hooks};
pub use tcx::{InterfaceHook, is_gone};
