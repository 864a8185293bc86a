//! `weir cleanup`, for people.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{AgentOptions, Format, run::DEFAULT_BPFFS};
use crate::cleanup::Removed;

/// What to clean, and how to tell.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The bpf file system that `weir run` was given
    #[arg(long, value_name = "DIR", env = "WEIR_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    #[command(flatten)]
    agent: AgentOptions,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub(super) fn cleanup(options: &Options) -> anyhow::Result<ExitCode> {
    remove(&options.bpffs, &options.agent.api_socket, options.output)
}

/// Cleans and tells.
pub(super) fn remove(bpffs: &Path, api_socket: &Path, output: Format) -> anyhow::Result<ExitCode> {
    let removed = crate::cleanup::cleanup(bpffs, api_socket)?;
    output.print(&removed, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(removed: &Removed) -> String {
    if removed.is_empty() {
        return "nothing of Weir was found; nothing was removed\n".into();
    }
    let mut text = String::new();
    for (what, paths) in [
        ("detached", &removed.links),
        ("removed table", &removed.maps),
        ("removed", &removed.files),
    ] {
        for path in paths {
            text += &format!("{what} {}\n", path.display());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_removed_is_named() {
        let removed = Removed {
            links: vec!["/b/weir/v1/links/connect4".into()],
            maps: vec!["/b/weir/v1/maps/SLOTS".into()],
            files: vec!["/b/weir".into()],
        };
        assert_eq!(
            text(&removed),
            "detached /b/weir/v1/links/connect4\nremoved table /b/weir/v1/maps/SLOTS\nremoved /b/weir\n"
        );
        assert!(text(&Removed::default()).contains("nothing was removed"));
    }
}
