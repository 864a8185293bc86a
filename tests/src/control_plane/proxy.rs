//! A TCP proxy between one client and the API server, so that a test can spoil that client's
//! connections and nobody else's.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
    task::{AbortHandle, JoinHandle, JoinSet},
};

use super::Netns;

/// Forwards TCP connections until a test has it do something worse. Its tasks end with it.
#[derive(Debug)]
pub struct Proxy {
    runtime: Handle,
    netns: Netns,
    port: u16,
    url: String,
    accepted: Arc<AtomicUsize>,
    stalled: watch::Sender<bool>,
    state: Mutex<State>,
    target: SocketAddr,
}

#[derive(Debug, Default)]
struct State {
    listening: Option<JoinHandle<()>>,
    connections: Connections,
}

type Connections = Arc<Mutex<Vec<AbortHandle>>>;

impl Proxy {
    /// Listens on a free port of all addresses of `netns`. What arrives goes to `target` in the namespace
    /// of the runtime's threads: a socket stays in the namespace in which it was made, so that no
    /// network has to join the two. `host` is what stands in the URL.
    pub(super) fn new(
        runtime: &Handle,
        netns: &Netns,
        host: &str,
        target: SocketAddr,
    ) -> Result<Self> {
        let listener = listen(runtime, netns, 0)?;
        let port = listener
            .local_addr()
            .context("cannot ask for the proxy's port")?
            .port();
        let proxy = Self {
            runtime: runtime.clone(),
            netns: netns.clone(),
            port,
            url: format!("https://{host}:{port}"),
            accepted: Arc::default(),
            stalled: watch::Sender::new(false),
            state: Mutex::default(),
            target,
        };
        proxy.serve(&mut lock(&proxy.state), listener);
        Ok(proxy)
    }

    /// The API server's URL by way of this proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many connections it has accepted so far: a client that comes again makes it grow.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open at the moment.
    pub fn open(&self) -> usize {
        let state = lock(&self.state);
        let connections = lock(&state.connections);
        connections
            .iter()
            .filter(|task| !task.is_finished())
            .count()
    }

    /// Resets every connection. New ones are forwarded as before.
    pub fn cut(&self) {
        let state = lock(&self.state);
        for task in lock(&state.connections).drain(..) {
            task.abort();
        }
    }

    /// Resets every connection and refuses new ones (ECONNREFUSED), as a machine does whose API server
    /// is down, until [`Proxy::restore`].
    pub fn refuse(&self) {
        let listening = lock(&self.state).listening.take();
        if let Some(task) = listening {
            task.abort();
            // Not before its listener is closed are connections refused.
            let (done, wait) = std::sync::mpsc::channel();
            self.runtime.spawn(async move {
                let _ = task.await;
                let _ = done.send(());
            });
            let _ = wait.recv();
        }
        self.cut();
    }

    /// Forwards nothing any more, but keeps connections open and accepts new ones, as a network does
    /// that loses every packet, until [`Proxy::restore`]. What arrives meanwhile is forwarded then.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Ends what [`Proxy::refuse`] and [`Proxy::stall`] began.
    ///
    /// # Errors
    /// When the port has been taken in the meantime.
    pub fn restore(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if state.listening.is_none() {
            let listener = listen(&self.runtime, &self.netns, self.port)?;
            self.serve(&mut state, listener);
        }
        self.stalled.send_replace(false);
        Ok(())
    }

    fn serve(&self, state: &mut State, listener: TcpListener) {
        let accepted = Arc::clone(&self.accepted);
        let connections = Arc::clone(&state.connections);
        let stalled = self.stalled.subscribe();
        let target = self.target;
        state.listening = Some(self.runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let task = tokio::spawn(forward(client, target, stalled.clone()));
                let mut connections = lock(&connections);
                connections.retain(|task| !task.is_finished());
                connections.push(task.abort_handle());
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.state).listening.take() {
            task.abort();
        }
        self.cut();
    }
}

fn listen(runtime: &Handle, netns: &Netns, port: u16) -> Result<TcpListener> {
    let _runtime = runtime.enter();
    netns
        .run(|| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .with_context(|| format!("cannot listen on port {port}"))
}

async fn forward(client: TcpStream, target: SocketAddr, stalled: watch::Receiver<bool>) {
    // Dropped, a connection is reset: its peer sees an error, not a stream that came to its end.
    let _ = client.set_zero_linger();
    let mut stalled_before = stalled.clone();
    if stalled_before.wait_for(|stalled| !stalled).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut directions = JoinSet::new();
    directions.spawn(pump(from_client, to_server, stalled.clone()));
    directions.spawn(pump(from_server, to_client, stalled));
    while directions.join_next().await.is_some() {}
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if stalled.wait_for(|stalled| !stalled).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
    let _ = to.shutdown().await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
