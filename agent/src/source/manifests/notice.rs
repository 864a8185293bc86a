//! Learns from inotify that something in the directory changed, and when it has come to rest.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// No change for this long, and no file open for writing: time to read.
const REST: Duration = Duration::from_millis(50);
/// A file that somebody keeps open after writing to it is read anyway after this.
const OPEN_FILE: Duration = Duration::from_secs(1);
/// A directory that does not come to rest is read anyway after this.
const RESTLESS: Duration = Duration::from_secs(2);
/// Notices that wait; when there are more, one of them is enough.
const NOTICES: usize = 256;

/// One thing that inotify said.
pub(super) struct Notice {
    paths: Vec<PathBuf>,
    writing: bool,
}

/// The inotify watch of a directory.
pub(super) struct DirectoryWatch {
    directory: PathBuf,
    notices: (mpsc::Sender<Notice>, mpsc::Receiver<Notice>),
    /// The watcher, and the device and inode it looks at.
    watched: Option<(RecommendedWatcher, (u64, u64))>,
    complained: bool,
}

impl DirectoryWatch {
    /// Begins to watch, or leaves it to later calls of [`Self::renew`].
    pub(super) fn new(directory: PathBuf) -> Self {
        let mut watch = Self {
            directory,
            notices: mpsc::channel(NOTICES),
            watched: None,
            complained: false,
        };
        watch.renew();
        watch
    }

    /// Watches what is at the path now, if that is not the directory that is watched already.
    pub(super) fn renew(&mut self) {
        let Some(identity) = identity(&self.directory) else {
            self.watched = None;
            return;
        };
        if matches!(&self.watched, Some((_, watched)) if *watched == identity) {
            return;
        }
        self.watched = None;
        match watch(&self.directory, self.notices.0.clone()) {
            Ok(watcher) => {
                self.watched = Some((watcher, identity));
                self.complained = false;
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(
                    directory = %self.directory.display(), %error,
                    "cannot watch the directory of manifests: changes are found by scanning only, a few seconds later; if \
                     the system is out of inotify watches, raise fs.inotify.max_user_watches and max_user_instances"
                );
            }
            Err(_) => {}
        }
    }

    /// Waits for the next notice.
    pub(super) async fn notice(&mut self) -> Notice {
        match self.notices.1.recv().await {
            Some(notice) => notice,
            // Not reached: this structure holds a sender.
            None => std::future::pending().await,
        }
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn watch(directory: &Path, notices: mpsc::Sender<Notice>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let notice = match event {
            // Reading a file is an event too: this source would otherwise wake itself.
            Ok(event) if is_change(event.kind) => Notice {
                writing: matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))),
                paths: event.paths,
            },
            Ok(_) => return,
            // Whatever was missed, a scan finds it.
            Err(_) => Notice {
                paths: Vec::new(),
                writing: false,
            },
        };
        // When the channel is full, those before it lead to the same scan.
        let _ = notices.try_send(notice);
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// When the directory will have come to rest.
#[derive(Default)]
pub(super) struct Quiet {
    /// The first and the last change since the last scan.
    changes: Option<(Instant, Instant)>,
    /// Files that were written to and not closed, and since when.
    open: HashMap<PathBuf, Instant>,
}

impl Quiet {
    /// Takes in a notice.
    pub(super) fn note(&mut self, notice: &Notice) {
        let now = Instant::now();
        let first = self.changes.map_or(now, |(first, _)| first);
        self.changes = Some((first, now));
        for path in &notice.paths {
            if notice.writing {
                self.open.entry(path.clone()).or_insert(now);
            } else {
                self.open.remove(path);
            }
        }
    }

    /// Whether there were changes since the last scan.
    pub(super) fn is_waiting(&self) -> bool {
        self.changes.is_some()
    }

    /// The time to read; far away when nothing happened.
    pub(super) fn until(&self) -> Instant {
        let Some((first, last)) = self.changes else {
            return Instant::now() + Duration::from_secs(24 * 3600);
        };
        let rest = last + REST;
        let rest = match self.open.values().min() {
            Some(since) => rest.max(*since + OPEN_FILE),
            None => rest,
        };
        rest.min(first + RESTLESS)
    }
}
