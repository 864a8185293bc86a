//! The local API: JSON over HTTP/1 on a Unix socket that only root can open. The subcommands read it.

mod assess;
pub mod client;
mod socket;
pub mod view;

use std::{future::Future, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

pub use assess::percent;
pub use socket::{Socket, SocketError};
use view::{ServiceFilter, ServiceView, Status};

/// Where the socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weir/weir.sock";

/// Whoever knows the agent's state.
pub trait Engine: Send + Sync + 'static {
    /// The state of the agent.
    fn status(&self) -> impl Future<Output = Result<Status, Unavailable>> + Send;
    /// The services that match, ordered by namespace and name.
    fn services(
        &self,
        filter: ServiceFilter,
    ) -> impl Future<Output = Result<Vec<ServiceView>, Unavailable>> + Send;
}

/// The agent cannot say at the moment: why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{error}")]
pub struct Unavailable {
    /// Why.
    pub error: String,
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(self)).into_response()
    }
}

/// Serves `/v1/status` and `/v1/services[?namespace=NAMESPACE][&name=NAME]`.
pub fn router<E: Engine>(engine: Arc<E>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<E>))
        .route("/v1/services", get(services::<E>))
        .fallback(async || {
            let error = "no such resource; this agent has /v1/status and /v1/services".to_owned();
            (StatusCode::NOT_FOUND, Json(Unavailable { error }))
        })
        .with_state(engine)
}

async fn status<E: Engine>(State(engine): State<Arc<E>>) -> Result<Json<Status>, Unavailable> {
    engine.status().await.map(Json)
}

async fn services<E: Engine>(
    State(engine): State<Arc<E>>,
    Query(filter): Query<ServiceFilter>,
) -> Result<Json<Vec<ServiceView>>, Unavailable> {
    engine.services(filter).await.map(Json)
}

#[cfg(test)]
mod tests;
