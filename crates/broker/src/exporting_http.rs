//! The broker's actuator for exporters, as Zeebe's brokers have it: pause, resume, and where each replica is.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use evenkeel_http_server::problem;
use evenkeel_protocol::SYSTEM_GROUP;
use evenkeel_protocol::v1::Role;
use evenkeel_raft_storage::ExportingPhase;
use serde_json::{Map, Value, json};

use crate::exporting::Exporting;
use crate::monitoring::{Running, starting};
use crate::replica::Replica;
use crate::status::role_of;

/// Set once the replicas run.
type Exporters = Arc<OnceLock<Running>>;

/// The routes, whatever state the others have.
pub fn routes<S>(running: Exporters) -> Router<S> {
    Router::new()
        .route("/actuator/exporting/pause", post(pause))
        .route("/actuator/exporting/resume", post(resume))
        .route("/actuator/partitions", get(partitions))
        .with_state(running)
}

async fn pause(State(exporters): State<Exporters>, uri: Uri) -> Response {
    match evenkeel_http_server::switch(&uri, "soft") {
        Ok(true) => set(&exporters, ExportingPhase::SoftPaused, &uri).await,
        Ok(false) => set(&exporters, ExportingPhase::Paused, &uri).await,
        Err(refusal) => *refusal,
    }
}

async fn resume(State(exporters): State<Exporters>, uri: Uri) -> Response {
    set(&exporters, ExportingPhase::Exporting, &uri).await
}

async fn set(exporters: &Exporters, phase: ExportingPhase, uri: &Uri) -> Response {
    let Some(running) = exporters.get() else { return starting(uri) };
    match running.exporting.set(phase).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            let detail = format!("the data folder cannot be written: {error}; make room there and ask again");
            problem(StatusCode::INTERNAL_SERVER_ERROR, uri, detail)
        }
    }
}

async fn partitions(State(exporters): State<Exporters>, uri: Uri) -> Response {
    let Some(running) = exporters.get() else { return starting(&uri) };
    let replicas = running.status.replicas().iter().filter(|replica| replica.partition != SYSTEM_GROUP);
    let shown: Map<String, Value> = replicas
        .map(|replica| (replica.partition.to_string(), replica_json(&running.exporting, replica)))
        .collect();
    Json(Value::Object(shown)).into_response()
}

/// Zeebe's names where it has some.
fn replica_json(exporting: &Exporting, replica: &Replica) -> Value {
    let metrics = replica.raft_metrics();
    let exported = exporting.shown(replica);
    let role = match role_of(&metrics) {
        Role::Leader => "LEADER",
        Role::Follower => "FOLLOWER",
        Role::Candidate => "CANDIDATE",
        Role::Inactive | Role::Unspecified => "INACTIVE",
    };
    let exporters: Map<String, Value> = exported
        .exporters
        .iter()
        .map(|(name, (position, lag))| (name.clone(), json!({"position": position, "lagEntries": lag})))
        .collect();
    json!({
        "role": role,
        "term": metrics.current_term,
        "leader": metrics.current_leader,
        "lastLogPosition": metrics.last_log_index.unwrap_or(0),
        "committedPosition": metrics.local_committed.map_or(0, |id| id.index()),
        "processedPosition": *replica.reader.applied().borrow(),
        "firstChangePosition": replica.reader.first_available_position().0,
        "exporterPhase": exported.phase,
        "exportedPosition": exported.exporters.values().map(|(position, _)| position.unwrap_or(0)).min(),
        "exporters": exporters,
    })
}
