//! Stories of one node: real agents, real sockets, every family, client and wiring.

mod changes;
mod restarts;
mod seeing;
mod shop;
mod traffic;
