//! The objects in a directory of manifests: `*.yaml`, `*.yml` and `*.json`, each with any number of documents.
//!
//! The directory is watched by inotify; a change is read about 50 ms after the last write to it. A scan every few seconds
//! finds what inotify cannot see: files that are links to elsewhere, a directory that is replaced as a whole, network file
//! systems. Files may be written in place, renamed into place, or swapped together by a symbolic link as a ConfigMap
//! volume does it. Subdirectories and names that begin with a dot are not read.

mod documents;
mod notice;
mod object;
mod scan;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use self::notice::{DirectoryWatch, Quiet};
use self::scan::Directory;
use self::store::Store;
use super::{Event, Subject};

/// Where the manifests are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory.
    pub directory: PathBuf,
    /// How often to look for what inotify did not tell.
    pub rescan: Duration,
}

impl Options {
    /// The default time between scans.
    pub const RESCAN: Duration = Duration::from_secs(5);

    /// A directory, scanned every [`Self::RESCAN`].
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            rescan: Self::RESCAN,
        }
    }
}

/// Why there are no manifests at all.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No such directory, or not readable.
    #[error(
        "the directory of manifests {directory} cannot be read: {source}: create it, or give --kubeconfig FILE to follow an \
         API server instead"
    )]
    Unreadable {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// A directory of manifests, ready to be followed.
pub struct Source {
    options: Options,
}

impl Source {
    /// Checks that the directory is there, so that a wrong path is found at once.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        match std::fs::read_dir(&options.directory) {
            Ok(_) => Ok(Self { options }),
            Err(source) => Err(OpenError::Unreadable {
                directory: options.directory,
                source,
            }),
        }
    }

    /// Sends events until the receiver is dropped. Dropping the future ends the watch.
    pub async fn run(self, events: mpsc::Sender<Event>) {
        let Options { directory, rescan } = self.options;
        let mut watch = DirectoryWatch::new(directory.clone());
        let mut quiet = Quiet::default();
        let mut tick = interval(rescan.max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reader = Some(Reader {
            directory: Directory::new(directory),
            store: Store::default(),
            failed: None,
        });
        loop {
            tokio::select! {
                () = events.closed() => return,
                notice = watch.notice() => {
                    quiet.note(&notice);
                    continue;
                }
                () = sleep_until(quiet.until()) => {}
                _ = tick.tick() => {
                    watch.renew();
                    // Something is being written: it will be read when that has ended.
                    if quiet.is_waiting() {
                        continue;
                    }
                }
            }
            quiet = Quiet::default();
            let Some(mut at_work) = reader.take() else {
                return;
            };
            let read = tokio::task::spawn_blocking(move || {
                let found = at_work.read();
                (at_work, found)
            });
            let Ok((rested, found)) = read.await else {
                return;
            };
            reader = Some(rested);
            for event in found {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads the directory and tells what is new.
struct Reader {
    directory: Directory,
    store: Store,
    /// Whether the directory could be listed the last time, once there was one.
    failed: Option<bool>,
}

impl Reader {
    fn read(&mut self) -> Vec<Event> {
        let kind = Subject::Manifest;
        match self.directory.scan() {
            Ok(changed) => {
                let mut events = Vec::new();
                if self.failed.replace(false) != Some(false) {
                    events.push(Event::WatchStarted { kind });
                }
                events.extend(self.store.take_in(changed));
                events
            }
            Err(error) => {
                self.failed = Some(true);
                let error = format!(
                    "{}: {error}: what was read before stays in force; make the directory readable again",
                    self.directory.path().display()
                );
                vec![Event::WatchFailed { kind, error }]
            }
        }
    }
}
