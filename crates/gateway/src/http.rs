//! The HTTP routes of both ports: topology, records and rebalance runs on the API port, actuator and metrics on the
//! monitoring port. Errors are `application/problem+json`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use evenkeel_http_server::with_errors;
use evenkeel_supervision::Progress;
use evenkeel_traces::TraceLayer;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::audit_http;
use crate::brokers_http;
use crate::console;
use crate::drain_keeper::Drains;
use crate::esc_http;
use crate::esc_runner::EscOwnership;
use crate::exporting_http;
use crate::health_http;
use crate::leaderships::Leaderships;
use crate::openapi;
use crate::partitions_http;
use crate::rebalance_http;
use crate::rebalance_runner::Rebalancer;
use crate::records_http::{self, RecordsHttp};
use crate::topology::SharedTopology;
use crate::topology_stream_http::{self, TopologyStreams};
use crate::topology_views;
use crate::trace_names;
use crate::writes::Router as RecordsRouter;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the handlers show and start.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) topology: watch::Receiver<SharedTopology>,
    pub(crate) rebalancer: Rebalancer,
    pub(crate) drains: Drains,
    pub(crate) ownership: EscOwnership,
    pub(crate) records: RecordsHttp,
    pub(crate) audit: Audit,
    pub(crate) router: Arc<RecordsRouter>,
    pub(crate) leaderships: Leaderships,
    pub(crate) topology_streams: TopologyStreams,
    pub(crate) prometheus: PrometheusHandle,
    /// Set once the gateway is asked to stop.
    pub(crate) stopping: CancellationToken,
    /// Whether it started and goes on.
    pub(crate) progress: Progress,
}

/// Routes of the API port.
pub(crate) fn api_routes(state: HttpState) -> Router {
    let audit = state.audit.clone();
    let routes = Router::new()
        .route("/v2/topology", get(topology))
        .merge(rebalance_http::routes())
        .merge(brokers_http::routes())
        .merge(partitions_http::routes())
        .merge(topology_stream_http::routes())
        .merge(console::routes())
        .merge(audit_http::routes())
        .merge(openapi::routes())
        .merge(records_http::routes(state.records.clone()))
        .merge(esc_http::routes(state.ownership.clone()));
    with_errors(routes, unhandled)
        .layer(from_fn_with_state(audit, audit_http::record))
        .layer(TraceLayer::new(trace_names::http))
        .with_state(state)
}

/// Routes of the monitoring port.
pub(crate) fn monitoring_routes(state: HttpState) -> Router {
    let audit = state.audit.clone();
    let routes = Router::new()
        .route("/actuator/rebalance", post(rebalance_http::actuator))
        .merge(exporting_http::routes())
        .route("/actuator/prometheus", get(prometheus))
        .route("/metrics", get(prometheus))
        .merge(health_http::routes());
    with_errors(routes, problem)
        .layer(from_fn_with_state(audit, audit_http::record))
        .layer(TraceLayer::new(trace_names::http))
        .with_state(state)
}

/// What a response says went wrong, for the audit.
#[derive(Clone, Debug)]
pub(crate) struct Told(pub(crate) String);

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
    let more = more.as_object().cloned().unwrap_or_default();
    let told = Told(detail.clone());
    let mut response = evenkeel_http_server::problem_with(status, uri, detail, more);
    response.extensions_mut().insert(told);
    response
}

/// Errors that no handler has shaped: Cisco ESC's routes have a shape of their own.
fn unhandled(status: StatusCode, uri: &Uri, detail: String) -> Response {
    if uri.path().starts_with(esc_http::ROOT) {
        return esc_http::error(status, &detail);
    }
    problem(status, uri, detail)
}

async fn topology(State(state): State<HttpState>) -> Response {
    Json(topology_views::to_json(&state.topology.borrow())).into_response()
}

async fn prometheus(State(state): State<HttpState>) -> Response {
    let process = evenkeel_process_metrics::render("gateway", env!("CARGO_PKG_VERSION"));
    let text = state.prometheus.render() + &process;
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response()
}
