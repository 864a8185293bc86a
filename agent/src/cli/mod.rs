//! The command line: `weir run | check | status | services | cleanup | demo`.

mod check;
mod cleanup;
pub mod kube_proxy;
mod migrate;
mod output;
pub mod run;
mod services;
mod status;
mod table;
pub mod values;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use output::Format;

/// Weir balances the Service traffic of a Kubernetes node with eBPF, in place of kube-proxy.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent until it is told to end (SIGTERM); what it programmed stays and keeps working
    Run(Box<run::Options>),
    /// Tell what this kernel and machine offer, what is missing, and what that costs
    #[command(after_help = check::AFTER_HELP)]
    Check(check::Options),
    /// Show how the agent on this node is doing
    #[command(after_help = status::AFTER_HELP)]
    Status(status::Options),
    /// Show the services this node balances, their endpoints and their connections
    #[command(after_help = services::AFTER_HELP)]
    Services(services::Options),
    /// Detach and remove everything Weir ever left on this node; the agent must be stopped
    Cleanup(cleanup::Options),
    /// Show Weir at work on a node made of namespaces: no cluster is needed, and nothing stays behind
    Demo {
        /// Leave everything up at the end, to play with, until interrupted
        #[arg(long)]
        keep: bool,
    },
    /// A pod's process in the demo
    #[command(hide = true)]
    DemoPeer,
}

/// How to find the agent.
#[derive(Clone, Debug, Args)]
pub struct AgentOptions {
    /// The agent's socket
    #[arg(long, value_name = "PATH", env = "WEIR_API_SOCKET", default_value = crate::api::DEFAULT_SOCKET)]
    pub api_socket: PathBuf,
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        // Of the command line it explains, and it has an exit status of its own.
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => error.exit(),
            Err(error) => return fail(&error),
        },
    };
    let result = match cli.command {
        Command::Run(options) => run::run(*options),
        Command::Check(options) => check::check(&options),
        Command::Status(options) => return status::status(&options),
        Command::Services(options) => services::services(&options),
        Command::Cleanup(options) => cleanup::cleanup(&options),
        Command::Demo { keep } => crate::demo::demo(keep).map(|()| ExitCode::SUCCESS),
        Command::DemoPeer => return weir_world::peer::main(),
    };
    match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Parses a command line. A configuration file of kube-proxy's gives the options of `run` their defaults.
///
/// # Errors
/// A [`clap::Error`] of the command line, or what is wrong with the file.
pub fn parse<T: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = T> + Clone,
) -> anyhow::Result<Cli> {
    let mut cli = Cli::try_parse_from(arguments.clone())?;
    if let Command::Run(options) = &cli.command
        && let Some(path) = &options.config
    {
        let file = kube_proxy::read(path)?;
        let command =
            Cli::command().mut_subcommand("run", |run| kube_proxy::with_defaults(run, &file));
        cli = Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
        if let Command::Run(options) = &mut cli.command {
            options.kube_proxy.fields = file.foreign;
        }
    }
    Ok(cli)
}

/// Says what went wrong and why, down to the first cause.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("weir: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests;
