//! The HTTP client of one watch.
//!
//! kube's ready-made client waits without end for a server that stopped answering, and hides a server's refusals behind
//! its own retries. A service proxy cannot afford either: what it does not hear, it keeps programmed.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
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
/// loop. The further pages of a list do not count, they follow as fast as the server sends them.
const REQUESTS_PER_SECOND: u32 = 20;

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
        .layer_fn(|inner| Watcher {
            inner,
            opened: Arc::clone(&opened),
            turns: Turns::default(),
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
/// would look broken until the next object changes. And lets requests wait for their turn.
struct Watcher<S> {
    inner: S,
    opened: Arc<Notify>,
    turns: Turns,
}

impl<S, B> Service<Request<Body>> for Watcher<S>
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
        let has = |wanted: &dyn Fn(&str) -> bool| query.split('&').any(wanted);
        let is_watch = has(&|pair| pair == "watch=true");
        let is_next_page = has(&|pair| pair.starts_with("continue="));
        let turn = (!is_next_page).then(|| self.turns.take(Instant::now()));
        let opened = Arc::clone(&self.opened);
        let answer = self.inner.call(request);
        async move {
            // Nothing is sent before the future of the answer is asked for it.
            if let Some(turn) = turn {
                sleep_until(turn).await;
            }
            let answer = answer.await;
            if is_watch
                && answer
                    .as_ref()
                    .is_ok_and(|answer| answer.status().is_success())
            {
                opened.notify_one();
            }
            answer
        }
        .boxed()
    }
}

/// Gives no more than [`REQUESTS_PER_SECOND`] turns in a second, as long as there are some at once, then evenly spread.
#[derive(Default)]
struct Turns {
    /// When all turns that were given would be over, had they been spread evenly.
    over: Option<Instant>,
}

impl Turns {
    /// When it is the turn of a request that comes `now`.
    fn take(&mut self, now: Instant) -> Instant {
        const SECOND: Duration = Duration::from_secs(1);
        let each = SECOND / REQUESTS_PER_SECOND;
        let over = self.over.map_or(now, |over| over.max(now)) + each;
        self.over = Some(over);
        over.checked_sub(SECOND).map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_at_once_until_there_are_too_many() {
        let start = Instant::now();
        let mut turns = Turns::default();
        let mut taken = Vec::new();
        for _ in 0..100 {
            let now = taken.last().copied().unwrap_or(start);
            taken.push(turns.take(now));
        }
        let within_a_second = |from: Instant| {
            let until = from + Duration::from_secs(1);
            let within = taken.iter().filter(|turn| (from..until).contains(turn));
            within.count()
        };
        assert_eq!(taken[REQUESTS_PER_SECOND as usize - 1], start);
        assert!(taken[REQUESTS_PER_SECOND as usize] > start);
        // A burst and what has become free meanwhile.
        assert_eq!(within_a_second(start), 2 * REQUESTS_PER_SECOND as usize - 1);
        assert_eq!(within_a_second(taken[50]), REQUESTS_PER_SECOND as usize);
        let later = start + Duration::from_secs(100);
        assert_eq!(turns.take(later), later);
    }
}
