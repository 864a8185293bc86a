//! `cargo xtask bench`: what Weir costs, as ratios of things measured in the same run.
//!
//! Absolute times on shared machines are noise; so whatever is compared stands side by side, rounds are interleaved, and
//! each round gives one ratio. What is printed is the median of these with their least and greatest.

mod control;
mod ratio;
mod services;
mod traffic;

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
        [] | ["services"] => services::bench(&services::Options::default()),
        ["services", "--quick"] => services::bench(&services::Options::quick()),
        // A process of its own, so that its memory is its own.
        ["first-sync", services, endpoints] => {
            control::first_sync_child(services.parse()?, endpoints.parse()?)
        }
        _ => bail!("usage: cargo xtask bench services [--quick]"),
    }
}
