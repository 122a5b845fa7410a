//! Cisco ESC's ownership routes on the API port. Paths, names and error shape are ESC's own.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde_json::json;

use crate::esc::Refused;
use crate::esc_runner::{Answered, EscOwnership};
use crate::http::Told;

/// Where ESC's routes are; errors below have ESC's shape.
pub(crate) const ROOT: &str = "/ESCManager/";
/// ESC's answer when nobody owns too much: callers repeat the call until they get it.
const NOTHING_TO_MOVE: &str = "No configs found for rebalance.";

/// The routes, whatever state the others have.
pub(crate) fn routes<S>(ownership: EscOwnership) -> Router<S> {
    Router::new()
        .route("/ESCManager/internal/ownership", get(show))
        .route("/ESCManager/internal/ownership/rebalance", put(rebalance))
        .route("/ESCManager/internal/ownership/pause", put(pause))
        .route("/ESCManager/internal/ownership/resume", put(resume))
        .with_state(ownership)
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        error(status, &self.to_string())
    }
}

/// An error in ESC's shape.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    let error = json!({"error": {"error_code": status.as_u16(), "error_message": message}});
    let mut response = (status, Json(error)).into_response();
    response.extensions_mut().insert(Told(message.to_owned()));
    response
}

async fn rebalance(State(ownership): State<EscOwnership>) -> Result<Response, Refused> {
    Ok(match ownership.rebalance().await? {
        Answered::Nothing => Json(json!({"message": NOTHING_TO_MOVE})).into_response(),
        Answered::Done(accounts) => Json(accounts).into_response(),
    })
}

async fn show(State(ownership): State<EscOwnership>) -> Response {
    Json(ownership.show().await).into_response()
}

async fn pause(State(ownership): State<EscOwnership>) -> Result<Response, Refused> {
    set_paused(&ownership, true).await
}

async fn resume(State(ownership): State<EscOwnership>) -> Result<Response, Refused> {
    set_paused(&ownership, false).await
}

async fn set_paused(ownership: &EscOwnership, paused: bool) -> Result<Response, Refused> {
    let paused = ownership.set_paused(paused).await?;
    Ok(Json(json!({"paused": paused})).into_response())
}
