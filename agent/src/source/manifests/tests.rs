//! Manifests: what files say, and what the agent learns of a directory while it is changed.

mod content;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_core::model::{Kind, Object};
use weir_core::state::Change;

use super::{OpenError, Options, Source};
use crate::source::{Event, Subject};

/// Nothing here waits this long unless it is broken.
const LONG: Duration = Duration::from_secs(60);
/// A scan that no test waits for: what happens, happens by inotify.
const NEVER: Duration = Duration::from_secs(3600);

fn service(name: &str, port: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.9\n  ports:\n  - port: {port}\n"
    )
}

/// A directory that a source follows.
struct Followed {
    directory: TempDir,
    events: mpsc::Receiver<Event>,
    running: JoinHandle<()>,
}

impl Followed {
    async fn start(directory: TempDir, rescan: Duration) -> Self {
        let path = directory.path().to_owned();
        Self::at(directory, path, rescan).await
    }

    /// Waits until everything was listed.
    async fn at(directory: TempDir, path: PathBuf, rescan: Duration) -> Self {
        let source = Source::open(Options {
            directory: path,
            rescan,
        })
        .expect("a directory");
        let (sender, events) = mpsc::channel(64);
        let running = tokio::spawn(source.run(sender));
        Self {
            directory,
            events,
            running,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    async fn next(&mut self) -> String {
        let event = timeout(LONG, self.events.recv()).await.expect("an event");
        self.said(&event.expect("the source runs"))
    }

    /// The next events, as many as are expected.
    async fn expect<const N: usize>(&mut self, expected: [&str; N]) {
        for expected in expected {
            assert_eq!(self.next().await, expected);
        }
    }

    /// All events of the first list; returns the services in it.
    async fn listed(&mut self) -> String {
        let mut services = String::new();
        self.expect(["started Manifest"]).await;
        loop {
            let said = self.next().await;
            if let Some(listed) = said.strip_prefix("replace Service ") {
                services = listed.to_owned();
            }
            if said == "listed Pod" {
                return services;
            }
        }
    }

    fn said(&self, event: &Event) -> String {
        let short = |text: &str| {
            let directory = format!("{}/", self.directory.path().display());
            text.replace(&directory, "")
        };
        match event {
            Event::Change(Change::Apply(Object::Service(service))) => {
                let ports: Vec<_> = service
                    .ports
                    .iter()
                    .map(|port| port.port.to_string())
                    .collect();
                format!("apply {} {}", service.name, ports.join(","))
            }
            Event::Change(Change::Apply(object)) => format!("apply {}", object.name()),
            Event::Change(Change::Delete(_, name)) => format!("delete {name}"),
            Event::Change(Change::Replace { kind, objects, .. }) => {
                let names: Vec<_> = objects
                    .iter()
                    .map(|object| object.name().to_string())
                    .collect();
                format!("replace {kind} {}", names.join(" "))
            }
            Event::Listed(kind) => format!("listed {kind}"),
            Event::Skipped { kind, name, error } => {
                format!("skipped {kind} {}: {}", short(name), short(error))
            }
            Event::Restored { kind, name } => format!("restored {kind} {}", short(name)),
            Event::WatchFailed { kind, .. } => format!("failed {kind}"),
            Event::WatchStarted { kind } => format!("started {kind}"),
        }
    }

    /// Nothing waits to be told, and the source ends when nobody reads.
    async fn end(self) {
        let Self {
            directory,
            mut events,
            running,
        } = self;
        assert!(events.try_recv().is_err(), "an event that nobody expected");
        drop(events);
        timeout(LONG, running)
            .await
            .expect("ends")
            .expect("without a panic");
        directory.close().expect("removed");
    }
}

fn empty() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[tokio::test]
async fn the_first_scan_lists_every_kind() {
    let directory = empty();
    fs::write(directory.path().join("a.yaml"), service("a", 80)).expect("written");
    fs::write(directory.path().join("b.txt"), service("not-read", 80)).expect("written");
    fs::write(directory.path().join(".c.yaml"), service("hidden", 80)).expect("written");
    fs::create_dir(directory.path().join("d.yaml")).expect("made");
    let mut followed = Followed::start(directory, NEVER).await;
    followed
        .expect([
            "started Manifest",
            "replace Service default/a",
            "listed Service",
            "replace EndpointSlice ",
            "listed EndpointSlice",
            "replace Node ",
            "listed Node",
            "replace Namespace ",
            "listed Namespace",
            "replace Pod ",
            "listed Pod",
        ])
        .await;
    followed.end().await;
}

#[tokio::test]
async fn files_that_come_change_and_go_are_followed() {
    let mut followed = Followed::start(empty(), NEVER).await;
    followed.listed().await;
    followed.write("a.yaml", &service("a", 80));
    followed.expect(["apply default/a 80"]).await;
    followed.write("a.yaml", &service("a", 81));
    followed.expect(["apply default/a 81"]).await;
    // Renamed into place, as careful writers do it; the object that did not change is not told again.
    let both = format!("{}---\n{}", service("a", 81), service("b", 90));
    followed.write(".a.tmp", &both);
    fs::rename(followed.path(".a.tmp"), followed.path("a.yaml")).expect("renamed");
    followed.expect(["apply default/b 90"]).await;
    followed.write("a.yaml", &service("b", 90));
    followed.expect(["delete default/a"]).await;
    fs::remove_file(followed.path("a.yaml")).expect("removed");
    followed.expect(["delete default/b"]).await;
    followed.end().await;
}

#[tokio::test]
async fn a_broken_file_is_reported_and_what_it_said_before_stays() {
    let mut followed = Followed::start(empty(), NEVER).await;
    followed.listed().await;
    followed.write("a.yaml", &service("a", 80));
    followed.expect(["apply default/a 80"]).await;
    followed.write("a.yaml", &format!("{}---\nkind: [\n", service("a", 81)));
    let said = followed.next().await;
    assert!(said.starts_with("skipped Manifest a.yaml: line "), "{said}");
    assert!(
        said.contains("what it said before stays in force"),
        "{said}"
    );
    // Others are read all the while.
    followed.write("b.yaml", &service("b", 80));
    followed.expect(["apply default/b 80"]).await;
    followed.write("a.yaml", &service("a", 82));
    followed
        .expect(["restored Manifest a.yaml", "apply default/a 82"])
        .await;
    followed.end().await;
}

#[tokio::test]
async fn a_malformed_object_keeps_its_last_good_version_and_spares_its_neighbours() {
    let mut followed = Followed::start(empty(), NEVER).await;
    followed.listed().await;
    followed.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80), service("b", 80)),
    );
    followed
        .expect(["apply default/a 80", "apply default/b 80"])
        .await;
    followed.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", 70_000), service("b", 81)),
    );
    followed
        .expect([
            "skipped Service default/a: a.yaml:1: spec.ports[0].port: 70000 is not a port (1-65535)",
            "apply default/b 81",
        ])
        .await;
    fs::remove_file(followed.path("a.yaml")).expect("removed");
    followed
        .expect([
            "restored Service default/a",
            "delete default/a",
            "delete default/b",
        ])
        .await;
    followed.end().await;
}

