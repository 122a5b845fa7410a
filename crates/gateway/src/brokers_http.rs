//! The brokers' routes of the API port: which there are, draining them, and what a restart
//! would cost.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use evenkeel_protocol::NodeId;
use serde::Serialize;
use serde_json::json;

use crate::cluster_json;
use crate::drain::{DrainedBrokers, Undrainable};
use crate::drain_keeper::NotDrained;
use crate::http::{HttpState, problem_with};
use crate::rebalance_http::{not_started, store_failed};
use crate::restart_risk;
use crate::topology::{BrokerView, Topology};

pub(crate) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/cluster/v2/brokers", get(brokers))
        .route("/cluster/v2/brokers/{node}", get(broker))
        .route("/cluster/v2/brokers/{node}/restart-risk", get(restart_risk::show))
        .route("/cluster/v2/brokers/{node}/drain", put(drain).delete(undrain))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerJson {
    node_id: u64,
    host: String,
    port: u32,
    version: String,
    uuid: String,
    reachable: bool,
    /// Wished by an operator.
    drained: bool,
    drained_since: Option<String>,
    /// Handing its leaderships over before it stops.
    stopping: bool,
    leaders: usize,
    records: u64,
}

fn broker_json(topology: &Topology, drained: &DrainedBrokers, broker: &BrokerView) -> BrokerJson {
    let led = || topology.partitions.iter().filter(|partition| partition.leader == Some(broker.node));
    let since = drained.0.get(&broker.node).map(|drained| drained.since.clone());
    BrokerJson {
        node_id: broker.node.0,
        host: broker.host.clone(),
        port: broker.port,
        version: broker.version.clone(),
        uuid: broker.uuid.clone(),
        reachable: broker.reachable,
        drained: since.is_some(),
        drained_since: since,
        stopping: broker.draining,
        leaders: led().count(),
        records: led().map(|partition| partition.records).sum(),
    }
}

async fn brokers(State(state): State<HttpState>, uri: Uri) -> Response {
    match state.drains.wished().await {
        Ok(drained) => {
            let topology = state.topology.borrow().clone();
            let brokers: Vec<BrokerJson> =
                topology.brokers.iter().map(|broker| broker_json(&topology, &drained, broker)).collect();
            Json(json!({"brokers": brokers})).into_response()
        }
        Err(error) => store_failed(&uri, &error),
    }
}

/// One broker, with its replicas.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OneBrokerJson {
    #[serde(flatten)]
    broker: cluster_json::BrokerJson,
    partitions: Vec<cluster_json::PartitionJson>,
}

async fn broker(State(state): State<HttpState>, Path(node): Path<String>, uri: Uri) -> Response {
    let topology = state.topology.borrow().clone();
    let found = node.parse().ok().and_then(|node| topology.broker(NodeId(node)));
    let Some(found) = found else { return unknown(&uri, &node) };
    let mut partitions = cluster_json::partitions(&topology);
    partitions.retain(|shown| found.replicas.iter().any(|replica| replica.partition == shown.partition_id));
    let broker = cluster_json::broker(&topology, found);
    Json(OneBrokerJson { broker, partitions }).into_response()
}

async fn drain(State(state): State<HttpState>, Path(node): Path<String>, uri: Uri) -> Response {
    let Ok(node) = node.parse().map(NodeId) else { return unknown(&uri, &node) };
    match state.drains.drain(node).await {
        Ok(run) => Json(json!({"nodeId": node, "drained": true, "rebalanceId": run})).into_response(),
        Err(error) => not_drained(&uri, &error),
    }
}

async fn undrain(State(state): State<HttpState>, Path(node): Path<String>, uri: Uri) -> Response {
    let Ok(node) = node.parse().map(NodeId) else { return unknown(&uri, &node) };
    match state.drains.undrain(node).await {
        Ok(was_drained) => {
            Json(json!({"nodeId": node, "drained": false, "wasDrained": was_drained})).into_response()
        }
        Err(error) => not_drained(&uri, &error),
    }
}

pub(crate) fn unknown(uri: &Uri, node: &str) -> Response {
    let detail = format!("broker {node:?}: write a node id, a number that GET /cluster/v2/brokers lists");
    problem_with(StatusCode::NOT_FOUND, uri, detail, json!({"reason": "UNKNOWN_BROKER"}))
}

fn not_drained(uri: &Uri, error: &NotDrained) -> Response {
    let (status, reason) = match error {
        NotDrained::Undrainable(Undrainable::Unknown(_)) => (StatusCode::NOT_FOUND, "UNKNOWN_BROKER"),
        NotDrained::Undrainable(Undrainable::LastOne(_)) => (StatusCode::CONFLICT, "LAST_BROKER"),
        NotDrained::NotStarted(error) => return not_started(uri, error),
        NotDrained::Store(error) => return store_failed(uri, error),
    };
    problem_with(status, uri, error.to_string(), json!({"reason": reason}))
}
