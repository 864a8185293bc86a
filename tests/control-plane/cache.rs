//! Where the built control plane is kept: shared, as source, by `cargo xtask build`, which writes it,
//! and by the tests, which run it. The first half of a directory's name is a hash of everything in
//! this directory that goes into the binary, so that a stale one is never run by mistake; the second
//! is the Go release that built it.

use std::{
    hash::{DefaultHasher, Hasher},
    io,
    path::{Path, PathBuf},
};

/// The binary's file name.
pub(crate) const BINARY: &str = "kube";

/// The Go module, relative to the repository's root.
pub(crate) const MODULE: &str = "tests/control-plane";

/// The directory of all built binaries.
pub(crate) fn directory(root: &Path) -> PathBuf {
    root.join(".cache/control-plane")
}

/// Hash of the module's Go sources, `go.mod` and `go.sum`, as sixteen hexadecimal digits.
///
/// # Errors
/// When the module's directory or one of its files cannot be read.
pub(crate) fn source_hash(root: &Path) -> io::Result<String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join(MODULE))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| ["go", "mod", "sum"].iter().any(|kept| extension == *kept))
    });
    files.sort();
    // Its keys are fixed; should a Rust release change the algorithm, the binary is built once more.
    let mut hasher = DefaultHasher::new();
    for path in files {
        let content = std::fs::read(&path)?;
        hasher.write(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.write_usize(content.len());
        hasher.write(&content);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
