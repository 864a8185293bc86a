//! Weir's development verbs: `cargo xtask VERB`. Each verb is a file.

mod bench;
mod build;
mod command;
mod control_plane;
mod demo;
mod lint;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use setup::Purpose;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Sets up, builds, tests, checks and shows Weir"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing, and say what and why. Every other verb does this for itself
    Setup {
        /// Only what this verb needs
        #[arg(value_enum, default_value_t = Purpose::All)]
        purpose: Purpose,
    },
    /// Build the agent, with its eBPF objects inside
    Build {
        /// Optimised, as it is shipped
        #[arg(long)]
        release: bool,
    },
    /// Run every test: of the crates, on worlds of network namespaces, against a real control plane
    Test {
        /// Only the test binaries, or else the tests, whose name contains one of these
        filters: Vec<String>,
    },
    /// Check formatting, clippy on both sides of the kernel border, and the direction of dependencies
    Lint,
    /// Show Weir at work in a small world of its own: no cluster needed
    Demo {
        /// Given to `weir demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure, for example `cargo xtask bench services`
    Bench {
        /// Given to the bench harness: the bench's name and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Setup { purpose } => setup::ensure(purpose, setup::Report::Always),
        Verb::Build { release } => build::build(release),
        Verb::Test { filters } => test::test(&filters),
        Verb::Lint => lint::lint(),
        Verb::Demo { arguments } => demo::demo(&arguments),
        Verb::Bench { arguments } => bench::bench(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
