//! From cluster state to the table entries there should be.

mod services;

pub use services::{BackendAddr, DesiredPort, DesiredService, Frontend, service};
