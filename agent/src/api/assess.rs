//! From the facts of a [`Status`] to what a person should know first.

use super::view::{Status, TableFill};
use crate::health::LATE;

/// A table this full wants attention; a service that no longer fits is refused as a whole.
const FULL_PERCENT: u64 = 90;

impl Status {
    /// Derives `healthy` and `attention` from everything else. Unhealthy means that the node's tables are not what the
    /// cluster asks for, or do not follow it; one malformed object does not make an agent unhealthy.
    pub fn assess(&mut self) {
        let mut broken = Vec::new();
        let mut notable = Vec::new();

        if self.attachments.is_empty() {
            broken.push("no program is attached: this node's traffic passes Weir by".to_owned());
        }
        for source in &self.sources {
            let kind = &source.kind;
            match (&source.error, source.synced) {
                (Some(error), _) => broken.push(format!("watching {kind} fails: {error}")),
                (None, false) => broken.push(format!(
                    "{kind} is not listed yet; nothing is programmed before every kind is"
                )),
                (None, true) => {}
            }
        }
        if let Some(error) = &self.sync.last_error {
            broken.push(format!("the last sync failed and is tried again: {error}"));
        }
        if let Some(waited) = self.sync.pending_for_seconds
            && waited >= LATE.as_secs_f64()
        {
            broken.push(format!(
                "changes have waited for {waited:.0} s to be programmed"
            ));
        }
        for object in &self.unprogrammed {
            broken.push(format!(
                "{} {}: {}",
                object.kind, object.name, object.reason
            ));
        }
        for failure in &self.pods.failures {
            broken.push(format!(
                "{} is not served: {}",
                failure.subject, failure.reason
            ));
        }
        for left in &self.pods.left {
            notable.push(format!(
                "device {} is left alone: {}",
                left.name, left.reason
            ));
        }
        for table in &self.tables {
            if percent(table) >= FULL_PERCENT {
                notable.push(format!(
                    "table {} is {} % full ({} of {})",
                    table.name,
                    percent(table),
                    table.entries,
                    table.capacity
                ));
            }
        }
        for attachment in self
            .attachments
            .iter()
            .filter(|attachment| attachment.pinned.is_none())
        {
            notable.push(format!(
                "{} on {} is not pinned: it ends with the agent",
                attachment.hook, attachment.target
            ));
        }
        for object in &self.skipped {
            notable.push(format!(
                "{} {} is skipped: {}",
                object.kind, object.name, object.reason
            ));
        }

        self.healthy = broken.is_empty();
        broken.append(&mut notable);
        self.attention = broken;
    }
}

/// How full a table is.
#[must_use]
pub fn percent(table: &TableFill) -> u64 {
    table
        .entries
        .saturating_mul(100)
        .checked_div(table.capacity)
        .unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::view::{Attachment, SkippedObject, SourceView},
        pods::{Failure, LeftDevice},
    };

    fn sound() -> Status {
        Status {
            sources: vec![SourceView {
                kind: "Service".into(),
                synced: true,
                ..Default::default()
            }],
            attachments: vec![Attachment {
                hook: "connect4".into(),
                target: "/sys/fs/cgroup".into(),
                pinned: Some("/sys/fs/bpf/weir/v1/links/connect4".into()),
            }],
            tables: vec![TableFill {
                name: "SERVICES".into(),
                entries: 89,
                capacity: 100,
            }],
            ..Default::default()
        }
    }

    fn assessed(change: impl FnOnce(&mut Status)) -> Status {
        let mut status = sound();
        change(&mut status);
        status.assess();
        status
    }

    #[test]
    fn a_sound_agent_is_healthy_and_wants_nothing() {
        let status = assessed(|_| {});
        assert!(status.healthy);
        assert_eq!(status.attention, Vec::<String>::new());
    }

    #[test]
    fn what_breaks_the_node_is_unhealthy() {
        type Change = fn(&mut Status);
        let breaks: [(Change, &str); 7] = [
            (|s| s.attachments.clear(), "passes Weir by"),
            (|s| s.sources[0].synced = false, "Service is not listed yet"),
            (
                |s| s.sources[0].error = Some("forbidden".into()),
                "watching Service fails: forbidden",
            ),
            (
                |s| s.sync.last_error = Some("no memory".into()),
                "no memory",
            ),
            (
                |s| s.sync.pending_for_seconds = Some(60.0),
                "waited for 60 s",
            ),
            (
                |s| {
                    s.unprogrammed.push(SkippedObject {
                        kind: "Service".into(),
                        name: "shop/cart".into(),
                        reason: "the table SLOTS is full".into(),
                    });
                },
                "Service shop/cart: the table SLOTS is full",
            ),
            (
                |s| {
                    s.pods.failures.push(Failure {
                        subject: "shop/cart-0".into(),
                        reason: "ENDPOINTS is full".into(),
                    });
                },
                "shop/cart-0 is not served: ENDPOINTS is full",
            ),
        ];
        for (change, said) in breaks {
            let status = assessed(change);
            assert!(!status.healthy, "{said}");
            assert_eq!(status.attention.len(), 1, "{:?}", status.attention);
            assert!(status.attention[0].contains(said), "{:?}", status.attention);
        }
    }

    #[test]
    fn what_is_only_notable_comes_after_what_is_broken() {
        let status = assessed(|s| {
            s.tables[0].entries = 90;
            s.attachments[0].pinned = None;
            s.pods.left.push(LeftDevice {
                name: "wg0".into(),
                reason: "its packets have no Ethernet header".into(),
            });
            s.skipped.push(SkippedObject {
                kind: "Service".into(),
                name: "shop/till".into(),
                reason: "spec.ports[0].port: 70000 is not a port (1-65535)".into(),
            });
        });
        assert!(status.healthy);
        assert_eq!(status.attention.len(), 4);
        assert!(status.attention[0].starts_with("device wg0 is left alone: "));
        assert!(status.attention[1].contains("90 % full"));

        let status = assessed(|s| {
            s.tables[0].entries = 90;
            s.sync.last_error = Some("no memory".into());
        });
        assert!(!status.healthy);
        assert!(status.attention[0].contains("no memory"));
    }
}