#[tokio::test]
async fn of_an_object_in_two_files_the_later_file_wins() {
    let mut followed = Followed::start(empty(), NEVER).await;
    followed.listed().await;
    followed.write("a.yaml", &service("x", 80));
    followed.expect(["apply default/x 80"]).await;
    followed.write("b.yaml", &format!("---\n{}", service("x", 90)));
    followed
        .expect([
            "skipped Manifest a.yaml: Service default/x: line 1: b.yaml:2 has the same object and is used; remove one of them",
            "apply default/x 90",
        ])
        .await;
    followed.write("a.yaml", &service("x", 81));
    fs::remove_file(followed.path("b.yaml")).expect("removed");
    followed
        .expect([
            "restored Manifest a.yaml: Service default/x",
            "apply default/x 81",
        ])
        .await;
    followed.end().await;
}

#[tokio::test]
async fn a_label_that_is_set_and_removed_takes_the_service_away_and_back() {
    let mut followed = Followed::start(empty(), NEVER).await;
    followed.listed().await;
    let plain = service("a", 80);
    let label = "\n  labels: {service.kubernetes.io/service-proxy-name: other}\nspec:";
    followed.write("a.yaml", &plain);
    followed.expect(["apply default/a 80"]).await;
    followed.write("a.yaml", &plain.replace("\nspec:", label));
    followed.expect(["delete default/a"]).await;
    followed.write("a.yaml", &plain);
    followed.expect(["apply default/a 80"]).await;
    followed.end().await;
}

