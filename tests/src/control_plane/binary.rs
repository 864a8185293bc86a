//! Finds the multi-call binary that `cargo xtask build` made out of `tests/control-plane`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

#[path = "../../control-plane/cache.rs"]
mod cache;

/// Names the binary for tests that are not to look for it themselves.
const VARIABLE: &str = "WEIR_CONTROL_PLANE";

/// Path of the binary: `WEIR_CONTROL_PLANE`, else the one in the cache that was built from the sources
/// as they are now.
///
/// # Errors
/// When there is none; the message says how to build it.
pub(super) fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        if !path.is_file() {
            bail!("{VARIABLE} names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("weir-tests lies in no repository")?;
    let hash = cache::source_hash(root)
        .with_context(|| format!("cannot read {}", root.join(cache::MODULE).display()))?;
    let directory = cache::directory(root);
    let built = std::fs::read_dir(&directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&hash))
        .map(|entry| entry.path().join(cache::BINARY))
        .find(|path| path.is_file());
    built.with_context(|| {
        format!(
            "{} holds no control plane built from {} as it is now: run `cargo xtask build`",
            directory.display(),
            cache::MODULE,
        )
    })
}
