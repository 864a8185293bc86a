//! The HTTP client of one watch.
//!
//! kube's ready-made client waits without end for a server that stopped answering, and hides a server's refusals behind
//! its own retries. A service proxy cannot afford either: what it does not hear, it keeps programmed.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tokio::sync::Notify;
use tower::{BoxError, Service, ServiceBuilder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the head of an answer, TLS included. What follows is timed by whoever reads it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent peer is probed after this, every [`KEEPALIVE_INTERVAL`], and given up after [`KEEPALIVE_RETRIES`]: about as
/// soon as client-go gives up an HTTP/2 connection (30 s to its ping, 15 s for the answer).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// The same for data that is not acknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// No more than this many requests in a second: a server or proxy that ends every watch at once is not asked in a tight
/// loop. A list of many pages stays far below it.
const REQUESTS_PER_SECOND: u64 = 20;

/// Builds a client, and what tells when a watch was answered with success. Nothing is sent yet.
pub(super) fn build(config: &Config) -> Result<(Client, Arc<Notify>), kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(https);

    let opened = Arc::new(Notify::new());
    let service = ServiceBuilder::new()
        .rate_limit(REQUESTS_PER_SECOND, Duration::from_secs(1))
        .layer_fn(|inner| Opened {
            inner,
            opened: Arc::clone(&opened),
        })
        .timeout(ANSWER_TIMEOUT)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok((
        Client::new(service, config.default_namespace.clone()),
        opened,
    ))
}

/// Tells when a watch was answered with success, which kube's watcher keeps to itself: without it a watch that works again
/// would look broken until the next object changes.
#[derive(Clone)]
struct Opened<S> {
    inner: S,
    opened: Arc<Notify>,
}

impl<S, B> Service<Request<Body>> for Opened<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        let opened = Arc::clone(&self.opened);
        self.inner
            .call(request)
            .inspect(move |answer| {
                if let Ok(answer) = answer
                    && is_watch
                    && answer.status().is_success()
                {
                    opened.notify_one();
                }
            })
            .boxed()
    }
}
