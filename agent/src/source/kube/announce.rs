//! Kubernetes Events on objects that are not served as they ask, so that `kubectl describe` tells.
//!
//! Nothing waits for them: what cannot be queued is dropped, for the log, the metrics and `weir status` have it as well. An
//! Event's name is made from what it says, so that the agents of all nodes, and an agent that starts again, make it once.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use weir_core::model::{Kind, ObjectName};

use super::servers::Servers;
use super::{Options, client, configure, failure};

/// How many may wait.
const QUEUE: usize = 256;
/// So many at once, then one in each interval: a cluster full of mistakes is told slowly.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(1);
/// The same about the same object only after this time, in other words or not.
const AGAIN: Duration = Duration::from_secs(300);
/// How often an Event is tried while nobody answers, and how long to wait in between.
const ATTEMPTS: u32 = 5;
const WAIT: Duration = Duration::from_secs(2);
/// The API's limits on what an Event says, and on names.
const NOTE: usize = 1024;
const NAME: usize = 253;

/// Why something is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The object cannot be read.
    Malformed,
    /// A table of this node has no room for the service.
    DoesNotFit,
    /// Another service has one of its addresses and ports.
    Conflict,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::DoesNotFit => "DoesNotFit",
            Self::Conflict => "Conflict",
        }
    }

    /// Whether it is so on this node, and may be otherwise on others.
    fn is_of_node(self) -> bool {
        self == Self::DoesNotFit
    }
}

/// What is to be told about an object.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The object's kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
    /// Why.
    pub reason: Reason,
    /// What a person should know.
    pub note: String,
}

/// Takes announcements and waits for nothing.
#[derive(Clone, Debug)]
pub struct Announcer(mpsc::Sender<Announcement>);

impl Announcer {
    /// Tells of something. What there is no room for is dropped.
    pub fn announce(&self, announcement: Announcement) {
        if let Err(error) = self.0.try_send(announcement) {
            tracing::debug!(%error, "an Event is not made");
        }
    }
}

/// What was announced, to be given to the source.
pub type Announcements = mpsc::Receiver<Announcement>;

/// An announcer, and the other end of it.
#[must_use]
pub fn announcements() -> (Announcer, Announcements) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Announcer(sender), receiver)
}

/// Makes Events until nobody announces anything any more.
pub(super) async fn run(options: Options, servers: Arc<Servers>, mut queue: Announcements) {
    let mut pace = Pace::default();
    let mut told: HashMap<(Kind, ObjectName, Reason), Instant> = HashMap::new();
    let mut complained = false;
    while let Some(announcement) = queue.recv().await {
        let now = Instant::now();
        told.retain(|_, at| *at + AGAIN > now);
        let key = (
            announcement.kind,
            announcement.name.clone(),
            announcement.reason,
        );
        if told.contains_key(&key) {
            continue;
        }
        pace.wait().await;
        for attempt in 1..=ATTEMPTS {
            match make(&options, &servers, &announcement).await {
                Ok(()) => {
                    told.insert(key, Instant::now());
                    break;
                }
                Err(Problem::Refused(why)) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(
                            "cannot make Events: {why}; grant the verb create on \"events\" in API group \"events.k8s.io\" to \
                             the agent's ClusterRole"
                        );
                    }
                    break;
                }
                Err(Problem::Other(why)) => {
                    tracing::debug!(attempt, why, "cannot make an Event");
                    sleep(WAIT * attempt).await;
                }
            }
        }
    }
}

/// Why there is no Event.
enum Problem {
    /// The agent may not make it.
    Refused(String),
    /// It may work later.
    Other(String),
}

impl From<kube::Error> for Problem {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Refused(status.message),
            error => Self::Other(error.to_string()),
        }
    }
}

