//! `setup`: what a machine needs to build, test and show Weir. Looks with a few file checks, so it
//! costs nothing when everything is there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::bail;
use clap::ValueEnum;

use crate::{
    command::{command, run, shown, step},
    toolchain::{LINKED, LINKER, Toolchain, bpf_linker, has_library_source, in_path, rustup_home},
};

/// Debian 12's newest compiler, with the source of its own library.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// What bpf-linker is built from: the LLVM of that compiler, and the libraries LLVM names.
const DEBIAN_LLVM: [&str; 5] = [
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];
const DEBIAN_LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";

/// The verb to set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    All,
    Build,
    Test,
    Lint,
    Demo,
    Bench,
}

impl Purpose {
    fn is(self, purposes: &[Self]) -> bool {
        self == Self::All || purposes.contains(&self)
    }
}

/// Whether to speak when nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Always,
    WhenMissing,
}

/// Everything that is missing, and the way to get it.
#[derive(Default)]
struct Plan {
    /// What is missing and why it is needed, for people.
    reasons: Vec<(String, &'static str)>,
    /// Debian packages.
    packages: Vec<&'static str>,
    /// To run after the packages are installed.
    commands: Vec<Command>,
    /// What only a person can do.
    by_hand: Vec<String>,
}

/// Installs what `purpose` needs and is missing.
///
/// # Errors
/// When an installation fails, or has to be done by hand; the message says how.
pub(crate) fn ensure(purpose: Purpose, report: Report) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    if !root && [Purpose::Test, Purpose::Demo, Purpose::Bench].contains(&purpose) {
        bail!("this makes network namespaces and loads eBPF programs: run it as root");
    }
    let plan = plan(purpose);
    if plan.reasons.is_empty() {
        if report == Report::Always {
            eprintln!("nothing to install: everything is there");
        }
    } else {
        install(plan, root)?;
    }
    if root && purpose.is(&[Purpose::Test, Purpose::Demo, Purpose::Bench]) {
        mount_bpffs();
    }
    Ok(())
}

fn plan(purpose: Purpose) -> Plan {
    let mut plan = Plan::default();
    plan_ebpf(&mut plan, purpose);
    if purpose.is(&[Purpose::Lint]) {
        plan_components(&mut plan);
    }
    if purpose.is(&[Purpose::Test, Purpose::Demo, Purpose::Bench]) {
        plan.program("ip", "iproute2", "makes the worlds of network namespaces");
    }
    if purpose.is(&[Purpose::Test, Purpose::Bench]) {
        plan.program(
            "nsenter",
            "util-linux",
            "runs programs inside a network namespace",
        );
        plan.program(
            "nft",
            "nftables",
            "kube-proxy, which tests compare with and benches measure",
        );
        plan.program(
            "iptables",
            "iptables",
            "kube-proxy, which tests compare with and benches measure",
        );
    }
    if purpose.is(&[Purpose::Test, Purpose::Bench]) && in_path("go").is_none() {
        plan.reasons.push((
            "go".into(),
            "builds the real Kubernetes control plane of tests and benches",
        ));
        plan.by_hand
            .push("install Go 1.26 or newer: https://go.dev/dl".into());
    }
    plan
}

/// The compiler and the linker of the kernel side.
fn plan_ebpf(plan: &mut Plan, purpose: Purpose) {
    if in_path("rustup").is_none() {
        plan.reasons
            .push(("rustup".into(), "chooses the compiler of the eBPF programs"));
        plan.by_hand
            .push("install rustup: https://rustup.rs".into());
    }
    let used = match Toolchain::find() {
        Some(compiler) if bpf_linker().is_some() => compiler,
        compiler if is_debian_12() => plan_debian(plan, compiler.as_ref()),
        _ => {
            plan.reasons.push((
                format!("a nightly Rust with rust-src, and {LINKER}"),
                "compile the eBPF programs, which the kernel runs",
            ));
            plan.by_hand.extend([
                "rustup toolchain install nightly --component rust-src --component clippy".into(),
                format!("cargo install {LINKER}"),
            ]);
            return;
        }
    };
    if purpose.is(&[Purpose::Lint]) && !used.dir.join("bin/clippy-driver").is_file() {
        plan.reasons.push((
            "clippy of the eBPF compiler".into(),
            "checks the kernel side",
        ));
        if used
            .dir
            .canonicalize()
            .is_ok_and(|dir| dir == Path::new("/usr"))
        {
            plan.packages.push("rust-web-clippy");
        } else {
            plan.commands.push(command(
                "rustup",
                ["component", "add", "clippy", "--toolchain", &used.name],
            ));
        }
    }
}

