//! The broker's monitoring port: metrics and health.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evenkeel_http_server::{problem, with_errors};
use evenkeel_raft_storage::DataDirectory;
use evenkeel_security::{Need, Role, Security};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;

use crate::exporting::Exporting;
use crate::exporting_http;
use crate::metric_definitions;
use crate::status::StatusHub;
use crate::stop::Stop;

const UPKEEP_MS: u64 = 5_000;

#[derive(Clone)]
struct Monitoring {
    status: StatusHub,
    exporting: Exporting,
    data: Arc<DataDirectory>,
    prometheus: PrometheusHandle,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    security: Security,
    status: StatusHub,
    exporting: Exporting,
    data: Arc<DataDirectory>,
    prometheus: PrometheusHandle,
    mut stop: Stop,
) {
    let exporting_routes = exporting_http::routes(exporting.clone(), status.clone());
    let state = Monitoring { status, exporting, data, prometheus };
    let routes = Router::new()
        .route("/actuator/prometheus", get(metrics))
        .route("/metrics", get(metrics))
        .route("/actuator/health", get(health))
        .route("/actuator/health/liveness", get(up))
        .route("/actuator/health/readiness", get(readiness))
        .route("/actuator/health/startup", get(up));
    let routes = with_errors(routes.merge(exporting_routes), error).with_state(state);
    let routes = evenkeel_http_server::guarded(routes, security.guard(), need);
    evenkeel_http_server::serve(listener, security.http(), routes, stop.requested()).await;
}

/// Probes have no credentials, and health tells nothing that is worth hiding.
fn need(method: &Method, path: &str) -> Need {
    match *method {
        Method::GET | Method::HEAD if path.starts_with("/actuator/health") => Need::Nothing,
        Method::GET | Method::HEAD => Need::Role(Role::Read),
        _ => Need::Role(Role::Operate),
    }
}

/// Takes samples out of the histograms' queues, which grow for as long as nobody scrapes.
pub async fn keep_up(prometheus: PrometheusHandle, mut stop: Stop) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(UPKEEP_MS)) => prometheus.run_upkeep(),
            () = stop.requested() => return,
        }
    }
}

async fn metrics(State(state): State<Monitoring>) -> impl IntoResponse {
    state.status.refresh_gauges();
    state.exporting.refresh_gauges(state.status.replicas().iter());
    let data = Arc::clone(&state.data);
    // A disk that hangs must not hold a worker thread; what it cannot tell is left out.
    let space = tokio::task::spawn_blocking(move || data.disk_space()).await;
    metric_definitions::set_disk_gauges(space.ok().and_then(Result::ok));
    state.prometheus.run_upkeep();
    let process = evenkeel_process_metrics::render("broker", env!("CARGO_PKG_VERSION"));
    let text = state.prometheus.render() + &process;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// The listener opens once the log is replayed and the replicas run, so answering is the proof.
async fn up() -> impl IntoResponse {
    axum::Json(json!({ "status": "UP" }))
}

async fn readiness(State(state): State<Monitoring>) -> impl IntoResponse {
    let draining = state.status.subscribe().borrow().draining;
    if draining {
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({ "status": "OUT_OF_SERVICE" })));
    }
    (StatusCode::OK, axum::Json(json!({ "status": "UP" })))
}

async fn health(State(state): State<Monitoring>) -> impl IntoResponse {
    let status = state.status.subscribe().borrow().clone();
    let count = |wanted| status.replicas.iter().filter(|r| r.health() == wanted).count();
    let (dead, unhealthy) =
        (count(evenkeel_protocol::v1::Health::Dead), count(evenkeel_protocol::v1::Health::Unhealthy));
    let (code, text) =
        if dead > 0 { (StatusCode::SERVICE_UNAVAILABLE, "DOWN") } else { (StatusCode::OK, "UP") };
    let replicas = json!({ "status": text, "details": { "total": status.replicas.len(), "dead": dead, "withoutLeader": unhealthy } });
    (code, axum::Json(json!({ "status": text, "components": { "replicas": replicas } })))
}

/// Who looks here for what only gateways serve is told so.
fn error(status: StatusCode, uri: &Uri, detail: String) -> Response {
    let detail = match status {
        StatusCode::NOT_FOUND => format!(
            "{detail}: a broker serves /actuator/prometheus, /actuator/health, /actuator/partitions and /actuator/exporting \
             here; rebalance at the gateway's monitoring port"
        ),
        _ => detail,
    };
    problem(status, uri, detail)
}
