//! `test`: builds everything once, then runs the test binaries side by side.

mod runner;
mod totals;

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context as _, bail};

use crate::{
    command::{Executable, cargo, cargo_build, root, seconds, step},
    control_plane,
    setup::{self, Purpose, Report},
    toolchain::in_path,
};
use runner::Job;
use totals::Totals;

/// Sets up, builds and runs the tests. A filter selects test binaries, or else tests, by a part of their name.
///
/// # Errors
/// When the build or any test fails.
pub(crate) fn test(filters: &[String]) -> anyhow::Result<()> {
    setup::ensure(Purpose::Test, Report::WhenMissing)?;
    let (kubernetes, executables) = thread::scope(|scope| {
        let kubernetes =
            scope.spawn(|| step("build the control plane", || control_plane::build(root())));
        // The agent as well as the tests: they run it.
        let executables = step("build the agent and the tests", || {
            cargo_build(&["--bins", "--tests"])
        });
        (kubernetes.join(), executables)
    });
    let executables = executables?;
    let Ok(kubernetes) = kubernetes else {
        bail!("building the control plane panicked")
    };
    let kubernetes = kubernetes?;

    let agent = executables
        .iter()
        .find(|built| built.target == "weir" && !built.is_test);
    let agent = agent.context("cargo has built no `weir`")?.path.clone();
    let target_dir = agent
        .ancestors()
        .nth(2)
        .context("the agent is in no target directory")?;
    let path = search_path(&kubernetes, &target_dir.join("xtask/bin"))?;

    let mut jobs = jobs(executables, filters);
    jobs.extend(doc_tests(filters)?);
    for job in &mut jobs {
        job.command
            .env("WEIR_BIN", &agent)
            .env("WEIR_CONTROL_PLANE", &kubernetes);
        if let Some(path) = &path {
            job.command.env("PATH", path);
        }
    }
    let start = Instant::now();
    let totals = step("run the tests", || {
        runner::run(jobs, &target_dir.join("xtask/logs"))
    })?;
    report(&totals, start)
}

/// One job per test binary. The tests of whole worlds take longest, so they start first.
fn jobs(executables: Vec<Executable>, filters: &[String]) -> Vec<Job> {
    let mut tests: Vec<_> = executables
        .into_iter()
        .filter(|built| built.is_test)
        .collect();
    tests.sort_by_key(|built| {
        (
            built.package != "weir-tests",
            built.package != "weir",
            built.package.clone(),
        )
    });
    tests
        .into_iter()
        .map(|built| {
            // A package's library and binary may have one name.
            let kind = if built.kind == "bin" { "::bin" } else { "" };
            let name = format!("{}{kind}::{}", built.package, built.target);
            let mut job = Job::new(&name, built.path.into_os_string());
            job.command
                .current_dir(&built.package_dir)
                .env("CARGO_MANIFEST_DIR", &built.package_dir);
            if !filters.iter().any(|filter| name.contains(filter)) {
                job.command.args(filters);
            }
            job
        })
        .collect()
}

/// A job for the examples in the documentation, if there are any: rustdoc compiles and runs them.
fn doc_tests(filters: &[String]) -> anyhow::Result<Option<Job>> {
    for sources in [
        "agent/src",
        "agent/core/src",
        "agent/world/src",
        "agent-ebpf/abi/src",
        "tests/src",
    ] {
        if has_examples(&root().join(sources))? {
            // Of all packages, as everything else was built: of some, they would be built with other features.
            let mut command = cargo(["test", "--quiet", "--doc", "--no-fail-fast", "--"]);
            command.args(filters);
            return Ok(Some(Job {
                name: "documentation".into(),
                command,
            }));
        }
    }
    Ok(None)
}

fn has_examples(sources: &Path) -> anyhow::Result<bool> {
    for entry in
        fs::read_dir(sources).with_context(|| format!("cannot read {}", sources.display()))?
    {
        let path = entry?.path();
        let found = if path.is_dir() {
            has_examples(&path)?
        } else {
            fs::read_to_string(&path)?.lines().any(|line| {
                let line = line.trim_start();
                line.strip_prefix("///")
                    .or(line.strip_prefix("//!"))
                    .is_some_and(|text| text.trim() == "```")
            })
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The PATH for the tests where it differs from ours: with the control plane's kubectl, if the machine has none.
fn search_path(kubernetes: &Path, directory: &Path) -> anyhow::Result<Option<std::ffi::OsString>> {
    if in_path("kubectl").is_some() {
        return Ok(None);
    }
    fs::create_dir_all(directory)?;
    let link = directory.join("kubectl");
    if fs::read_link(&link).ok().as_deref() != Some(kubernetes) {
        let _ = fs::remove_file(&link);
        symlink(kubernetes, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    let mut path: Vec<PathBuf> = vec![directory.to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    Ok(Some(env::join_paths(path)?))
}

fn report(totals: &Totals, start: Instant) -> anyhow::Result<()> {
    let Totals {
        passed,
        failed,
        ignored,
        filtered,
    } = totals;
    let word = if *failed == 0 { "ok" } else { "FAILED" };
    println!();
    println!(
        "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
         {filtered} filtered out; finished in {}",
        seconds(start.elapsed())
    );
    println!("{passed} passed, {failed} failed");
    if *failed > 0 {
        bail!("{failed} failed");
    }
    if *passed == 0 {
        bail!("no test ran: the filter matches none");
    }
    Ok(())
}