/// Plans what is missing of Debian's own compiler and of a linker built for it. Returns the compiler.
fn plan_debian(plan: &mut Plan, present: Option<&Toolchain>) -> Toolchain {
    let debian = Toolchain {
        name: LINKED.into(),
        dir: "/usr".into(),
    };
    if !has_library_source(&debian.dir) {
        plan.reasons.push((
            "eBPF compiler".into(),
            "a Rust compiler with the source of `core`, to build it for the kernel's target",
        ));
        plan.packages.extend(DEBIAN_COMPILER);
    }
    if present.is_none_or(|toolchain| toolchain.name != LINKED) {
        plan.reasons.push((
            format!("toolchain {LINKED}"),
            "the name by which rustup runs that compiler",
        ));
        plan.commands
            .push(command("rustup", ["toolchain", "link", LINKED, "/usr"]));
    }
    if bpf_linker().is_none() {
        plan.reasons
            .push((LINKER.into(), "links Rust's output into an eBPF object"));
        plan.packages.extend(DEBIAN_LLVM);
        plan.commands.push(build_linker());
    }
    debian
}

fn build_linker() -> Command {
    let mut install = command(
        "cargo",
        ["install", LINKER, "--version", LINKER_VERSION, "--locked"],
    );
    install.args(["--no-default-features", "--features", "llvm-22"]);
    install.env("LLVM_PREFIX", DEBIAN_LLVM_PREFIX);
    let mut path = vec![PathBuf::from(DEBIAN_LLVM_PREFIX).join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    if let Ok(path) = env::join_paths(path) {
        install.env("PATH", path);
    }
    install
}

/// rustfmt and clippy of the toolchain that runs us.
fn plan_components(plan: &mut Plan) {
    let bin = match (rustup_home(), env::var_os("RUSTUP_TOOLCHAIN")) {
        (Some(home), Some(toolchain)) => home.join("toolchains").join(toolchain).join("bin"),
        _ => return,
    };
    for (component, program) in [("rustfmt", "rustfmt"), ("clippy", "clippy-driver")] {
        if !bin.join(program).is_file() {
            plan.reasons.push((component.into(), "checks the sources"));
            plan.commands
                .push(command("rustup", ["component", "add", component]));
        }
    }
}

impl Plan {
    fn program(&mut self, program: &str, package: &'static str, why: &'static str) {
        if in_path(program).is_none() {
            self.reasons.push((program.into(), why));
            self.packages.push(package);
        }
    }
}

fn install(plan: Plan, root: bool) -> anyhow::Result<()> {
    eprintln!("missing on this machine:");
    for (what, why) in &plan.reasons {
        eprintln!("  {what}: {why}");
    }
    let mut commands = Vec::new();
    let with_apt = in_path("apt-get").is_some();
    if !plan.packages.is_empty() && with_apt {
        let wait = ["-o", "DPkg::Lock::Timeout=300"];
        commands.push(command("apt-get", ["update"].iter().chain(&wait)));
        let mut install = command(
            "apt-get",
            ["install", "--quiet", "--yes", "--no-install-recommends"],
        );
        install
            .args(wait)
            .args(&plan.packages)
            .env("DEBIAN_FRONTEND", "noninteractive");
        commands.push(install);
    }
    let needs_root = !commands.is_empty() && !root;
    commands.extend(plan.commands);

    let mut by_hand = plan.by_hand;
    if !plan.packages.is_empty() && !with_apt {
        by_hand.push(format!("install the packages {}", plan.packages.join(" ")));
    }
    if needs_root || !by_hand.is_empty() {
        by_hand.extend(commands.iter().map(shown));
        let who = if needs_root {
            " (apt-get needs root)"
        } else {
            ""
        };
        bail!(
            "install it{who}, then try again:\n  {}",
            by_hand.join("\n  ")
        );
    }
    for mut command in commands {
        let name = shown(&command);
        step(&name, || run(&mut command))?;
    }
    Ok(())
}

/// The Debian whose packages are named above.
fn is_debian_12() -> bool {
    let Ok(release) = fs::read_to_string("/etc/os-release") else {
        return false;
    };
    let has = |line| release.lines().any(|found| found == line);
    has("ID=debian") && has("VERSION_ID=\"12\"")
}

/// Pinned maps and links live in bpffs; every distribution mounts it at boot, but containers do not.
fn mount_bpffs() {
    const MAGIC: i64 = 0xcafe_4a11;
    let path = "/sys/fs/bpf";
    if rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == MAGIC) {
        return;
    }
    eprintln!("mounting bpffs at {path}: pinned eBPF maps live there");
    if let Err(error) = run(&mut command("mount", ["-t", "bpf", "bpf", path])) {
        eprintln!("warning: {error:#}");
    }
}
