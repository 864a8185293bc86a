//! Which API server to talk to: those that were named, then those that the cluster itself last named.
//!
//! An agent that replaces kube-proxy cannot rely on the service `default/kubernetes` to find the API server when the node
//! has just booted, nor on one configured machine to be up (cilium#27982). The endpoints of that service are learned from
//! its EndpointSlices and kept in a file, which survives a restart of the agent, and a crash of the configured server.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use hyper::Uri;
use kube::Config;
use serde::{Deserialize, Serialize};
use weir_core::{
    model::{EndpointSlice, Kind, Object, ObjectName, Protocol},
    state::Change,
};

use super::Bootstrap;

/// Namespace and name of the API servers' own service, and the name of its port.
const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
const PORT: &str = "https";

/// The API servers that are known, shared by all watches.
pub(super) struct Servers {
    named: Vec<Uri>,
    memory: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The API servers by the slice they are in.
    slices: BTreeMap<ObjectName, Vec<SocketAddr>>,
    /// All of them, as far as there were any; else as they were read from the file.
    known: Vec<SocketAddr>,
    /// All there is to try, as it was when a server was last chosen.
    candidates: Vec<Uri>,
    current: usize,
}

/// What is kept in the file.
#[derive(Serialize, Deserialize)]
struct Memory {
    /// Addresses of API servers, with their ports.
    apiservers: Vec<SocketAddr>,
}

impl Servers {
    /// Reads what an earlier agent knew. A file that cannot be read is as good as none.
    pub(super) fn new(bootstrap: Bootstrap) -> Self {
        let mut state = State::default();
        match bootstrap.memory.as_deref().map(remember) {
            Some(Ok(memory)) => state.known = memory.apiservers,
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the file of the last known API servers cannot be read");
            }
            Some(Err(_)) | None => {}
        }
        Self {
            named: bootstrap.servers,
            memory: bootstrap.memory,
            state: Mutex::new(state),
        }
    }

    /// Directs `config` to the server whose turn it is.
    ///
    /// The certificate of a server that nobody but the cluster named must be good for the name that was configured, unless
    /// the kubeconfig says which (`tls-server-name`): it is no other server than those that stand behind that name.
    pub(super) fn choose(&self, config: &mut Config) {
        let mut state = self.lock();
        let named = if self.named.is_empty() {
            std::slice::from_ref(&config.cluster_url)
        } else {
            &self.named
        };
        let mut candidates = named.to_vec();
        // Whoever speaks to the API server by a proxy without TLS has credentials only for that.
        if config.cluster_url.scheme_str() == Some("https") {
            for addr in &state.known {
                let url: Option<Uri> = format!("https://{addr}").parse().ok();
                candidates.extend(url.filter(|url| !candidates.contains(url)));
            }
        }
        if state.current >= candidates.len() {
            state.current = 0;
        }
        let chosen = candidates[state.current].clone();
        let is_learned = state.current >= named.len();
        state.candidates = candidates;
        drop(state);
        if is_learned && config.tls_server_name.is_none() {
            config.tls_server_name = config.cluster_url.host().map(without_brackets);
        }
        config.cluster_url = chosen;
    }

    /// The server at `url` does not answer. Returns whether there is another one, whose turn it then is.
    pub(super) fn failed(&self, url: &str) -> bool {
        let mut state = self.lock();
        let count = state.candidates.len();
        // Another watch may have found out before.
        if state
            .candidates
            .get(state.current)
            .is_some_and(|tried| display(tried) == url)
            && count > 1
        {
            state.current = (state.current + 1) % count;
            let next = display(&state.candidates[state.current]);
            tracing::info!(failed = url, next, "trying another API server");
        }
        count > 1
    }

    /// Learns from the changes of EndpointSlices.
    pub(super) fn observe(&self, change: &Change) {
        match change {
            Change::Apply(Object::EndpointSlice(slice)) if is_ours(slice) => {
                self.lock()
                    .slices
                    .insert(slice.name.clone(), addresses(slice));
            }
            Change::Delete(Kind::EndpointSlice, name) => {
                if self.lock().slices.remove(name).is_none() {
                    return;
                }
            }
            Change::Replace {
                kind: Kind::EndpointSlice,
                objects,
                ..
            } => {
                let slices = objects.iter().filter_map(|object| match object {
                    Object::EndpointSlice(slice) if is_ours(slice) => {
                        Some((slice.name.clone(), addresses(slice)))
                    }
                    _ => None,
                });
                self.lock().slices = slices.collect();
            }
            _ => return,
        }
        self.learn();
    }

    /// Keeps what is known now. That nobody is there any more is not worth knowing.
    fn learn(&self) {
        let mut state = self.lock();
        let mut known: Vec<SocketAddr> = state.slices.values().flatten().copied().collect();
        known.sort_unstable();
        known.dedup();
        if known.is_empty() || known == state.known {
            return;
        }
        state.known.clone_from(&known);
        drop(state);
        if let Some(path) = &self.memory
            && let Err(error) = keep(path, &Memory { apiservers: known })
        {
            tracing::warn!(
                path = %path.display(), %error,
                "the API servers cannot be remembered: after a restart only those that are configured are known"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's URL as it is told to people, and to [`Servers::failed`].
pub(super) fn display(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}

fn without_brackets(host: &str) -> String {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let service = slice.service.as_ref();
    service.is_some_and(|service| &*service.namespace == NAMESPACE && &*service.name == SERVICE)
}

/// The API servers in a slice, but those that neither are ready nor serve.
fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let port = slice
        .ports
        .iter()
        .find(|port| port.protocol == Protocol::Tcp && &*port.name == PORT);
    let Some(port) = port else {
        return Vec::new();
    };
    let serve = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready || endpoint.serving);
    serve
        .map(|endpoint| SocketAddr::new(endpoint.addr, port.port))
        .filter(|addr| is_reachable(addr.ip()))
        .collect()
}

/// Not an address that is another machine on each machine.
fn is_reachable(addr: IpAddr) -> bool {
    !addr.is_loopback() && !addr.is_unspecified()
}

fn remember(path: &Path) -> io::Result<Memory> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Replaces the file as a whole, so that whoever reads it finds the old one or the new one.
fn keep(path: &Path, memory: &Memory) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    fs::write(&draft, serde_json::to_vec(memory)?)?;
    fs::rename(&draft, path).inspect_err(|_| {
        // What could not be renamed may be left behind as well.
        let _ = fs::remove_file(&draft);
    })
}

#[cfg(test)]
mod tests;
