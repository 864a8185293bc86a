//! `-o text|json`.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

/// How a subcommand prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON value, complete
    Json,
}

impl Format {
    /// Prints `value`, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that has seen enough (`weir services | head`) is no error.
    pub fn print<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let output = match self {
            Self::Text => text(value),
            Self::Json => serde_json::to_string_pretty(value)? + "\n",
        };
        match io::stdout().lock().write_all(output.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Asks the agent, on this thread.
pub(super) fn ask<T>(
    question: impl AsyncFnOnce() -> Result<T, crate::api::client::ClientError>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(question())?)
}
