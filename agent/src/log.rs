//! The agent's log: one line per event on standard error, as text or JSON.
//!
//! Libraries that speak `log` (aya-log, which brings the eBPF programs' messages, among them) come out here too.

use std::{fmt, io, str::FromStr};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer, filter::ParseError, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    util::TryInitError,
};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// What is logged: a level (`info`), or levels by module (`info,weir::source=debug`), as tracing's `EnvFilter` reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level(String);

/// kube's watcher logs every failure that the agent explains better; only who names it hears it.
const QUIET: &str = "kube_runtime=off";

impl Level {
    fn filter(&self) -> Result<EnvFilter, ParseError> {
        EnvFilter::builder().parse(format!("{QUIET},{}", self.0))
    }
}

impl FromStr for Level {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let level = Self(text.to_owned());
        level.filter()?;
        Ok(level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level does not parse.
    #[error("--log-level: {0}")]
    Level(#[from] ParseError),
    /// Something else already receives this process's events.
    #[error("the log was already set up: {0}")]
    Installed(#[from] TryInitError),
}

/// Sends the process's events to standard error from now on.
///
/// # Errors
/// When it is called twice.
pub fn init(format: Format, level: &Level) -> Result<(), LogError> {
    tracing_subscriber::registry()
        .with(layer(format, ansi(), io::stderr).with_filter(level.filter()?))
        .try_init()?;
    Ok(())
}

/// Colours are for terminals, and for those who want them (no-color.org).
fn ansi() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn layer<S, W>(format: Format, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        Format::Text => layer.with_ansi(ansi).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let level: Level = level.parse().unwrap();
        let subscriber = tracing_subscriber::registry().with(
            layer(format, false, move || writer.clone()).with_filter(level.filter().unwrap()),
        );
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(service = "shop/cart", "programmed");
            tracing::debug!("a detail");
            tracing::warn!(target: "kube_runtime::watcher", "watch list error");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_are_objects_with_the_events_fields_at_the_top() {
        let text = logged(Format::Json, "info");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["message"], "programmed");
        assert_eq!(lines[0]["service"], "shop/cart");
    }

    #[test]
    fn text_lines_name_level_module_and_fields() {
        let text = logged(Format::Text, "info");
        assert!(text.contains("INFO weir::log"), "{text}");
        assert!(text.contains("programmed service=\"shop/cart\""), "{text}");
    }

    #[test]
    fn a_level_can_be_given_by_module() {
        assert!(logged(Format::Text, "warn,weir::log=debug").contains("a detail"));
        assert!(!logged(Format::Text, "debug,weir::log=warn").contains("programmed"));
    }

    #[test]
    fn the_watcher_is_heard_only_when_it_is_named() {
        assert!(!logged(Format::Text, "debug").contains("watch list error"));
        assert!(logged(Format::Text, "info,kube_runtime=warn").contains("watch list error"));
    }

    #[test]
    fn a_level_that_means_nothing_is_refused() {
        assert!("loud=very".parse::<Level>().is_err());
    }
}
