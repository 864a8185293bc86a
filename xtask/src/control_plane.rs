//! Builds the control plane that the tests run: upstream Kubernetes, from its published Go modules.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

#[path = "../../tests/control-plane/cache.rs"]
mod cache;

/// How often a build without a terminal says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(20);

/// The packages in which a Kubernetes binary keeps its own version.
const VERSION_PACKAGES: [&str; 2] = [
    "k8s.io/component-base/version",
    "k8s.io/client-go/pkg/version",
];

/// Builds the multi-call binary of `tests/control-plane` below `root`, the repository, unless it is
/// there already, and returns its path. Tests find it by that path in `WEIR_CONTROL_PLANE`.
///
/// # Errors
/// When Go is missing, the modules cannot be fetched, or the build fails; the message ends with what
/// Go said.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let module = root.join(cache::MODULE);
    let go_release = go_release(&module)?;
    let hash =
        cache::source_hash(root).with_context(|| format!("cannot read {}", module.display()))?;
    let home = cache::directory(root).join(format!("{hash}-{go_release}"));
    let binary = home.join(cache::BINARY);
    if binary.exists() {
        return Ok(binary);
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;

    // Whoever comes second waits here and then finds the work done. The lock goes with its holder.
    let lock =
        fs::File::create(home.join("lock")).context("cannot create the build's lock file")?;
    lock.lock()
        .context("cannot lock the control plane's build")?;
    if binary.exists() {
        return Ok(binary);
    }

    let version = kubernetes_version(&module)?;
    eprintln!(
        "Building Kubernetes {version}'s control plane: the tests run the agent against the real one.\n\
         Once only, kept in {}. It takes about six minutes on two cores, or one if Go has built it before.",
        home.display()
    );
    let partial = home.join("kube.partial");
    compile(&module, &version, &partial)?;
    fs::rename(&partial, &binary)
        .with_context(|| format!("cannot move {} into place", partial.display()))?;
    remove_others(&home);
    Ok(binary)
}

/// The Go release that is going to build the module, for example `go1.26.8`.
fn go_release(module: &Path) -> Result<String> {
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .current_dir(module)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run `go`: the tests' control plane is built from Go modules; `cargo xtask setup` installs Go")?;
    if !output.status.success() {
        bail!("`go env GOVERSION` failed in {}", module.display());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The release of k8s.io/kubernetes that go.mod asks for, for example `v1.36.3`.
fn kubernetes_version(module: &Path) -> Result<String> {
    let file = module.join("go.mod");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .map(|version| version.trim().to_owned())
        .next()
        .with_context(|| format!("{} requires no k8s.io/kubernetes", file.display()))
}

fn linker_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let mut flags = String::from("-s -w");
    for package in VERSION_PACKAGES {
        flags += &format!(
            " -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        );
    }
    flags
}

fn compile(module: &Path, version: &str, output: &Path) -> Result<()> {
    let packages = Command::new("go")
        .args(["list", "-deps", "."])
        .env("CGO_ENABLED", "0")
        .current_dir(module)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run `go list`")?;
    if !packages.status.success() {
        bail!(
            "`go list -deps` failed in {}: are the Go modules reachable?",
            module.display()
        );
    }
    let total = packages
        .stdout
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count();

    let mut child = Command::new("nice")
        .args([
            "go",
            "build",
            "-v",
            "-trimpath",
            "-mod=readonly",
            "-buildvcs=false",
            "-ldflags",
        ])
        .arg(linker_flags(version))
        .arg("-o")
        .arg(output)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .current_dir(module)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `go build`")?;
    let mut progress = Progress::new(total);
    let mut last_lines = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.context("cannot read what `go build` says")?;
            progress.compiled_one();
            if last_lines.len() == 20 {
                last_lines.pop_front();
            }
            last_lines.push_back(line);
        }
    }
    let status = child.wait().context("cannot wait for `go build`")?;
    progress.end();
    if !status.success() {
        let said: Vec<String> = last_lines.into();
        bail!(
            "`go build` failed in {} ({status}):\n{}",
            module.display(),
            said.join("\n")
        );
    }
    Ok(())
}

/// Tells how far the build is: `go build -v` names each package that it compiles.
struct Progress {
    start: Instant,
    reported: Instant,
    compiled: usize,
    total: usize,
    terminal: bool,
}

impl Progress {
    fn new(total: usize) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            reported: now,
            compiled: 0,
            total,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn compiled_one(&mut self) {
        self.compiled += 1;
        if self.terminal {
            eprint!("\r{}", self.line());
            let _ = std::io::stderr().flush();
        } else if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            eprintln!("{}", self.line());
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r");
        }
        eprintln!("{}", self.line());
    }

    fn line(&self) -> String {
        format!(
            "  {} of at most {} packages, {} s",
            self.compiled,
            self.total,
            self.start.elapsed().as_secs()
        )
    }
}

/// Removes binaries of earlier sources: 150 MB each. One that still runs keeps its file until it ends.
fn remove_others(home: &Path) {
    let Some(parent) = home.parent() else { return };
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != home)
    {
        match fs::remove_dir_all(&path) {
            Ok(()) => eprintln!("  removed {}, built from other sources", path.display()),
            Err(error) => eprintln!("  cannot remove {}: {error}", path.display()),
        }
    }
}
