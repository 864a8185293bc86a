//! Compiles the kernel side (`agent-ebpf`) to `OUT_DIR/datapath`, for the agent to embed.

use std::{env, path::Path};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error:#}");
    }
}

fn build() -> anyhow::Result<()> {
    for path in [
        "build.rs",
        "../xtask/src/toolchain.rs",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["RUSTUP_HOME", "CARGO_HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }

    let (Some(compiler), Some(linker)) = (toolchain::Toolchain::find(), toolchain::bpf_linker())
    else {
        bail!("the eBPF toolchain is missing; run `cargo xtask setup`");
    };
    for path in [compiler.dir.join("bin/rustc"), linker] {
        println!("cargo:rerun-if-changed={}", path.display());
    }

    // `core` for the BPF target is built from source (`-Z build-std`), which a stable compiler refuses otherwise.
    // Quiet: cargo would repeat every "Compiling" line as a warning. Errors and warnings still come through.
    for (variable, value) in [("RUSTC_BOOTSTRAP", "1"), ("CARGO_TERM_QUIET", "true")] {
        // SAFETY: this process has one thread; the variables are for the cargo that aya-build starts.
        unsafe { env::set_var(variable, value) };
    }

    let agent = env::var("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let root = Path::new(&agent)
        .parent()
        .context("the agent is in a workspace")?;
    let kernel_side = root.join("agent-ebpf");
    let package = Package {
        name: "weir-ebpf",
        root_dir: kernel_side
            .to_str()
            .context("the path of the workspace is not UTF-8")?,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&compiler.name))
        .context("building the eBPF objects failed")
}