#[tokio::test]
async fn files_are_swapped_together_as_a_configmap_volume_does_it() {
    let directory = empty();
    let make = |version: &str, port| {
        let data = directory.path().join(version);
        fs::create_dir(&data).expect("made");
        fs::write(data.join("a.yaml"), service("a", port)).expect("written");
        fs::write(data.join("b.yaml"), service("b", port)).expect("written");
    };
    make("..v1", 80);
    make("..v2", 81);
    symlink("..v1", directory.path().join("..data")).expect("linked");
    for name in ["a.yaml", "b.yaml"] {
        symlink(Path::new("..data").join(name), directory.path().join(name)).expect("linked");
    }
    let mut followed = Followed::start(directory, NEVER).await;
    assert_eq!(followed.listed().await, "default/a default/b");
    symlink("..v2", followed.path("..data_tmp")).expect("linked");
    fs::rename(followed.path("..data_tmp"), followed.path("..data")).expect("renamed");
    followed
        .expect(["apply default/a 81", "apply default/b 81"])
        .await;
    followed.end().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read_before_it_is_closed() {
    use std::io::Write as _;
    let mut followed = Followed::start(empty(), NEVER).await;
    followed.listed().await;
    followed.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80), service("b", 80)),
    );
    followed
        .expect(["apply default/a 80", "apply default/b 80"])
        .await;
    // In place and in two steps: what is there between them is valid, and lacks b.
    let mut file = fs::File::create(followed.path("a.yaml")).expect("truncated");
    file.write_all(service("a", 81).as_bytes())
        .expect("written");
    tokio::time::sleep(Duration::from_millis(200)).await;
    file.write_all(format!("---\n{}", service("b", 81)).as_bytes())
        .expect("written");
    drop(file);
    followed
        .expect(["apply default/a 81", "apply default/b 81"])
        .await;
    followed.end().await;
}

#[tokio::test]
async fn a_scan_finds_what_inotify_cannot_see() {
    let elsewhere = empty();
    let target = elsewhere.path().join("target");
    fs::write(&target, service("a", 80)).expect("written");
    let directory = empty();
    symlink(&target, directory.path().join("a.yaml")).expect("linked");
    let mut followed = Followed::start(directory, Duration::from_millis(100)).await;
    assert_eq!(followed.listed().await, "default/a");
    // As long as the text before it, right after it was read: time stamps may not tell.
    fs::write(&target, service("a", 81)).expect("written");
    followed.expect(["apply default/a 81"]).await;
    fs::remove_file(&target).expect("removed");
    followed.expect(["delete default/a"]).await;
    followed.end().await;
}

#[tokio::test]
async fn a_directory_that_is_taken_away_is_reported_and_followed_again_when_it_is_back() {
    let parent = empty();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("a.yaml"), service("a", 80)).expect("written");
    let mut followed = Followed::at(parent, path.clone(), Duration::from_millis(100)).await;
    assert_eq!(followed.listed().await, "default/a");
    fs::rename(&path, followed.path("aside")).expect("renamed");
    followed.expect(["failed Manifest"]).await;
    fs::create_dir(followed.path("new")).expect("made");
    fs::write(followed.path("new/a.yaml"), service("a", 81)).expect("written");
    fs::rename(followed.path("new"), &path).expect("renamed");
    let mut said = followed.next().await;
    // It may have been looked for more than once while it was away.
    while said == "failed Manifest" {
        said = followed.next().await;
    }
    assert_eq!(said, "started Manifest");
    followed.expect(["apply default/a 81"]).await;
    // The new directory is watched, not the one aside.
    fs::write(path.join("b.yaml"), service("b", 80)).expect("written");
    followed.expect(["apply default/b 80"]).await;
    followed.end().await;
}

#[test]
fn a_directory_that_is_not_there_is_refused_at_once() {
    let error = Source::open(Options::new("/nonexistent/manifests"))
        .err()
        .expect("refused");
    assert!(matches!(error, OpenError::Unreadable { .. }));
    assert!(
        error.to_string().contains("/nonexistent/manifests"),
        "{error}"
    );
    assert!(error.to_string().contains("create it"), "{error}");
}

#[test]
fn a_subject_is_a_label() {
    assert_eq!(Subject::Object(Kind::Service).label(), "Service");
    assert_eq!(
        serde_json::to_string(&Subject::Manifest).expect("serialises"),
        "\"Manifest\""
    );
}
