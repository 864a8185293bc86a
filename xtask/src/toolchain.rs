//! Finds what compiles the kernel side.
//!
//! `agent/build.rs` includes this file too, so that set-up and build agree on the answer.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The rustup toolchain that `cargo xtask setup` links when there is no nightly with library source.
///
/// Linking it by hand (`rustup toolchain link weir-bpf DIR`) chooses the compiler of the kernel side.
pub(crate) const LINKED: &str = "weir-bpf";

/// The linker that rustc's BPF targets call.
pub(crate) const LINKER: &str = "bpf-linker";

/// A rustup toolchain that can build `core` for a BPF target.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// What `rustup run` calls it.
    pub(crate) name: String,
    /// Its root: `bin/` and `lib/rustlib/` are below.
    pub(crate) dir: PathBuf,
}

impl Toolchain {
    /// The linked toolchain if there is one, else the newest nightly that has rust-src.
    pub(crate) fn find() -> Option<Self> {
        let toolchains = rustup_home()?.join("toolchains");
        let mut nightlies: Vec<String> = fs::read_dir(&toolchains)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("nightly-"))
            .collect();
        // `nightly-<host>` sorts after every dated `nightly-2026-..`.
        nightlies.sort_unstable_by(|a, b| b.cmp(a));
        [LINKED.to_owned()]
            .into_iter()
            .chain(nightlies)
            .find_map(|name| {
                let dir = toolchains.join(&name);
                has_library_source(&dir).then_some(Self { name, dir })
            })
    }
}

/// Whether the toolchain at `dir` has a compiler and the source of its own `core`.
pub(crate) fn has_library_source(dir: &Path) -> bool {
    dir.join("bin/rustc").is_file()
        && dir
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .is_file()
}

/// The installed bpf-linker.
pub(crate) fn bpf_linker() -> Option<PathBuf> {
    // rustup puts this directory in front of PATH for whatever it runs.
    let cargo_bin = home("CARGO_HOME", ".cargo").map(|home| home.join("bin").join(LINKER));
    cargo_bin
        .filter(|path| path.is_file())
        .or_else(|| in_path(LINKER))
}

/// Where `program` is, if it is in PATH.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// rustup's directory of toolchains and settings.
pub(crate) fn rustup_home() -> Option<PathBuf> {
    home("RUSTUP_HOME", ".rustup")
}

fn home(variable: &str, default: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(default)))
}
