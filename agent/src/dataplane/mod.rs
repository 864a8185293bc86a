//! The kernel tables behind a trait: one implementation writes the kernel's maps, the other one memory, and fails where
//! a test tells it to.

mod batch;
mod config;
mod grace;
mod kernel;
mod mapping;
mod memory;
mod object;
mod pins;
mod resize;

use std::io;

use aya::maps::MapError;
use thiserror::Error;
use weir_core::plan::{Capacity, Op, Snapshot};

pub use config::Config;
pub use grace::GracePeriod;
pub use kernel::{Counters, Kernel};
pub use memory::Memory;
pub use object::{Object, PINNED_MAPS};
pub use resize::Sizes;

/// Tables that a plan's operations can be applied to.
pub trait Dataplane: Send {
    /// How much fits.
    fn capacity(&self) -> Capacity;

    /// What the tables hold now.
    ///
    /// # Errors
    /// When they cannot be read.
    fn snapshot(&mut self) -> Result<Snapshot, Error>;

    /// Applies one operation: wholly, or not at all.
    ///
    /// # Errors
    /// When the kernel refuses it. The tables are then as the operations before left them, which is whole.
    fn apply(&mut self, op: &Op) -> Result<(), Error>;

    /// Waits until no program still uses what it read before the call.
    fn grace_period(&mut self);

    /// The same without waiting, where that is possible.
    fn begin_grace_period(&mut self) -> GracePeriod {
        self.grace_period();
        GracePeriod::over()
    }
}

/// Why a table could not be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel refused an operation on the map.
    #[error("map {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The map could not be mapped into memory.
    #[error("map {map} cannot be mapped into memory: {source}")]
    Mapping {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The plan names an element that the table does not have: a bug in the plan.
    #[error("map {map} has no element {index}")]
    OutOfRange {
        /// The map's name.
        map: &'static str,
        /// The element's index.
        index: u64,
    },
    /// A test told us to fail.
    #[error("injected fault")]
    Injected,
}
