//! The admin port: `/healthz`, `/readyz`, `/metrics`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use crate::metrics::MetricsHandle;
use crate::problem::{Problem, unknown_method, unknown_path};
use crate::readiness::Readiness;

#[derive(Debug, Clone)]
struct Admin {
    readiness: Readiness,
    metrics: MetricsHandle,
}

/// The routes of the admin port.
pub fn router(readiness: Readiness, metrics: MetricsHandle) -> Router {
    Router::new()
        // Alive as long as it answers; whether work may come is another question.
        .route("/healthz", get(|| async { Json(serde_json::json!({ "status": "alive" })) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(Admin { readiness, metrics })
}

async fn ready(State(admin): State<Admin>) -> Response {
    let waiting = admin.readiness.waiting_for();
    if waiting.is_empty() {
        return Json(serde_json::json!({ "status": "ready" })).into_response();
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "The service takes no work now")
        .with_detail(format!("waiting for: {}", waiting.join(", ")))
        .with_member("waiting_for", waiting)
        .into_response()
}

async fn render(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}
