//! The broker's monitoring port: metrics and health.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evenkeel_http_server::{Health, problem, with_errors};
use evenkeel_protocol::v1::Health as ReplicaHealth;
use evenkeel_raft_storage::DataDirectory;
use evenkeel_security::{Need, Role, Security};
use evenkeel_supervision::Progress;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exporting::Exporting;
use crate::exporting_http;
use crate::metric_definitions;
use crate::restart_risk::own_restart_risk;
use crate::status::StatusHub;
use crate::stop::Stop;

const UPKEEP_MS: u64 = 5_000;

#[derive(Clone)]
struct Monitoring {
    /// Once the replicas run.
    running: Arc<OnceLock<Running>>,
    data: Arc<DataDirectory>,
    prometheus: PrometheusHandle,
    progress: Progress,
    lag_bytes_max: u64,
}

/// What the replicas' start brings.
#[derive(Clone)]
pub struct Running {
    pub status: StatusHub,
    pub exporting: Exporting,
}

/// The monitoring port; it serves until it is dropped or told to stop.
pub struct MonitoringPort {
    pub prometheus: PrometheusHandle,
    running: Arc<OnceLock<Running>>,
    server: JoinSet<()>,
    stop: CancellationToken,
}

impl MonitoringPort {
    /// Serves from now on: before anything is known of replicas, the broker is only seen to start.
    pub fn serve(
        listener: TcpListener,
        security: Security,
        data: Arc<DataDirectory>,
        prometheus: PrometheusHandle,
        progress: Progress,
        lag_bytes_max: u64,
    ) -> Self {
        let (running, stop) = (Arc::<OnceLock<_>>::default(), CancellationToken::new());
        let state = Monitoring {
            running: running.clone(),
            data,
            prometheus: prometheus.clone(),
            progress,
            lag_bytes_max,
        };
        let routes = Router::new()
            .route("/actuator/prometheus", get(metrics))
            .route("/metrics", get(metrics))
            .route("/actuator/restart-risk", get(restart_risk))
            .route("/actuator/health", get(health))
            .route("/actuator/health/liveness", get(liveness))
            .route("/actuator/health/readiness", get(readiness))
            .route("/actuator/health/startup", get(startup));
        let routes =
            with_errors(routes.merge(exporting_http::routes(running.clone())), error).with_state(state);
        let routes = evenkeel_http_server::guarded(routes, security.guard(), need);
        let mut server = JoinSet::new();
        let stopped = stop.clone().cancelled_owned();
        server.spawn(async move {
            evenkeel_http_server::serve(listener, security.http(), routes, stopped).await;
        });
        Self { prometheus, running, server, stop }
    }

    /// The replicas run, and this tells of them.
    pub fn show(&self, running: Running) {
        // Only the first call counts, and there is one.
        let _ = self.running.set(running);
    }

    /// Serves until `stop`, or until the server fails.
    pub async fn until(mut self, mut stop: Stop) {
        tokio::select! {
            () = stop.requested() => self.stop.cancel(),
            // Its only failure would be a panic, which has been reported.
            _ = self.server.join_next() => return,
        }
        let _ = self.server.join_next().await;
    }
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
    if let Some(running) = state.running.get() {
        running.status.refresh_gauges();
        running.exporting.refresh_gauges(running.status.replicas().iter());
    }
    let data = Arc::clone(&state.data);
    // A disk that hangs must not hold a worker thread; what it cannot tell is left out.
    let space = tokio::task::spawn_blocking(move || data.disk_space()).await;
    metric_definitions::set_disk_gauges(space.ok().and_then(Result::ok));
    state.prometheus.run_upkeep();
    let process = evenkeel_process_metrics::render("broker", env!("CARGO_PKG_VERSION"));
    let text = state.prometheus.render() + &process;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// What only replicas could answer.
pub fn starting(uri: &Uri) -> Response {
    let detail = "the broker still replays its log; ask again when /actuator/health/startup is UP";
    problem(StatusCode::SERVICE_UNAVAILABLE, uri, detail.to_owned())
}

/// Answers 200 whether it is safe or not: the body's `safe` tells.
async fn restart_risk(State(state): State<Monitoring>, uri: Uri) -> Response {
    let Some(Running { status, .. }) = state.running.get() else { return starting(&uri) };
    match own_restart_risk(status, status.peers(), state.lag_bytes_max).await {
        Ok(risk) => axum::Json(risk).into_response(),
        Err(unknown) => problem(StatusCode::SERVICE_UNAVAILABLE, &uri, unknown.to_string()),
    }
}

/// What is this broker's own: none of it depends on a quorum.
async fn health(State(state): State<Monitoring>) -> Health {
    state.with_replicas(state.with_lifecycle(state.with_log(state.with_progress(Health::root()))))
}

/// Whether this process makes progress: if not, only a restart helps.
async fn liveness(State(state): State<Monitoring>) -> Health {
    state.with_progress(Health::group())
}

/// Whether each replica can serve, or tell who can. So whoever takes brokers down one at a time waits until this one is
/// back in every partition.
async fn readiness(State(state): State<Monitoring>) -> Health {
    state.with_partitions(state.with_lifecycle(state.with_log(Health::group())))
}

/// Whether the log is replayed.
async fn startup(State(state): State<Monitoring>) -> Health {
    state.with_log(Health::group())
}

impl Monitoring {
    fn with_progress(&self, health: Health) -> Health {
        let silence = self.progress.silence();
        health.with("progress", self.progress.is_alive(), json!({ "secondsSinceBeat": silence.as_secs() }))
    }

    fn with_log(&self, health: Health) -> Health {
        let replayed = self.progress.has_started();
        health.with("log", replayed, json!({ "replayed": replayed }))
    }

    fn with_lifecycle(&self, health: Health) -> Health {
        let stopping =
            self.running.get().is_some_and(|running| running.status.subscribe().borrow().head.draining);
        health.with("lifecycle", !stopping, json!({ "stopping": stopping }))
    }

    /// How many replicas there are, how many have stopped, and how many know no leader.
    fn replicas(&self) -> (usize, usize, usize) {
        let Some(running) = self.running.get() else { return (0, 0, 0) };
        let status = running.status.subscribe().borrow().clone();
        let count = |wanted| status.replicas.iter().filter(|r| r.health() == wanted).count();
        (status.replicas.len(), count(ReplicaHealth::Dead), count(ReplicaHealth::Unhealthy))
    }

    fn with_replicas(&self, health: Health) -> Health {
        let (total, dead, leaderless) = self.replicas();
        let details = json!({ "total": total, "dead": dead, "withoutLeader": leaderless });
        health.with("replicas", dead == 0, details)
    }

    fn with_partitions(&self, health: Health) -> Health {
        let (total, dead, leaderless) = self.replicas();
        let details = json!({ "total": total, "dead": dead, "withoutLeader": leaderless });
        health.with("partitions", dead + leaderless == 0, details)
    }
}

/// Who looks here for what only gateways serve is told so.
fn error(status: StatusCode, uri: &Uri, detail: String) -> Response {
    let detail = match status {
        StatusCode::NOT_FOUND => format!(
            "{detail}: a broker serves /actuator/prometheus, /actuator/health, /actuator/restart-risk, /actuator/partitions and \
             /actuator/exporting here; rebalance at the gateway's monitoring port"
        ),
        _ => detail,
    };
    problem(status, uri, detail)
}
