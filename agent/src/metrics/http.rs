//! The metrics port: `/metrics`, and what else kube-proxy answers there.

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Metrics, exposition};

/// What `/proxyMode` answers. kube-proxy says `iptables`, `ipvs` or `nftables` there.
const PROXY_MODE: &str = "ebpf";

/// Serves `/metrics`, `/proxyMode` and a `/healthz` that only says that the port answers.
pub fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(async move || scrape(metrics).await))
        .route("/proxyMode", get(async || plain(PROXY_MODE)))
        .route("/healthz", get(async || plain("ok")))
}

fn plain(text: &'static str) -> impl IntoResponse {
    ([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], text)
}

async fn scrape(metrics: Arc<Metrics>) -> Response {
    // Reading the kernel's counters takes a system call for each service port.
    match tokio::task::spawn_blocking(move || metrics.text()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
