//! `bench`: measures the optimised agent.

use std::process::Command;

use anyhow::Context as _;

use crate::{
    command::{become_it, cargo_build, step},
    setup::{self, Purpose, Report},
};

/// Sets up, builds and becomes the bench harness of `weir-tests`.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    setup::ensure(Purpose::Bench, Report::WhenMissing)?;
    let built = step("build the agent and the benches", || {
        cargo_build(&["--release", "--bin", "weir", "--bin", "bench"])
    })?;
    let path = |target| {
        let executable = built.iter().find(|built| built.target == target);
        executable
            .map(|executable| executable.path.clone())
            .with_context(|| format!("cargo has built no `{target}`"))
    };
    become_it(
        Command::new(path("bench")?)
            .args(arguments)
            .env("WEIR_BIN", path("weir")?),
    )
}
