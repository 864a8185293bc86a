//! The cgroups of this node's pods, as the kubelet names them, and a watch that tells when they change.
//!
//! Names are those of `pkg/kubelet/cm` in Kubernetes: with the cgroupfs driver `kubepods/[burstable|besteffort/]pod<uid>`, with
//! systemd's `kubepods.slice/kubepods-[burstable|besteffort]-pod<uid>.slice`, where the dashes of the UID are underscores. A
//! kubelet with `--cgroup-root` has all of it further down, and systemd then names the slices after those above.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tracing::warn;

/// How far below the node's root the kubelet's own root is looked for.
const ROOT_DEPTH: usize = 3;
/// How far below the kubelet's root pods are looked for: below a quality of service class at most.
const POD_DEPTH: usize = 2;
/// Tells whether a cgroup has processes, and is a file that can be watched (`Documentation/admin-guide/cgroup-v2.rst`).
const EVENTS: &str = "cgroup.events";

/// The cgroups of each pod, by its UID. One, unless the node's cgroup driver was changed.
pub(super) type Cgroups = BTreeMap<Arc<str>, Vec<PathBuf>>;

/// A walk over the pods' cgroups that can be waited on.
pub(super) struct Watch {
    root: PathBuf,
    kubepods: Vec<PathBuf>,
    inotify: OwnedFd,
    /// Whether the kernel has refused a watch: said once.
    refused: bool,
}

impl Watch {
    /// Watches below the cgroup `root` of this node.
    ///
    /// # Errors
    /// When the kernel gives out no more inotify instances.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.to_path_buf(),
            kubepods: Vec::new(),
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            refused: false,
        })
    }

    /// Forgets where the kubelet's root is, so that the next walk looks for it.
    pub(super) fn look_again(&mut self) {
        self.kubepods.clear();
    }

    /// All pods' cgroups. Whatever changes after this was called is told by the descriptor, as directories are watched before
    /// they are read.
    ///
    /// # Errors
    /// When a directory that is there cannot be read: nothing is known of its pods then.
    pub(super) fn walk(&mut self) -> io::Result<Cgroups> {
        if self.kubepods.is_empty() {
            let root = self.root.clone();
            self.watch(&root, DIRECTORIES);
            let mut roots = Vec::new();
            find_roots(&root, ROOT_DEPTH, &mut roots)?;
            self.kubepods = roots;
        }
        let mut found = Cgroups::new();
        for root in self.kubepods.clone() {
            self.walk_below(&root, POD_DEPTH, &mut found)?;
        }
        Ok(found)
    }

    fn walk_below(
        &mut self,
        directory: &Path,
        depth: usize,
        found: &mut Cgroups,
    ) -> io::Result<()> {
        self.watch(directory, DIRECTORIES);
        for (name, path) in subdirectories(directory)? {
            if let Some(uid) = pod_uid(&name) {
                self.watch(&path.join(EVENTS), WatchFlags::MODIFY);
                found.entry(uid.into()).or_default().push(path);
            } else if depth > 1 {
                self.walk_below(&path, depth - 1, found)?;
            }
        }
        Ok(())
    }

    /// Watching twice is watching once; a watch goes with what it watches.
    fn watch(&mut self, path: &Path, what: WatchFlags) {
        match inotify::add_watch(&self.inotify, path, what) {
            Err(rustix::io::Errno::NOSPC) if !self.refused => {
                self.refused = true;
                warn!(
                    "the kernel gives out no more inotify watches: new pods are noticed late; raise \
                     fs.inotify.max_user_watches"
                );
            }
            // Gone since it was listed, or said before.
            _ => {}
        }
    }

    /// Takes what the descriptor has to tell; whether it was anything.
    pub(super) fn drain(&mut self) -> bool {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut anything = false;
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) => anything = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return anything,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

const DIRECTORIES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ONLYDIR);

/// The kubelet's roots in and below a directory.
fn find_roots(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for (name, path) in subdirectories(directory)? {
        if is_root(&name) {
            found.push(path);
        } else if depth > 1 {
            find_roots(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// Names and paths of the directories in a directory; one that is gone has none.
fn subdirectories(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = match entry {
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            entry => entry?,
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// Whether an error says that a cgroup was removed, possibly while it was read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Whether this is the name of a kubelet's root cgroup of pods.
fn is_root(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The UID in the name of a pod's cgroup.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!uid.is_empty() && uid.bytes().all(fits)).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_read_from_the_names_of_both_drivers() {
        let uid = "8a7f1c1e-6f0f-4a51-9b7e-0d6a3c9e3f10";
        let slice = "8a7f1c1e_6f0f_4a51_9b7e_0d6a3c9e3f10";
        for name in [
            format!("pod{uid}"),
            format!("kubepods-pod{slice}.slice"),
            format!("kubepods-burstable-pod{slice}.slice"),
            format!("kubelet-kubepods-besteffort-pod{slice}.slice"),
        ] {
            assert_eq!(pod_uid(&name).as_deref(), Some(uid), "{name}");
        }
        // A static pod's is the hash of its manifest.
        let hash = "6a1b2c3d4e5f60718293a4b5c6d7e8f9";
        assert_eq!(pod_uid(&format!("pod{hash}")).as_deref(), Some(hash));
    }

    #[test]
    fn other_names_are_no_pods() {
        for name in [
            "burstable",
            "kubepods-besteffort.slice",
            "pod",
            "kubepods-pod.slice",
            "podman-1234.scope",
            "cri-containerd-0123.scope",
            "",
        ] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn the_root_is_found_wherever_the_kubelet_has_it() {
        for path in [
            "kubepods/besteffort/podu-1/c1",
            "kubepods.slice/kubepods-podu_1.slice/cri-containerd-c1.scope",
            "kubelet/kubepods/burstable/podu-1/c1",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podu_1.slice",
        ] {
            let root = tempfile::tempdir().expect("a directory");
            fs::create_dir_all(root.path().join(path)).expect("made");
            fs::create_dir_all(root.path().join("system.slice/podman.service")).expect("made");
            let mut watch = Watch::new(root.path()).expect("inotify");
            let uids: Vec<_> = watch.walk().expect("readable").into_keys().collect();
            assert_eq!(uids, ["u-1".into()], "{path}");
        }
    }

    #[test]
    fn a_pod_that_comes_after_the_walk_is_told() {
        let root = tempfile::tempdir().expect("a directory");
        let class = root.path().join("kubepods/besteffort");
        fs::create_dir_all(&class).expect("made");
        let mut watch = Watch::new(root.path()).expect("inotify");
        assert!(watch.walk().expect("readable").is_empty());
        assert!(!watch.drain());
        fs::create_dir(class.join("podu-2")).expect("made");
        assert!(watch.drain());
        assert_eq!(watch.walk().expect("readable").len(), 1);
        fs::remove_dir(class.join("podu-2")).expect("removed");
        assert!(watch.drain());
        assert!(watch.walk().expect("readable").is_empty());
    }
}
