//! `cargo xtask bench`: what Weir costs, as ratios of things measured in the same run.
//!
//! Absolute times on shared machines are noise; so whatever is compared stands side by side, rounds are interleaved, and
//! each round gives one ratio. What is printed is the median of these, and the quarters around it.

mod contender;
mod control;
mod lists;
mod objects;
mod plot;
mod ratio;
mod report;
mod rounds;
mod rows;
mod services;
mod site;
mod standing;
mod usage;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match bench(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] => services::bench(&services::Options::default()),
        ["services", "again"] => services::again(),
        ["services", arguments @ ..] => services::bench(&services::Options::parse(arguments)?),
        ["engine"] => control::bench(&[10, 1_000, 10_000, 50_000], 3),
        // A process of its own, so that its memory is its own.
        ["first-sync", services, endpoints] => {
            control::first_sync_child(services.parse()?, endpoints.parse()?)
        }
        ["control"] => lists::bench(&[10, 1_000, 10_000], 3),
        ["control", "--quick"] => lists::bench(&[10, 1_000], 1),
        ["control-child", kubeconfig, bpffs] => lists::child(kubeconfig, bpffs),
        _ => bail!(
            "usage: {}\n       cargo xtask bench services again\n       cargo xtask bench control [--quick]\n       \
             cargo xtask bench engine",
            services::USAGE
        ),
    }
}
