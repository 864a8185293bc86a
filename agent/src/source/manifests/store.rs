//! What the files say together, and what is new about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_core::model::{Kind, Object, ObjectName};
use weir_core::state::Change;

use super::documents::{Broken, Document};
use super::object::{Found, find};
use super::scan::Content;
use crate::source::{Event, Subject};

type ObjectId = (Kind, ObjectName);
/// What is wrong with what, for the user.
type Complaints = BTreeMap<(Subject, String), String>;

/// The content of all files.
#[derive(Default)]
pub(super) struct Store {
    files: BTreeMap<PathBuf, File>,
    /// The objects in force: where several files have one, the one of the file whose name sorts last.
    objects: BTreeMap<ObjectId, Arc<Object>>,
    complaints: Complaints,
    listed: bool,
}

#[derive(Default)]
struct File {
    objects: BTreeMap<ObjectId, Held>,
    complaints: Complaints,
}

/// The last good version of an object.
struct Held {
    line: usize,
    object: Arc<Object>,
}

impl Store {
    /// Takes in files that changed; tells what that changes. The first call lists every kind.
    pub(super) fn take_in(&mut self, changed: BTreeMap<PathBuf, Content>) -> Vec<Event> {
        if self.listed && changed.is_empty() {
            return Vec::new();
        }
        for (path, content) in changed {
            match content {
                Content::Gone => drop(self.files.remove(&path)),
                Content::Broken(broken) => self
                    .files
                    .entry(path.clone())
                    .or_default()
                    .spoil(&path, &broken),
                Content::Read(documents) => {
                    let before = self.files.remove(&path).unwrap_or_default();
                    let file = File::read(&path, documents, before);
                    self.files.insert(path, file);
                }
            }
        }
        let mut complaints = Complaints::new();
        let objects = self.merge(&mut complaints);
        let mut events = tell(&self.complaints, &complaints);
        if self.listed {
            events.extend(changes(&self.objects, &objects).map(Event::Change));
        } else {
            for kind in Kind::ALL {
                let of_kind = objects.iter().filter(|((of, _), _)| *of == kind);
                let objects = of_kind.map(|(_, object)| Object::clone(object)).collect();
                events.push(Event::Change(Change::Replace {
                    kind,
                    objects,
                    keep: Vec::new(),
                }));
                events.push(Event::Listed(kind));
            }
        }
        self.objects = objects;
        self.complaints = complaints;
        self.listed = true;
        events
    }

    fn merge(&self, complaints: &mut Complaints) -> BTreeMap<ObjectId, Arc<Object>> {
        let mut objects = BTreeMap::new();
        let mut origin: BTreeMap<&ObjectId, (&Path, usize)> = BTreeMap::new();
        for (path, file) in &self.files {
            complaints.extend(file.complaints.clone());
            for (id, held) in &file.objects {
                objects.insert(id.clone(), Arc::clone(&held.object));
                if let Some((other, line)) = origin.insert(id, (path, held.line)) {
                    let (kind, name) = id;
                    complaints.insert(
                        (Subject::Manifest, format!("{}: {kind} {name}", other.display())),
                        format!(
                            "line {line}: {}:{} has the same object and is used; remove one of them",
                            path.display(),
                            held.line
                        ),
                    );
                }
            }
        }
        objects
    }
}

impl File {
    /// Reads the documents of a file; where an object is malformed its version of before stays.
    fn read(path: &Path, documents: Vec<Document>, mut before: Self) -> Self {
        let mut file = Self::default();
        let mut other_kinds = 0_usize;
        for Document { line, item, value } in documents {
            let place = match item {
                None => format!("{}:{line}", path.display()),
                Some(item) => format!("{}:{line}: items[{item}]", path.display()),
            };
            match find(value) {
                Found::LeftOut => {}
                Found::OtherKind => other_kinds += 1,
                Found::Nameless(error) => {
                    let subject = (Subject::Manifest, place.clone());
                    file.complaints.insert(subject, error);
                }
                Found::Object(kind, name, Ok(object)) => {
                    let held = Held { line, object };
                    let id = (kind, name);
                    let text = format!("{place}: {kind} {}", id.1);
                    if let Some(earlier) = file.objects.insert(id, held) {
                        file.complaints.insert(
                            (Subject::Manifest, text),
                            format!(
                                "the same object is at line {}; this one is used; remove one of them",
                                earlier.line
                            ),
                        );
                    }
                }
                Found::Object(kind, name, Err(error)) => {
                    let subject = (Subject::Object(kind), name.to_string());
                    file.complaints.insert(subject, format!("{place}: {error}"));
                    let id = (kind, name);
                    if let Some(held) = before.objects.remove(&id) {
                        file.objects.entry(id).or_insert(held);
                    }
                }
            }
        }
        tracing::debug!(
            file = %path.display(), objects = file.objects.len(), other_kinds,
            "read a manifest; objects of other kinds are ignored"
        );
        file
    }

    /// The file cannot be taken apart: all that it said before stays.
    fn spoil(&mut self, path: &Path, broken: &Broken) {
        let subject = (Subject::Manifest, path.display().to_string());
        let error = match broken.line {
            Some(line) => format!("line {line}: {}", broken.error),
            None => broken.error.clone(),
        };
        let stays = if self.objects.is_empty() {
            "nothing of it is in force"
        } else {
            "what it said before stays in force"
        };
        self.complaints = Complaints::from([(subject, format!("{error} ({stays})"))]);
    }
}

fn tell(before: &Complaints, now: &Complaints) -> Vec<Event> {
    let mut events = Vec::new();
    for ((kind, name), error) in now {
        if before.get(&(*kind, name.clone())) != Some(error) {
            events.push(Event::Skipped {
                kind: *kind,
                name: name.clone(),
                error: error.clone(),
            });
        }
    }
    for (kind, name) in before.keys() {
        if !now.contains_key(&(*kind, name.clone())) {
            events.push(Event::Restored {
                kind: *kind,
                name: name.clone(),
            });
        }
    }
    events
}

/// What leads from some objects to others; what goes comes first, so that an address can pass from one to another.
fn changes(
    before: &BTreeMap<ObjectId, Arc<Object>>,
    now: &BTreeMap<ObjectId, Arc<Object>>,
) -> impl Iterator<Item = Change> {
    let gone = before
        .keys()
        .filter(|id| !now.contains_key(*id))
        .map(|(kind, name)| Change::Delete(*kind, name.clone()));
    let new = now
        .iter()
        .filter(|(id, object)| before.get(*id) != Some(*object))
        .map(|(_, object)| Change::Apply(Object::clone(object)));
    gone.chain(new)
}
