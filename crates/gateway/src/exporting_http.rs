//! Pausing and resuming exporters on the monitoring port, as Zeebe's gateway does: told to every broker, each of which
//! remembers it.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use evenkeel_protocol::NodeId;
use evenkeel_protocol::internal::v1::SetExportingRequest;
use futures::StreamExt;
use serde_json::json;
use tokio::time::timeout;

use crate::http::{HttpState, problem_with};

/// A broker writes a file; one that takes longer is not there.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// Brokers told at once.
const TELL_MAX: usize = 32;

pub(crate) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/actuator/exporting/pause", post(pause))
        .route("/actuator/exporting/resume", post(resume))
}

async fn pause(State(state): State<HttpState>, uri: Uri) -> Response {
    match evenkeel_http_server::switch(&uri, "soft") {
        Ok(soft) => tell_all(&state, SetExportingRequest { paused: true, soft }, &uri).await,
        Err(refusal) => *refusal,
    }
}

async fn resume(State(state): State<HttpState>, uri: Uri) -> Response {
    tell_all(&state, SetExportingRequest::default(), &uri).await
}

async fn tell_all(state: &HttpState, asked: SetExportingRequest, uri: &Uri) -> Response {
    let links: Vec<_> = state.router.links.all().cloned().collect();
    let told = futures::stream::iter(links).map(|link| async move {
        let mut client = link.client();
        let failed = match timeout(TELL_TIMEOUT, client.set_exporting(asked)).await {
            Ok(Ok(_)) => return None,
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => format!("no answer in {}", humantime::format_duration(TELL_TIMEOUT)),
        };
        Some((link.node, failed))
    });
    let mut failed: Vec<(NodeId, String)> =
        told.buffer_unordered(TELL_MAX).filter_map(std::future::ready).collect().await;
    if failed.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    failed.sort();
    let word = if asked.paused { "paused" } else { "resumed" };
    let brokers: Vec<String> = failed.iter().map(|(node, why)| format!("broker {node} ({why})")).collect();
    let detail = format!("exporting is not {word} on {}; ask again when they are there", brokers.join(", "));
    let nodes: Vec<u64> = failed.iter().map(|(node, _)| node.0).collect();
    problem_with(
        StatusCode::BAD_GATEWAY,
        uri,
        detail,
        json!({"reason": "BROKERS_NOT_TOLD", "brokers": nodes}),
    )
}
