//! `build`: the agent, with its eBPF objects inside.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::{
    command::{cargo_build, step},
    setup::{self, Purpose, Report},
};

/// Sets up and builds.
pub(crate) fn build(release: bool) -> anyhow::Result<()> {
    setup::ensure(Purpose::Build, Report::WhenMissing)?;
    let path = agent(release)?;
    println!("{}", path.display());
    Ok(())
}

/// Builds the agent and returns the binary's path.
///
/// No package is named: of the same packages, dependencies have the same features, so that
/// nothing is compiled once for `build`, again for `bench` and again for `test`.
pub(crate) fn agent(release: bool) -> anyhow::Result<PathBuf> {
    let mut arguments = vec!["--bin", "weir"];
    if release {
        arguments.push("--release");
    }
    step("build the agent", || cargo_build(&arguments))?
        .into_iter()
        .find(|built| built.target == "weir")
        .map(|built| built.path)
        .context("cargo has built no `weir`")
}
