//! Removing worlds: one's own at its end, and what killed owners left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cgroup;
use crate::error::{Doing, Result};
use crate::mounts::{cgroup2, unmount_if_mounted};
use crate::name::WorldName;
use crate::netns::{self, NetNs};

/// Run directories of worlds.
pub(crate) const RUN: &str = "/run/weir-world";

/// What exists of a world: its network namespaces, its cgroup, its run directory. Empty once the world is dropped.
///
/// # Errors
/// No cgroup v2 hierarchy is mounted.
pub fn leftovers(world: &WorldName) -> Result<Vec<PathBuf>> {
    Ok(everything()?
        .into_iter()
        .filter(|(name, _)| name == world)
        .map(|(_, path)| path)
        .collect())
}

/// Removes every world whose owner has ended without removing it, and says which.
///
/// # Errors
/// The first thing that could not be removed; the rest has been tried.
pub fn sweep() -> Result<Vec<WorldName>> {
    let dead: BTreeSet<WorldName> = everything()?
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !name.owner_alive())
        .collect();
    let failure = dead.iter().filter_map(|name| destroy(name).err()).next();
    match failure {
        // Two processes may sweep at once: what counts is that it is gone.
        Some(error) if everything()?.iter().any(|(name, _)| dead.contains(name)) => Err(error),
        _ => Ok(dead.into_iter().collect()),
    }
}

/// Ends a world's processes and removes all it has outside of its namespaces.
pub(crate) fn destroy(world: &WorldName) -> Result<()> {
    let name = world.to_string();
    // Each step is tried whatever became of the one before it.
    let cgroups = cgroup2().and_then(|root| cgroup::remove(&root.join(&name)));
    let namespaces = entries(Path::new(netns::DIRECTORY)).map(|names| {
        names
            .into_iter()
            .filter(|name| WorldName::of(name).as_ref() == Some(world))
            .for_each(|name| NetNs::named(name).forget());
    });
    let run = remove_run_directory(&Path::new(RUN).join(&name));
    cgroups.and(namespaces).and(run)
}

fn remove_run_directory(directory: &Path) -> Result<()> {
    for node in entries(directory)? {
        unmount_if_mounted(&bpffs_of(&directory.join(node)));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Where a node's BPF file system is mounted, in its run directory.
pub(crate) fn bpffs_of(node_run_directory: &Path) -> PathBuf {
    node_run_directory.join("bpf")
}

fn everything() -> Result<Vec<(WorldName, PathBuf)>> {
    let places = [
        PathBuf::from(netns::DIRECTORY),
        cgroup2()?,
        PathBuf::from(RUN),
    ];
    let mut found = Vec::new();
    for place in places {
        for name in entries(&place)? {
            if let Some(world) = WorldName::of(&name) {
                found.push((world, place.join(name)));
            }
        }
    }
    Ok(found)
}

/// Names in a directory; a directory that is not there has none.
fn entries(directory: &Path) -> Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).doing(|| format!("read {}", directory.display())),
    }
}
