//! kube-proxy's command line and configuration file, so that Weir runs where kube-proxy ran with the arguments it had.
//!
//! What means the same is taken: flags of the same name are options of [`super::run::Options`], and a file (`--config`) gives
//! options their defaults, so that flags and variables win. Everything else that kube-proxy 1.36 knows is accepted and named
//! in one warning, with what becomes of it. A flag that kube-proxy does not know either is an error.

mod file;
mod flags;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

pub(super) use file::File;

/// A setting of kube-proxy's that was made and that Weir does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The flag, or the field of the file.
    pub name: String,
    /// What becomes of it.
    pub outcome: &'static str,
}

/// Those of kube-proxy's settings that were made and that Weir does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Flags.
    pub flags: Vec<Foreign>,
    /// Fields of the configuration file.
    pub fields: Vec<Foreign>,
    /// `--init-only`: to do what takes privileges and to end, which for Weir is nothing.
    pub init_only: bool,
}

impl Ignored {
    /// One warning for everything, if there is anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let all: Vec<String> = self
            .flags
            .iter()
            .chain(&self.fields)
            .map(|foreign| format!("{} ({})", foreign.name, foreign.outcome))
            .collect();
        (!all.is_empty()).then(|| {
            format!(
                "of kube-proxy's settings these have no effect in Weir: {}",
                all.join("; ")
            )
        })
    }
}

impl Args for Ignored {
    fn augment_args(command: Command) -> Command {
        command.args(flags::FLAGS.iter().map(|flag| {
            let mut arg = Arg::new(flag.name).long(flag.name).hide(true);
            arg = arg.help("Accepted as kube-proxy's; has no effect");
            if flag.name == "v" {
                arg = arg.short('v');
            }
            if flag.is_switch {
                // As Go has it: `--flag`, `--flag=true`, never `--flag true`.
                arg = arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true");
            } else {
                arg = arg.num_args(1).allow_hyphen_values(true);
            }
            arg.action(ArgAction::Append)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Ignored {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_set = |flag: &&flags::Flag| {
            let given = matches.value_source(flag.name) == Some(ValueSource::CommandLine);
            let off = || {
                let last = matches
                    .get_many::<String>(flag.name)
                    .and_then(Iterator::last);
                flag.is_switch && last.is_some_and(|value| value == "false")
            };
            given && !off()
        };
        let set: Vec<_> = flags::FLAGS.iter().filter(is_set).collect();
        Ok(Self {
            init_only: set.iter().any(|flag| flag.name == "init-only"),
            flags: set
                .iter()
                .map(|flag| Foreign {
                    name: format!("--{}", flag.name),
                    outcome: flag.outcome,
                })
                .collect(),
            fields: Vec::new(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Gives the options of `run` the file's values for defaults.
pub(super) fn with_defaults(mut run: Command, file: &File) -> Command {
    for (id, values) in &file.defaults {
        run = run.mut_arg(id, |arg| {
            let arg = arg.hide_default_value(true);
            arg.default_values(values)
        });
    }
    run
}

/// Reads a KubeProxyConfiguration.
///
/// # Errors
/// When it cannot be read, or is none.
pub(super) fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read kube-proxy's configuration {} (--config)",
            path.display()
        )
    })?;
    File::parse(&text).with_context(|| {
        format!(
            "{} (--config) is not a configuration of kube-proxy's",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests;
