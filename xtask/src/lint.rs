//! `lint`: formatting, clippy on both sides of the kernel border, the direction of dependencies.

use anyhow::{Context as _, bail};

use crate::{
    command::{cargo, command, output, run, step},
    setup::{self, Purpose, Report},
    toolchain::{Toolchain, in_path},
};

/// A package, the features it is looked at with, and what must never be below it.
const BORDERS: [(&str, &[&str]); 4] = [
    // On the node: no cluster, no runtime, no kernel access in what decides.
    (
        "weir-core",
        &[
            "aya",
            "axum",
            "hyper",
            "kube",
            "rustix",
            "tokio",
            "weir",
            "weir-world",
        ],
    ),
    ("weir-abi", &["aya", "weir-core", "weir"]),
    ("weir-world", &["kube", "weir", "weir-core"]),
    ("weir", &["weir-tests", "xtask"]),
];

type Check = fn() -> anyhow::Result<()>;

/// Sets up and makes every check.
///
/// # Errors
/// When a check fails; the others are made all the same.
pub(crate) fn lint() -> anyhow::Result<()> {
    setup::ensure(Purpose::Lint, Report::WhenMissing)?;
    let checks: [(&str, Check); 5] = [
        ("rustfmt", rustfmt),
        ("gofmt", gofmt),
        ("dependencies run one way", borders),
        ("clippy of the kernel side", clippy_kernel),
        ("clippy of user space", clippy_user),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = step(name, check) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn rustfmt() -> anyhow::Result<()> {
    run(&mut cargo(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")
}

fn gofmt() -> anyhow::Result<()> {
    if in_path("gofmt").is_none() {
        eprintln!("skipped: there is no Go here");
        return Ok(());
    }
    let differing = output(&mut command("gofmt", ["-l", "tests/control-plane"]))?;
    if !differing.is_empty() {
        bail!("run `gofmt -w` on:\n{differing}");
    }
    Ok(())
}

fn borders() -> anyhow::Result<()> {
    for (package, forbidden) in BORDERS {
        let tree = output(&mut cargo([
            "tree",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ]))?;
        let found = tree
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .find(|name| forbidden.contains(name));
        if let Some(found) = found {
            bail!(
                "{package} must not depend on {found}: dependencies run one way (see the design)"
            );
        }
    }
    Ok(())
}

fn clippy_user() -> anyhow::Result<()> {
    run(&mut cargo([
        "clippy",
        "--workspace",
        "--exclude",
        "weir-ebpf",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// With the compiler, target and flags that build it, so it sees the very code that the kernel gets.
fn clippy_kernel() -> anyhow::Result<()> {
    let compiler = Toolchain::find().context("no eBPF compiler")?;
    let mut clippy = command(
        "rustup",
        [
            "run",
            &compiler.name,
            "cargo",
            "clippy",
            "--keep-going",
            "--package",
            "weir-ebpf",
        ],
    );
    clippy.args([
        "--release",
        "-Z",
        "build-std=core",
        "--target",
        "bpfel-unknown-none",
    ]);
    clippy.args([
        "--target-dir",
        "target/kernel-clippy",
        "--",
        "--deny",
        "warnings",
    ]);
    clippy.env("RUSTC_BOOTSTRAP", "1");
    clippy.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    );
    run(&mut clippy)
}
