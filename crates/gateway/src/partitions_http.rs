//! The partitions' routes of the API port: all of them, and one with its indices and who led it lately.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use evenkeel_protocol::PartitionId;
use serde::Serialize;
use serde_json::json;

use crate::cluster_json::{PartitionJson, WithIndices, partition, partitions};
use crate::http::{HttpState, problem_with};
use crate::leaderships::Leadership;

pub(crate) fn routes() -> Router<HttpState> {
    Router::new().route("/cluster/v2/partitions", get(all)).route("/cluster/v2/partitions/{id}", get(one))
}

async fn all(State(state): State<HttpState>) -> Response {
    let topology = state.topology.borrow().clone();
    Json(json!({"partitions": partitions(&topology)})).into_response()
}

#[derive(Debug, Serialize)]
struct OneJson {
    #[serde(flatten)]
    partition: PartitionJson,
    leaderships: Vec<Leadership>,
}

async fn one(State(state): State<HttpState>, Path(id): Path<String>, uri: Uri) -> Response {
    let topology = state.topology.borrow().clone();
    // Not through `partition`, which would also find the system group.
    let found =
        id.parse().ok().and_then(|id| topology.partitions.iter().find(|view| view.id == PartitionId(id)));
    let Some(found) = found else { return unknown(&uri, &id, topology.partitions_count) };
    let partition = partition(&topology, found, WithIndices::Yes);
    Json(OneJson { partition, leaderships: state.leaderships.of(found.id) }).into_response()
}

fn unknown(uri: &Uri, id: &str, partitions_count: u32) -> Response {
    let detail = match partitions_count {
        0 => format!("partition {id:?}: no broker has been heard yet; ask again once one is reachable"),
        count => format!("partition {id:?} does not exist: the cluster has 1 to {count}"),
    };
    problem_with(StatusCode::NOT_FOUND, uri, detail, json!({"reason": "UNKNOWN_PARTITION"}))
}
