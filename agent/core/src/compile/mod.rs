//! From cluster state to the table entries there should be.

mod frontends;
mod health;
mod services;
mod source_ranges;
#[cfg(test)]
mod testing;

pub use crate::backend::BackendAddr;
pub use health::{HealthCheck, HealthChecks, health_check};
pub use services::{DesiredPort, DesiredService, Frontend, service};
pub use source_ranges::SourceRange;