async fn make(options: &Options, servers: &Servers, what: &Announcement) -> Result<(), Problem> {
    let mut config = configure(options)
        .await
        .map_err(|error| Problem::Other(error.to_string()))?;
    servers.choose(&mut config);
    let (client, _) = client::build(&config)
        .map_err(|error| Problem::Other(failure::unusable_credentials(&error).text))?;
    let Some(object) = find(&client, what).await? else {
        // It is gone, and with it the reason to complain.
        return Ok(());
    };
    let event = event(&options.node_name, what, object);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let made = Api::<Event>::namespaced(client, &namespace)
        .create(&PostParams::default(), &event)
        .await;
    match made {
        // Another node's agent, or this one before, has said so already.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        // Or its namespace is about to go.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

/// The object's reference, with its UID, by which `kubectl describe` finds the Events; by `list`, which the agent may do
/// anyway.
async fn find(client: &Client, what: &Announcement) -> Result<Option<ObjectReference>, Problem> {
    let resource = resource(what.kind);
    let namespace = &*what.name.namespace;
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let named = ListParams::default().fields(&format!("metadata.name={}", what.name.name));
    let found = api.list_metadata(&named).await?.items.pop();
    Ok(found.map(|found| ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        name: found.metadata.name,
        namespace: found.metadata.namespace,
        uid: found.metadata.uid,
        resource_version: found.metadata.resource_version,
        field_path: None,
    }))
}

fn resource(kind: Kind) -> ApiResource {
    fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    match kind {
        Kind::Service => of::<Service>(),
        Kind::EndpointSlice => of::<EndpointSlice>(),
        Kind::Node => of::<Node>(),
        Kind::Namespace => of::<Namespace>(),
        Kind::Pod => of::<Pod>(),
    }
}

fn event(node: &str, what: &Announcement, object: ObjectReference) -> Event {
    let mut note = what.note.clone();
    if what.reason.is_of_node() {
        let _ = write!(note, " (node {node})");
    }
    let text = [
        object.uid.as_deref().unwrap_or_default(),
        what.reason.label(),
        &note,
    ];
    let suffix = format!(".{:016x}", hash(&text.join("\n")));
    let mut name = what.name.name.to_string();
    cut(&mut name, NAME - suffix.len());
    cut(&mut note, NOTE);
    Event {
        metadata: ObjectMeta {
            name: Some(name + &suffix),
            // Those of objects without a namespace are here by convention.
            namespace: Some(object.namespace.clone().unwrap_or("default".to_owned())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        reporting_controller: Some("weir.dev/agent".to_owned()),
        reporting_instance: Some(node.to_owned()),
        action: Some("Programming".to_owned()),
        reason: Some(what.reason.label().to_owned()),
        regarding: Some(object),
        note: Some(note),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

fn cut(text: &mut String, length: usize) {
    text.truncate(text.floor_char_boundary(length));
}

/// FNV-1a: the same for every build of every agent.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Keeps to [`BURST`] and [`INTERVAL`].
#[derive(Default)]
struct Pace {
    /// When all that was made would have been made one by one.
    paid: Option<Instant>,
}

impl Pace {
    async fn wait(&mut self) {
        let now = Instant::now();
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + INTERVAL;
        self.paid = Some(paid);
        if let Some(at) = paid.checked_sub(INTERVAL * BURST) {
            sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(reason: Reason, note: &str) -> Announcement {
        Announcement {
            kind: Kind::Service,
            name: ObjectName::new("shop", "cart"),
            reason,
            note: note.to_owned(),
        }
    }

    fn made_by(node: &str, what: &Announcement) -> Event {
        let object = ObjectReference {
            namespace: Some("shop".to_owned()),
            uid: Some("0123".to_owned()),
            ..ObjectReference::default()
        };
        event(node, what, object)
    }

    #[test]
    fn nodes_make_one_event_of_what_is_so_on_all_of_them() {
        let malformed = announcement(Reason::Malformed, "spec.ports[0].port: 70000");
        let names = ["a", "b"].map(|node| made_by(node, &malformed).metadata.name);
        assert_eq!(names[0], names[1]);
        let full = announcement(Reason::DoesNotFit, "it needs more");
        let names = ["a", "b"].map(|node| made_by(node, &full).metadata.name);
        assert_ne!(names[0], names[1]);
        let other = announcement(Reason::Malformed, "spec.ports[1].port: 70000");
        assert_ne!(
            made_by("a", &malformed).metadata.name,
            made_by("a", &other).metadata.name
        );
    }

    #[test]
    fn limits_of_the_api_are_kept() {
        let mut what = announcement(Reason::DoesNotFit, &"ä".repeat(2000));
        what.name = ObjectName::new("shop", "c".repeat(253));
        let event = made_by("a", &what);
        assert_eq!(event.metadata.name.map(|name| name.len()), Some(NAME));
        assert!(event.note.is_some_and(|note| note.len() <= NOTE));
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_are_made_slowly() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..BURST {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..5 {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), 5 * INTERVAL);
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped() {
        let (announcer, mut announcements) = announcements();
        for _ in 0..2 * QUEUE {
            announcer.announce(announcement(Reason::Conflict, ""));
        }
        let mut count = 0;
        while announcements.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, QUEUE);
    }
}
