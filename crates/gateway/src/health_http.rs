//! Health of the gateway, at its monitoring port. Liveness asks only whether this process makes progress; a cluster that
//! cannot be reached makes the gateway not ready, and no restart would help it.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use evenkeel_http_server::Health;
use serde_json::json;

use crate::http::HttpState;

pub(crate) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/actuator/health", get(health))
        .route("/actuator/health/liveness", get(liveness))
        .route("/actuator/health/readiness", get(readiness))
        .route("/actuator/health/startup", get(startup))
}

async fn health(State(state): State<HttpState>) -> Health {
    state.with_brokers(state.with_lifecycle(state.with_progress(Health::root())))
}

async fn liveness(State(state): State<HttpState>) -> Health {
    state.with_progress(Health::group())
}

/// Whether requests can be forwarded.
async fn readiness(State(state): State<HttpState>) -> Health {
    state.with_brokers(state.with_lifecycle(Health::group()))
}

/// A gateway has nothing to replay: it has started once it serves.
async fn startup(State(state): State<HttpState>) -> Health {
    let started = state.progress.has_started();
    Health::group().with("start", started, json!({}))
}

impl HttpState {
    fn with_progress(&self, health: Health) -> Health {
        let silence = self.progress.silence();
        health.with("progress", self.progress.is_alive(), json!({ "secondsSinceBeat": silence.as_secs() }))
    }

    fn with_lifecycle(&self, health: Health) -> Health {
        let stopping = self.stopping.is_cancelled();
        health.with("lifecycle", !stopping, json!({ "stopping": stopping }))
    }

    fn with_brokers(&self, health: Health) -> Health {
        let topology = self.topology.borrow();
        let reachable = topology.brokers.iter().filter(|broker| broker.reachable).count();
        let details = json!({ "known": topology.brokers.len(), "reachable": reachable });
        health.with("brokers", topology.is_reachable(), details)
    }
}
