//! The rebalance routes of the API port, wire-compatible with Zeebe 8.10's `/cluster/v2/rebalance`, and the actuator's.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::http::{HttpState, problem, problem_with};
use crate::rebalance::RefusedBecause;
use crate::rebalance_events::NoEvents;
use crate::rebalance_record::RunHead;
use crate::rebalance_request::{BadRequest, RebalanceRequest};
use crate::rebalance_runner::{Accepted, NotStarted};
use crate::refusals::Refusal;
use crate::system_store::SystemStoreError;

/// Where runs are found on the API port.
const REBALANCE_PATH: &str = "/cluster/v2/rebalance";
pub(crate) const REBALANCE_STATUS: &str = "rebalance-status";
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longer keys are somebody's mistake.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// The routes of the API port.
pub(crate) fn routes() -> Router<HttpState> {
    Router::new()
        .route(REBALANCE_PATH, get(balance).post(start).delete(cancel))
        .route("/cluster/v2/rebalance/history", get(history))
        .route("/cluster/v2/rebalance/{id}", get(run).delete(cancel_one))
        .route("/cluster/v2/rebalance/{id}/events", get(events))
}

/// Zeebe's contract: 200 without a body whatever came of it. The headers tell more to those who look.
pub(crate) async fn actuator(State(state): State<HttpState>) -> Response {
    let (status, run) = match state.rebalancer.start(&RebalanceRequest::default()).await {
        Ok(Accepted::Started { id } | Accepted::StartedBefore { id }) => ("started", Some(id)),
        Ok(Accepted::Noop) => ("noop", None),
        Err(NotStarted::Active { id }) => ("running", Some(id)),
        Err(_) => ("refused", None),
    };
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(REBALANCE_STATUS, HeaderValue::from_static(status));
    if let Some(id) = run {
        locate(&mut response, id);
    }
    response
}

fn locate(response: &mut Response, id: u64) {
    if let Ok(location) = HeaderValue::try_from(format!("{REBALANCE_PATH}/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
}

async fn start(State(state): State<HttpState>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let understood = dry_run(&uri).and_then(|dry| Ok((dry, read(&headers, &body)?)));
    let (dry, request) = match understood {
        Ok(understood) => understood,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &uri, error.to_string()),
    };
    if dry {
        return match state.rebalancer.dry_run(&request).await {
            Ok(balance) => (StatusCode::ACCEPTED, Json(balance)).into_response(),
            Err(error) => not_started(&uri, &error),
        };
    }
    let run = match state.rebalancer.start(&request).await {
        Ok(Accepted::Started { id } | Accepted::StartedBefore { id }) => Some(id),
        Ok(Accepted::Noop) => None,
        Err(error) => return not_started(&uri, &error),
    };
    match state.rebalancer.balance().await {
        Ok(balance) => {
            let mut response = (StatusCode::ACCEPTED, Json(balance)).into_response();
            if let Some(id) = run {
                locate(&mut response, id);
            }
            response
        }
        Err(error) => store_failed(&uri, &error),
    }
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<RebalanceRequest, BadRequest> {
    let mut request = RebalanceRequest::parse(body)?;
    if let Some(key) = headers.get(IDEMPOTENCY_KEY) {
        let key = key.to_str().ok().filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()));
        let key = key.ok_or_else(|| {
            BadRequest(format!(
                "Idempotency-Key: give 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
            ))
        })?;
        request.idempotency_key = Some(key.to_owned());
    }
    Ok(request)
}

fn dry_run(uri: &Uri) -> Result<bool, BadRequest> {
    let parameters = uri.query().unwrap_or_default().split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
    match parameters.rev().find(|(name, _)| *name == "dryRun") {
        None | Some((_, "false")) => Ok(false),
        Some((_, "true")) => Ok(true),
        Some((_, other)) => Err(BadRequest(format!("dryRun = {other:?}: write true or false"))),
    }
}

