//! What a failed attempt means to the user, and what to do after it.

use std::error::Error;
use std::io;
use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher;

use crate::source::reduce::Reduce;

/// A failed attempt to list or watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For the user: what is wrong and what to do.
    pub(super) text: String,
    /// How to go on.
    pub(super) recovery: Recovery,
    /// The longest wait before the next attempt that makes sense.
    pub(super) patience: Patience,
    /// The server asked for at least this wait.
    pub(super) asked: Duration,
}

/// How to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// From the last resource version that was seen.
    Resume,
    /// With the next server, if several are known; else as [`Recovery::Resume`].
    NextServer,
    /// With a new list; nothing is wrong, so nobody is told.
    Relist,
    /// With a new list over a client made anew from the kubeconfig or the service account.
    Reconnect,
}

/// How long to wait at most between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Nobody answers: an attempt costs nobody anything, and a server that comes back shall be noticed within seconds.
    Short,
    /// The server answers and refuses for a reason that a person has to remove: soon after they did, it shall work.
    Medium,
    /// The server answers, in trouble: every attempt costs it something.
    Long,
}

impl Patience {
    /// The limit of the exponential backoff.
    pub(super) fn limit(self) -> Duration {
        match self {
            Self::Short => Duration::from_secs(2),
            Self::Medium => Duration::from_secs(10),
            Self::Long => Duration::from_secs(30),
        }
    }
}

/// Explains a watcher's error about objects of kind `K` on the server at `server`.
pub(super) fn explain<K: Reduce>(server: &str, error: &watcher::Error) -> Failure {
    let (verb, error) = match error {
        watcher::Error::InitialListFailed(error) => ("list", error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            ("watch", error)
        }
        watcher::Error::WatchError(status) => return refused::<K>(server, "watch", status),
        watcher::Error::NoResourceVersion => {
            return Failure {
                text: format!(
                    "the answer of {server} to list {} has no resourceVersion: is it a Kubernetes API server?",
                    resource::<K>()
                ),
                recovery: Recovery::Reconnect,
                patience: Patience::Long,
                asked: Duration::ZERO,
            };
        }
    };
    match error {
        kube::Error::Api(status) => refused::<K>(server, verb, status),
        kube::Error::Auth(_) => unusable_credentials(error),
        kube::Error::SerdeError(_) => Failure {
            text: format!(
                "an answer of {server} to {verb} {} is not what Kubernetes sends ({error}): listing again; if this stays, \
                 see what stands between the agent and the API server",
                resource::<K>()
            ),
            recovery: Recovery::Reconnect,
            patience: Patience::Long,
            asked: Duration::ZERO,
        },
        _ => unreachable(server, error),
    }
}

/// A client could not be made.
pub(super) fn unusable_credentials(error: &dyn Error) -> Failure {
    Failure {
        text: format!(
            "the credentials for the API server cannot be used: {}: check the kubeconfig's user, or the service account's \
             token that is mounted into the pod",
            chain(error)
        ),
        recovery: Recovery::Reconnect,
        patience: Patience::Medium,
        asked: Duration::ZERO,
    }
}

/// Too long without a word in the middle of a list.
pub(super) fn stalled<K: Reduce>(server: &str, waited: Duration) -> Failure {
    Failure {
        text: format!(
            "{server} began to list {} and then said nothing for {} s: listing again; check the network between this node \
             and the API server, and the server's load",
            resource::<K>(),
            waited.as_secs()
        ),
        recovery: Recovery::Reconnect,
        patience: Patience::Long,
        asked: Duration::ZERO,
    }
}

/// The server answered with an error.
fn refused<K: Reduce>(server: &str, verb: &str, status: &Status) -> Failure {
    let resource = resource::<K>();
    let says = says(status);
    let asked = status
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    let failure = |text, recovery, patience| Failure {
        text,
        recovery,
        patience,
        asked: Duration::from_secs(asked.into()),
    };
    match status.code {
        401 => failure(
            format!(
                "{server} does not accept the agent's credentials{says}: check the kubeconfig's user, or that the service \
                 account still exists; they are read again before the next attempt"
            ),
            Recovery::Reconnect,
            Patience::Medium,
        ),
        403 => failure(
            format!(
                "the agent may not {verb} {resource} at cluster scope: grant the verbs list and watch on \"{}\" in API \
                 group \"{}\" to its ClusterRole{says}",
                K::plural(&()),
                K::group(&()),
            ),
            Recovery::Resume,
            Patience::Medium,
        ),
        404 => failure(
            format!(
                "{server} does not serve {resource} in version {}{says}: Weir needs Kubernetes 1.21 or newer; check that \
                 the address is the API server's",
                K::version(&())
            ),
            Recovery::Reconnect,
            Patience::Long,
        ),
        410 => failure(
            format!("the watch of {resource} fell too far behind{says}: listing again"),
            Recovery::Relist,
            Patience::Long,
        ),
        429 => failure(
            format!(
                "{server} has too much to do to {verb} {resource}{says}: trying again less often; its API priority and \
                 fairness settings decide who comes first"
            ),
            Recovery::Resume,
            Patience::Long,
        ),
        code => failure(
            format!(
                "{server} failed to {verb} {resource} with status {code}{says}: trying again; the API server's log says \
                 why"
            ),
            Recovery::Resume,
            Patience::Long,
        ),
    }
}

/// No answer came.
fn unreachable(server: &str, error: &kube::Error) -> Failure {
    let chain = chain(error);
    let cause = io_cause(error);
    let is = |kind| cause == Some(kind);
    let (what, patience) = if chain.contains("certificate") {
        (
            format!(
                "the certificate of {server} is not acceptable: check certificate-authority and server in the kubeconfig, \
                 and this node's clock"
            ),
            Patience::Medium,
        )
    } else if chain.contains("dns error") {
        (
            format!("the name in {server} cannot be resolved: check it, and this node's DNS"),
            Patience::Short,
        )
    } else if is(io::ErrorKind::ConnectionRefused) {
        (
            format!(
                "nothing listens at {server}: is the API server running, and is this its address?"
            ),
            Patience::Short,
        )
    } else if is(io::ErrorKind::TimedOut) || chain.contains("timed out") {
        (
            format!(
                "{server} does not answer: check that the API server runs, and the network and firewalls between it and \
                 this node"
            ),
            Patience::Short,
        )
    } else {
        (
            format!(
                "no connection to {server}: check that the API server runs and that this node can reach it"
            ),
            Patience::Short,
        )
    };
    Failure {
        text: format!("{what} ({chain})"),
        recovery: Recovery::NextServer,
        patience,
        asked: Duration::ZERO,
    }
}

/// `services`, `endpointslices.discovery.k8s.io`.
fn resource<K: Reduce>() -> String {
    let (plural, group) = (K::plural(&()), K::group(&()));
    if group.is_empty() {
        plural.into_owned()
    } else {
        format!("{plural}.{group}")
    }
}

fn says(status: &Status) -> String {
    if status.message.is_empty() {
        String::new()
    } else {
        format!(" (the API server says: {})", status.message)
    }
}

/// An error and its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn io_cause(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last()
        .map(io::Error::kind)
}

fn causes<'a>(error: &'a (dyn Error + 'a)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| {
        let cause: &'a (dyn Error + 'static) = *cause;
        cause.source()
    })
}
