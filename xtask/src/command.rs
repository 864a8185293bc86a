//! Running other programs, and saying so.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead as _, BufReader, IsTerminal as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The repository.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Does one step of a verb: says that it begins, and how long it took.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (bold, plain) = if std::io::stderr().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    eprintln!("{bold}==> {name}{plain}");
    let start = Instant::now();
    let result = work();
    let end = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!(
        "{bold}==> {name}: {end} in {}{plain}",
        seconds(start.elapsed())
    );
    result
}

/// A duration as people read it: `0.3 s`, `41 s`, `3 min 20 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{} s", time.as_secs()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// `program` with `arguments`, to run in the repository.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    // cargo tells xtask which package it is. Inherited by the next cargo, these make some build
    // scripts believe that their environment has changed, and run again.
    for (name, _) in env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"CARGO_PKG_") || bytes.starts_with(b"CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that started xtask, and so its toolchain.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    command(
        env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        arguments,
    )
}

/// Runs to the end, with our own output. Fails when the program does.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Becomes `command`, so that signals and the exit code are its own.
pub(crate) fn become_it(command: &mut Command) -> anyhow::Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", shown(command)))
}

/// An executable that cargo has built.
#[derive(Debug)]
pub(crate) struct Executable {
    pub(crate) path: PathBuf,
    /// Directory of its package, where cargo would run its tests.
    pub(crate) package_dir: PathBuf,
    /// Name of its package.
    pub(crate) package: String,
    /// Name of the target: of the library, binary or test file.
    pub(crate) target: String,
    /// Kind of the target: `lib`, `bin` or `test`.
    pub(crate) kind: String,
    /// Whether it is the target's test harness rather than the target itself.
    pub(crate) is_test: bool,
}

/// `cargo build` with `arguments`, its progress shown; returns the executables.
pub(crate) fn cargo_build(arguments: &[&str]) -> anyhow::Result<Vec<Executable>> {
    let mut command = cargo(["build", "--message-format=json-render-diagnostics"]);
    command.args(arguments).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", shown(&command)))?;
    let mut executables = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let message: Value = serde_json::from_str(&line?).context("cargo printed no JSON")?;
            executables.extend(executable(&message));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} failed ({status})", shown(&command));
    }
    Ok(executables)
}

fn executable(message: &Value) -> Option<Executable> {
    let path = message["executable"].as_str()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    // `path+file:///repository/agent#weir@0.1.0`, or without a name where the directory has the same.
    let id = message["package_id"].as_str()?;
    let (location, fragment) = id.rsplit_once('#')?;
    let package = fragment.split_once('@').map_or_else(
        || location.rsplit('/').next().unwrap_or(location),
        |(name, _)| name,
    );
    Some(Executable {
        path: path.into(),
        package_dir: manifest.parent()?.to_owned(),
        package: package.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
    })
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words: Vec<_> = [program]
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    format!("`{}`", words.join(" "))
}
