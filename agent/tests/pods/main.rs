//! Pods found, followed and served in worlds. Needs root; every test has a world of its own and may run beside any other.

mod devices;
mod finding;
mod following;
mod restarting;
mod stage;
