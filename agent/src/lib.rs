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
pub mod http;
pub mod log;
pub mod metrics;
pub mod node;
pub mod run;
pub mod source;
pub mod sync;
