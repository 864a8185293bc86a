//! What the programs are told of the node: the one element of `CONFIG`, which several parts of the agent write.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::MapData;
use weir_abi::{NodeConfig, table::CONFIG};

use super::{Error, mapping::Mapping};

/// The node's configuration in the kernel. Clones write the same.
#[derive(Clone)]
pub struct Config {
    element: Arc<Mutex<Mapping<NodeConfig>>>,
}

impl Config {
    /// Maps the pinned `CONFIG`.
    ///
    /// # Errors
    /// When it is of another shape.
    pub fn new(map: &MapData) -> Result<Self, Error> {
        let mapping = Mapping::new(map.fd(), 1).map_err(|source| Error::Mapping {
            map: CONFIG,
            source,
        })?;
        Ok(Self {
            element: Arc::new(Mutex::new(mapping)),
        })
    }

    /// What it says now.
    ///
    /// # Errors
    /// When the map has no element, which is a bug.
    pub fn read(&self) -> Result<NodeConfig, Error> {
        let element = self.element.lock().unwrap_or_else(PoisonError::into_inner);
        element.read(0).ok_or(NO_ELEMENT)
    }

    /// Changes some of it. Programs see fields change one after the other; those that stay the same are never seen torn.
    ///
    /// # Errors
    /// When the map has no element, which is a bug.
    pub fn update(&self, change: impl FnOnce(&mut NodeConfig)) -> Result<(), Error> {
        let mut element = self.element.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = element.read(0).ok_or(NO_ELEMENT)?;
        change(&mut config);
        if element.write(0, config) {
            Ok(())
        } else {
            Err(NO_ELEMENT)
        }
    }

    /// Says that what flows remember may be out of date. To be called after the tables have changed.
    ///
    /// # Errors
    /// As [`Config::update`].
    pub fn next_epoch(&self) -> Result<(), Error> {
        self.update(|config| config.epoch = config.epoch.wrapping_add(1))
    }
}

const NO_ELEMENT: Error = Error::OutOfRange {
    map: CONFIG,
    index: 0,
};
