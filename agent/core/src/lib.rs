//! Weir's decisions, as pure functions and plain data: Kubernetes objects in, kernel table operations out.
//!
//! Data runs one way: [`model`] reduces API objects to compact own types and is where every validation error is born;
//! [`state`] holds them, indexed, and tells what a change touches; [`select`] decides which endpoints receive traffic;
//! [`compile`] turns a service into the table entries it should have, with [`settings`] and [`maglev`] having a say; [`plan`] orders the operations that lead from
//! the programmed tables to the desired ones, so that no connection ever sees a service half-written.
//!
//! Nothing in this crate reads a clock, a file or a socket.

pub mod backend;
pub mod compile;
mod endpoints;
pub mod maglev;
pub mod model;
pub mod plan;
mod pool;
pub mod select;
pub mod settings;
pub mod state;
