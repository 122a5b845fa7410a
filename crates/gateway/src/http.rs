//! The HTTP routes of both ports: topology and rebalance runs on the API port, actuator and metrics on the
//! monitoring port. Errors are `application/problem+json`.

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::brokers_http;
use crate::drain_keeper::Drains;
use crate::esc_http;
use crate::esc_runner::EscOwnership;
use crate::rebalance_http;
use crate::rebalance_runner::Rebalancer;
use crate::topology::SharedTopology;
use crate::topology_views;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers show and start.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) topology: watch::Receiver<SharedTopology>,
    pub(crate) rebalancer: Rebalancer,
    pub(crate) drains: Drains,
    pub(crate) ownership: EscOwnership,
    pub(crate) prometheus: PrometheusHandle,
    /// Set once the gateway is asked to stop.
    pub(crate) stopping: CancellationToken,
}

/// Routes of the API port.
pub(crate) fn api_routes(state: HttpState) -> Router {
    with_problems(
        Router::new()
            .route("/v2/topology", get(topology))
            .merge(rebalance_http::routes())
            .merge(brokers_http::routes())
            .merge(esc_http::routes(state.ownership.clone())),
    )
    .with_state(state)
}

/// Routes of the monitoring port.
pub(crate) fn monitoring_routes(state: HttpState) -> Router {
    with_problems(
        Router::new()
            .route("/actuator/rebalance", post(rebalance_http::actuator))
            .route("/actuator/prometheus", get(prometheus))
            .route("/metrics", get(prometheus))
            .route("/actuator/health", get(readiness))
            .route("/actuator/health/liveness", get(liveness))
            .route("/actuator/health/readiness", get(readiness))
            .route("/actuator/health/startup", get(startup)),
    )
    .with_state(state)
}

fn with_problems(routes: Router<HttpState>) -> Router<HttpState> {
    routes.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    instance: String,
    /// Members of our own.
    #[serde(flatten)]
    more: serde_json::Value,
}

/// An error without more to tell than a sentence.
pub(crate) fn problem(status: StatusCode, uri: &Uri, detail: String) -> Response {
    problem_with(status, uri, detail, serde_json::json!({}))
}

/// An error with members, an object, for programs.
pub(crate) fn problem_with(
    status: StatusCode,
    uri: &Uri,
    detail: String,
    more: serde_json::Value,
) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Problem {
        r#type: "about:blank",
        title,
        status: status.as_u16(),
        detail,
        instance: uri.path().to_owned(),
        more,
    };
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, content_type, Json(body).into_response().into_body()).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let detail = format!("nothing is served at {}; check the path and the port", uri.path());
    problem(StatusCode::NOT_FOUND, &uri, detail)
}

async fn method_not_allowed(method: axum::http::Method, uri: Uri) -> Response {
    let detail = format!("{method} is not supported here; the Allow header names what is");
    problem(StatusCode::METHOD_NOT_ALLOWED, &uri, detail)
}

async fn topology(State(state): State<HttpState>) -> Response {
    Json(topology_views::to_json(&state.topology.borrow())).into_response()
}

async fn prometheus(State(state): State<HttpState>) -> Response {
    let process = evenkeel_process_metrics::render("gateway", env!("CARGO_PKG_VERSION"));
    let text = state.prometheus.render() + &process;
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response()
}

/// Spring's health shape.
#[derive(Serialize)]
struct HealthJson {
    status: &'static str,
}

fn health(up: bool) -> Response {
    if up {
        Json(HealthJson { status: "UP" }).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(HealthJson { status: "DOWN" })).into_response()
    }
}

async fn liveness() -> Response {
    health(true)
}

async fn readiness(State(state): State<HttpState>) -> Response {
    let reachable = state.topology.borrow().is_reachable();
    health(reachable && !state.stopping.is_cancelled())
}

async fn startup(State(state): State<HttpState>) -> Response {
    let heard = state.topology.borrow().partitions_count != 0;
    health(heard)
}
