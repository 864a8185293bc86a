//! `demo`: Weir at work in a world of its own.

use std::process::Command;

use crate::{
    build,
    command::become_it,
    setup::{self, Purpose, Report},
};

/// Sets up, builds and becomes `weir demo`.
pub(crate) fn demo(arguments: &[String]) -> anyhow::Result<()> {
    setup::ensure(Purpose::Demo, Report::WhenMissing)?;
    let weir = build::agent(false)?;
    become_it(Command::new(weir).arg("demo").args(arguments))
}
