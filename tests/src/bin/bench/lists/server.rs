//! As much of an API server as a watcher needs: lists in pages, and watches. It costs little itself, so that what is
//! measured is the agent.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tempfile::TempDir;
use weir_world::Place;

use super::monotonic;

/// The server, until the process ends.
pub(super) struct Server {
    state: Arc<State>,
    directory: TempDir,
}

struct State {
    /// Each list's items as JSON, by path.
    lists: HashMap<&'static str, Vec<String>>,
    /// Where the events of each open watch go, by path.
    watches: Mutex<HashMap<String, mpsc::Sender<Sending>>>,
}

/// An event, and who is told when it leaves (nanoseconds of the monotonic clock).
struct Sending {
    event: String,
    left: mpsc::Sender<u64>,
}

impl Server {
    /// Serves `lists` over TLS at a free port of `place`.
    pub(super) fn start(place: &Place, lists: Vec<(&'static str, Vec<String>)>) -> Result<Self> {
        let address = place.addresses().v4;
        let listener = place
            .run(|| TcpListener::bind((address, 0)))?
            .context("cannot listen")?;
        let directory = tempfile::tempdir()?;
        let config = configure(&directory, listener.local_addr()?)?;
        let state = Arc::new(State {
            lists: lists.into_iter().collect(),
            watches: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, config) = (Arc::clone(&serving), Arc::clone(&config));
                thread::spawn(move || {
                    if let Err(error) = state.serve(stream, config) {
                        eprintln!("bench: the API server's connection: {error:#}");
                    }
                });
            }
        });
        Ok(Self { state, directory })
    }

    /// A kubeconfig that leads here.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// How many bytes all lists have.
    pub(super) fn list_bytes(&self) -> usize {
        let items = self.state.lists.values().flatten();
        items.map(String::len).sum()
    }

    /// Sends an event to the watch of `path`; returns when it left.
    pub(super) fn send(&self, path: &str, event: String) -> Result<u64> {
        let (left, when) = mpsc::channel();
        self.state
            .watches()
            .get(path)
            .with_context(|| format!("nobody watches {path}"))?
            .send(Sending { event, left })?;
        Ok(when.recv()?)
    }
}

/// Makes a certificate and a kubeconfig that trusts it.
fn configure(directory: &TempDir, address: SocketAddr) -> Result<Arc<ServerConfig>> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([address.ip().to_string()])?.self_signed(&key)?;
    let authority = directory.path().join("ca.crt");
    fs::write(&authority, certificate.pem())?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {
            "server": format!("https://{address}"), "certificate-authority": authority,
        }}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    });
    fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(Arc::new(config))
}

impl State {
    fn watches(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<Sending>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the requests of one connection.
    fn serve(&self, stream: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
        stream.set_nodelay(true)?;
        let tls = StreamOwned::new(ServerConnection::new(config)?, stream);
        let mut stream = BufReader::new(tls);
        while let Some(target) = request(&mut stream)? {
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let parameter = |name: &str| {
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs.find_map(|(key, value)| (key == name).then_some(value))
            };
            if parameter("watch") == Some("true") {
                return self.watch(path, stream.get_mut());
            }
            let limit = parameter("limit").map_or(Ok(usize::MAX), str::parse)?;
            let from = parameter("continue").map_or(Ok(0), str::parse)?;
            let page = self.page(path, from, limit)?;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                page.len()
            );
            stream.get_mut().write_all(head.as_bytes())?;
            stream.get_mut().write_all(page.as_bytes())?;
            stream.get_mut().flush()?;
        }
        Ok(())
    }

    fn page(&self, path: &str, from: usize, limit: usize) -> Result<String> {
        let items = self
            .lists
            .get(path)
            .with_context(|| format!("no list at {path}"))?;
        let to = from.saturating_add(limit).min(items.len());
        ensure!(from <= to, "no page of {path} begins at {from}");
        let metadata = if to < items.len() {
            json!({"resourceVersion": "200000", "continue": to.to_string(), "remainingItemCount": items.len() - to})
        } else {
            json!({"resourceVersion": "200000"})
        };
        Ok(format!(
            r#"{{"kind":"List","apiVersion":"v1","metadata":{metadata},"items":[{}]}}"#,
            items[from..to].join(",")
        ))
    }

    /// Sends the events of `path`, each as a chunk of its own, until the client goes.
    fn watch(&self, path: &str, stream: &mut impl Write) -> Result<()> {
        let (sender, events) = mpsc::channel();
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        stream.flush()?;
        self.watches().insert(path.to_owned(), sender);
        for Sending { event, left } in events {
            let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
            left.send(monotonic())?;
            stream.write_all(chunk.as_bytes())?;
            stream.flush()?;
        }
        Ok(())
    }
}

/// The target of the next request, of which nothing else counts; `None` when the client has gone.
fn request(stream: &mut BufReader<impl Read>) -> Result<Option<String>> {
    let mut first = String::new();
    match stream.read_line(&mut first) {
        // TLS calls a client that is killed an unexpected end.
        Ok(0) | Err(_) => return Ok(None),
        Ok(_) => {}
    }
    let target = first
        .split(' ')
        .nth(1)
        .with_context(|| format!("no request: {first:?}"))?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(Some(target.to_owned()))
}
