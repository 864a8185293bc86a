//! Turns what a watch says into changes, one kind at a time.

use std::collections::BTreeMap;

use kube::runtime::watcher;
use weir_core::model::{Kind, Object, ObjectName};
use weir_core::state::Change;

use super::guard::Reduced;
use crate::source::{Event, Subject};

/// Collects lists, and remembers which objects could not be read.
pub(super) struct Fold {
    kind: Kind,
    listing: Option<Listing>,
    /// Objects whose latest version could not be read, and why.
    malformed: BTreeMap<ObjectName, String>,
}

#[derive(Default)]
struct Listing {
    objects: Vec<Object>,
    malformed: BTreeMap<ObjectName, String>,
}

impl Fold {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            listing: None,
            malformed: BTreeMap::new(),
        }
    }

    /// Whether a list has begun and is not complete.
    pub(super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    /// What one event of the watch means. A list that broke off is forgotten when the next one begins.
    pub(super) fn fold<K>(&mut self, event: watcher::Event<Reduced<K>>) -> Vec<Event> {
        match event {
            watcher::Event::Init => {
                self.listing = Some(Listing::default());
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                let name = object.name();
                match object.outcome() {
                    Ok(object) => listing.objects.push(object),
                    Err(error) => drop(listing.malformed.insert(name, error)),
                }
                Vec::new()
            }
            watcher::Event::InitDone => self.listed(),
            watcher::Event::Apply(object) => {
                let name = object.name();
                match object.outcome() {
                    Ok(object) => {
                        let mut events = vec![Event::Change(Change::Apply(object))];
                        events.extend(self.restore(&name));
                        events
                    }
                    Err(error) => self.skip(name, error).into_iter().collect(),
                }
            }
            watcher::Event::Delete(object) => {
                let name = object.name();
                let restored = self.restore(&name);
                let mut events = vec![Event::Change(Change::Delete(self.kind, name))];
                events.extend(restored);
                events
            }
        }
    }

    fn listed(&mut self) -> Vec<Event> {
        let listing = self.listing.take().unwrap_or_default();
        let mut events = Vec::new();
        let gone: Vec<_> = self
            .malformed
            .keys()
            .filter(|name| !listing.malformed.contains_key(name))
            .cloned()
            .collect();
        let keep = listing.malformed.keys().cloned().collect();
        for (name, error) in listing.malformed {
            events.extend(self.skip(name, error));
        }
        events.push(Event::Change(Change::Replace {
            kind: self.kind,
            objects: listing.objects,
            keep,
        }));
        for name in gone {
            events.extend(self.restore(&name));
        }
        events.push(Event::Listed(self.kind));
        events
    }

    fn skip(&mut self, name: ObjectName, error: String) -> Option<Event> {
        if self.malformed.get(&name) == Some(&error) {
            return None;
        }
        let event = Event::Skipped {
            kind: Subject::Object(self.kind),
            name: name.to_string(),
            error: error.clone(),
        };
        self.malformed.insert(name, error);
        Some(event)
    }

    fn restore(&mut self, name: &ObjectName) -> Option<Event> {
        self.malformed.remove(name)?;
        Some(Event::Restored {
            kind: Subject::Object(self.kind),
            name: name.to_string(),
        })
    }
}
