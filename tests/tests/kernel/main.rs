//! The kernel side by itself: real programs and tables, written operation by operation, without an agent.

mod balance;
mod hooks;
mod refuse;
mod resize;
mod stage;
mod tables;
