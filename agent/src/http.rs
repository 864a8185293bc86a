//! Serving HTTP/1 to whoever may come: the health port is open to the whole network, so a peer that is slow, silent or
//! many must not cost the agent its descriptors.

use std::{future::Future, net::SocketAddr, pin::pin, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// How long a peer may take to send a request's head; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections served at once, by one listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// How long answers under way may take once the server is asked to end.
const GRACE: Duration = Duration::from_secs(2);

/// Where a server listens: an address and port, or nowhere when the option is empty (as kube-proxy has it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|addr| Self(Some(addr))).map_err(|_| {
            format!("`{text}` is not an address and port, such as 127.0.0.1:10249 or [::]:10249; leave it empty to listen nowhere")
        })
    }
}

/// Binds what `option` asks for; `None` when it is empty.
///
/// # Errors
/// When the address cannot be had; names the option.
pub async fn bind(option: &str, address: BindAddress) -> Result<Option<TcpListener>> {
    let Some(addr) = address.0 else {
        return Ok(None);
    };
    let listener = TcpListener::bind(addr).await.with_context(|| {
        format!(
            "cannot listen on {addr}; kube-proxy, if it runs on this node, uses the same ports: \
             stop it, or give another {option}"
        )
    })?;
    Ok(Some(listener))
}

/// Answers requests until `ended` completes, then finishes those under way.
pub async fn serve<L>(mut listener: L, router: Router, ended: impl Future<Output = ()>)
where
    L: Listener,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let (closing, _) = tokio::sync::watch::channel(());
    let mut ended = pin!(ended);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await.0, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut ended => break,
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        let mut closed = closing.subscribe();
        connections.spawn(async move {
            let _place = place;
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
            );
            let result = tokio::select! {
                result = connection.as_mut() => result,
                _ = closed.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
        });
    }
    closing.send_replace(());
    let finished = async { while connections.join_next().await.is_some() {} };
    // What is still open after that is cut off when `connections` drops.
    let _ = tokio::time::timeout(GRACE, finished).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    async fn ask(addr: SocketAddr) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_the_server_from_answering_or_ending() {
        let listener = bind("--test", "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let router = Router::new().route("/", get(|| async { "here" }));
        let server = tokio::spawn(serve(listener, router, async {
            ended.await.ok();
        }));

        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS / 2 {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        assert!(ask(addr).await.ends_with("here"));

        end.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), server)
            .await
            .expect("the server ends although silent peers hold connections")
            .unwrap();
        assert!(TcpStream::connect(addr).await.is_err());
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_the_option() {
        let first = bind("--test", "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind("--healthz-bind-address", BindAddress(Some(addr)))
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&addr.to_string()) && text.contains("--healthz-bind-address"));
    }

    #[test]
    fn an_empty_address_means_no_server() {
        assert_eq!("".parse(), Ok(BindAddress(None)));
        assert!("10249".parse::<BindAddress>().is_err());
        assert!("[::]:10249".parse::<BindAddress>().is_ok());
    }
}
