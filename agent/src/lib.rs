//! The agent: sources of cluster state, the kernel's tables, hooks, and what people read and type.

pub mod api;
pub mod attach;
pub mod bpf;
pub mod bpffs;
mod capabilities;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod dataplane;
pub mod demo;
pub mod health;
pub mod healthcheck;
pub mod http;
pub mod log;
mod masquerade;
pub mod metrics;
mod netfilter;
mod netlink;
pub mod node;
pub mod pods;
pub mod redirect;
pub mod run;
pub mod sockets;
pub mod source;
pub mod sync;
