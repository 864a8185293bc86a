//! What a load balancer is told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use weir_core::model::ObjectName;

use crate::health::{Health, Moment};

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Answers every request, whatever its path and method, as kube-proxy does.
pub(super) fn router(
    service: ObjectName,
    local_endpoints: Arc<AtomicUsize>,
    health: Arc<Health>,
) -> Router {
    Router::new().fallback(async move || {
        let count = local_endpoints.load(Ordering::Relaxed);
        answer(&service, count, health.is_live(Moment::now()))
    })
}

fn answer(service: &ObjectName, count: usize, healthy: bool) -> Response {
    let code = if count > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT, count.to_string()),
    ];
    // Names in Kubernetes need no escapes.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {count},\n\
         \t\"serviceProxyHealthy\": {healthy}\n}}",
        service.namespace, service.name
    );
    (code, headers, body).into_response()
}
