//! Finds the files of the directory that changed since the last scan.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::documents::{Broken, Document, documents};

/// A file changed so shortly before it was read may change again without a new time stamp: the kernel's clock for files is
/// coarse. It is read once more.
const COARSE: Duration = Duration::from_secs(1);

/// What a scan found of one file.
pub(super) enum Content {
    /// It was read.
    Read(Vec<Document>),
    /// It cannot be read.
    Broken(Broken),
    /// It is not there any more.
    Gone,
}

/// A directory of manifests, and what is known of its files.
pub(super) struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, Seen>,
}

#[derive(PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    /// Whether the stamp was old enough when the file was read to tell any later change.
    settled: bool,
    bytes: Option<Vec<u8>>,
}

/// Changes with the file's content, almost always.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Every file whose content is not what the last scan found, in the order of their names.
    pub(super) fn scan(&mut self) -> io::Result<BTreeMap<PathBuf, Content>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if is_manifest(Path::new(&entry.file_name())) {
                names.push(entry.path());
            }
        }
        let mut changed = BTreeMap::new();
        let mut before = std::mem::take(&mut self.files);
        for path in names {
            let seen = before.remove(&path);
            match look(&path, seen.as_ref()) {
                Look::Same => {
                    self.files.extend(seen.map(|seen| (path, seen)));
                }
                Look::Again(new, content) => {
                    self.files.insert(path.clone(), new);
                    changed.extend(content.map(|content| (path, content)));
                }
                // Neither a file nor a link to one: no manifest.
                Look::NoFile => {
                    if seen.is_some() {
                        changed.insert(path, Content::Gone);
                    }
                }
            }
        }
        changed.extend(before.into_keys().map(|path| (path, Content::Gone)));
        Ok(changed)
    }
}

enum Look {
    Same,
    /// Read again; with the content if that is new.
    Again(Seen, Option<Content>),
    NoFile,
}

fn look(path: &Path, seen: Option<&Seen>) -> Look {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Look::NoFile,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Look::NoFile,
        Err(error) => return unreadable(path, seen, &error),
    };
    let stamp = Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    if seen.is_some_and(|seen| seen.settled && seen.stamp == stamp) {
        return Look::Same;
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Look::NoFile,
        Err(error) => return unreadable(path, seen, &error),
    };
    let settled = settled(&metadata);
    let content = match seen {
        Some(seen) if seen.bytes.as_deref() == Some(&bytes) => None,
        _ => Some(match documents(path, &bytes) {
            Ok(documents) => Content::Read(documents),
            Err(broken) => Content::Broken(broken),
        }),
    };
    // The bytes are only needed for as long as the stamp does not tell enough.
    let bytes = (!settled).then_some(bytes);
    let new = Seen {
        stamp,
        settled,
        bytes,
    };
    Look::Again(new, content)
}

/// Reported, and tried again by every scan.
fn unreadable(path: &Path, seen: Option<&Seen>, error: &io::Error) -> Look {
    let nowhere = Stamp {
        device: 0,
        inode: 0,
        size: 0,
        modified: (0, 0),
        changed: (0, 0),
    };
    let new = Seen {
        stamp: nowhere,
        settled: false,
        bytes: None,
    };
    let content = (seen != Some(&new)).then(|| {
        Content::Broken(Broken {
            line: None,
            error: format!(
                "cannot be read: {error}: check the permissions of {}",
                path.display()
            ),
        })
    });
    Look::Again(new, content)
}

fn settled(metadata: &std::fs::Metadata) -> bool {
    let changed = u64::try_from(metadata.ctime()).unwrap_or_default();
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
    // A whole second more, as the nanoseconds are left out.
    changed
        .elapsed()
        .is_ok_and(|age| age > COARSE + Duration::from_secs(1))
}

fn is_manifest(name: &Path) -> bool {
    let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
    let extension = name.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}