/// What the client is told when no run was started.
pub(crate) fn not_started(uri: &Uri, error: &NotStarted) -> Response {
    let status = match error {
        NotStarted::Active { id } => {
            let mut response = problem_with(
                StatusCode::CONFLICT,
                uri,
                error.to_string(),
                json!({"rebalanceId": id, "reason": "ACTIVE"}),
            );
            locate(&mut response, *id);
            return response;
        }
        NotStarted::Store(error) => return store_failed(uri, error),
        NotStarted::OwnershipRebalance => (StatusCode::CONFLICT, "OWNERSHIP_REBALANCE"),
        NotStarted::Paused => (StatusCode::CONFLICT, "PAUSED"),
        NotStarted::PlanChanged { .. } => (StatusCode::CONFLICT, "PLAN_CHANGED"),
        NotStarted::Refused(RefusedBecause::PriorityElectionDisabled) => {
            (StatusCode::CONFLICT, "PRIORITY_ELECTION_DISABLED")
        }
        NotStarted::Refused(RefusedBecause::NoPrimary) => (StatusCode::CONFLICT, "NO_PRIMARY"),
        NotStarted::Refused(RefusedBecause::NoBroker) => (StatusCode::SERVICE_UNAVAILABLE, "NO_BROKER"),
        NotStarted::UnknownPartition { .. } => (StatusCode::BAD_REQUEST, "UNKNOWN_PARTITION"),
        NotStarted::UnknownBroker { .. } => (StatusCode::BAD_REQUEST, "UNKNOWN_BROKER"),
    };
    problem_with(status.0, uri, error.to_string(), json!({"reason": status.1}))
}

/// What the client is told when the system group did not do its part.
pub(crate) fn store_failed(uri: &Uri, error: &SystemStoreError) -> Response {
    let status = match error {
        SystemStoreError::Unavailable(Refusal::BrokerMisbehaved { .. }) => StatusCode::BAD_GATEWAY,
        SystemStoreError::Unavailable(Refusal::ReadTimedOut { .. } | Refusal::OutcomeUnknown { .. }) => {
            StatusCode::GATEWAY_TIMEOUT
        }
        SystemStoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        SystemStoreError::Conflict { .. } | SystemStoreError::Unreadable { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    problem(status, uri, error.to_string())
}

async fn balance(State(state): State<HttpState>, uri: Uri) -> Response {
    match state.rebalancer.balance().await {
        Ok(balance) => Json(balance).into_response(),
        Err(error) => store_failed(&uri, &error),
    }
}

async fn run(State(state): State<HttpState>, Path(id): Path<String>, uri: Uri) -> Response {
    let found = match id.parse() {
        Ok(id) => state.rebalancer.find(id).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(run)) => Json(run).into_response(),
        Ok(None) => unknown(&uri, &id),
        Err(error) => store_failed(&uri, &error),
    }
}

async fn events(State(state): State<HttpState>, Path(id): Path<String>, uri: Uri) -> Response {
    let Ok(number) = id.parse() else { return unknown(&uri, &id) };
    match state.rebalancer.events().follow(number).await {
        Ok(stream) => stream,
        Err(NoEvents::Unknown(_)) => unknown(&uri, &id),
        Err(NoEvents::Store(error)) => store_failed(&uri, &error),
        Err(error @ NoEvents::TooMany) => problem(StatusCode::SERVICE_UNAVAILABLE, &uri, error.to_string()),
    }
}

fn unknown(uri: &Uri, id: &str) -> Response {
    let detail = format!("run {id} is not known; see {REBALANCE_PATH}/history for those that are");
    problem(StatusCode::NOT_FOUND, uri, detail)
}

async fn history(State(state): State<HttpState>, uri: Uri) -> Response {
    match state.rebalancer.history().await {
        Ok(heads) => {
            let shown: Vec<serde_json::Value> = heads.iter().map(summary).collect();
            Json(json!({"rebalances": shown})).into_response()
        }
        Err(error) => store_failed(&uri, &error),
    }
}

fn summary(head: &RunHead) -> serde_json::Value {
    json!({
        "rebalanceId": head.id,
        "startedAt": head.started_at,
        "finishedAt": head.finished_at,
        "result": head.result,
        "cancelRequested": head.cancel_requested,
        "policy": head.settings.policy,
        "plan": head.fingerprint,
        "results": head.results,
    })
}

async fn cancel(State(state): State<HttpState>, uri: Uri) -> Response {
    cancelled(&state, None, &uri).await
}

async fn cancel_one(State(state): State<HttpState>, Path(id): Path<String>, uri: Uri) -> Response {
    match id.parse() {
        Ok(id) => cancelled(&state, Some(id), &uri).await,
        Err(_) => unknown(&uri, &id),
    }
}

async fn cancelled(state: &HttpState, id: Option<u64>, uri: &Uri) -> Response {
    match state.rebalancer.cancel(id).await {
        Ok(was_running) => Json(json!({"wasRunning": was_running})).into_response(),
        Err(error) => store_failed(uri, &error),
    }
}
