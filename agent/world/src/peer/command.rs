//! Which program is started as a peer.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process;

use crate::error::{Error, Result};

/// The program that a world starts as its peers: one that calls [`super::main`].
#[derive(Clone, Debug)]
pub struct PeerCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl PeerCommand {
    /// This program, without arguments.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The running program itself, with this subcommand.
    ///
    /// # Errors
    /// Its own path cannot be read.
    pub fn current_exe(subcommand: impl Into<OsString>) -> Result<Self> {
        // Survives that the program's file is replaced while it runs.
        let program = PathBuf::from(format!("/proc/{}/exe", process::id()));
        std::fs::metadata(&program).map_err(|source| Error::Io {
            doing: "find the running program".to_owned(),
            source,
        })?;
        Ok(Self::new(program).arg(subcommand))
    }

    pub(crate) fn command(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}
