//! `bench`: measures the optimised agent.

use crate::{
    build,
    command::{become_it, cargo},
    setup::{self, Purpose, Report},
};

/// Sets up, builds and becomes the bench harness of `weir-tests`.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    setup::ensure(Purpose::Bench, Report::WhenMissing)?;
    let weir = build::agent(true)?;
    let mut harness = cargo([
        "run",
        "--release",
        "--package",
        "weir-tests",
        "--bin",
        "bench",
        "--",
    ]);
    become_it(harness.args(arguments).env("WEIR_BIN", weir))
}
