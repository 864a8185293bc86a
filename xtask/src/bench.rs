//! `bench`: measures the optimised agent, beside the real kube-proxy.

use std::process::Command;

use anyhow::Context as _;

use crate::{
    command::{become_it, cargo_build, root, step},
    control_plane,
    setup::{self, Purpose, Report},
};

/// Sets up, builds and becomes the bench harness of `weir-tests`.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    setup::ensure(Purpose::Bench, Report::WhenMissing)?;
    let kubernetes = step("build the control plane", || control_plane::build(root()))?;
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
            .env("WEIR_BIN", path("weir")?)
            .env("WEIR_CONTROL_PLANE", kubernetes),
    )
}
