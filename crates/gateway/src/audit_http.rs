//! Records what operators ask for over HTTP, around the routes that carry it out, and shows what was recorded.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use evenkeel_security::{Caller, Connection};
use serde_json::json;

use crate::audit::{Audit, ENTRIES_KEPT_MAX, Entry};
use crate::http::{HttpState, Told, problem};
use crate::rebalance_http::{REBALANCE_STATUS, store_failed};

const AUDIT_PATH: &str = "/cluster/v2/audit";
const LIMIT_DEFAULT: u64 = 100;

pub(crate) fn routes() -> Router<HttpState> {
    Router::new().route(AUDIT_PATH, get(show))
}

async fn show(State(state): State<HttpState>, uri: Uri) -> Response {
    let limit = match limit(&uri) {
        Ok(limit) => limit,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, &uri, detail),
    };
    match state.audit.newest(limit).await {
        Ok(entries) => Json(json!({"entries": entries})).into_response(),
        Err(error) => store_failed(&uri, &error),
    }
}

fn limit(uri: &Uri) -> Result<usize, String> {
    let parameters = uri.query().unwrap_or_default().split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
    let given = parameters.rev().find(|(name, _)| *name == "limit").map(|(_, text)| text);
    let limit = match given {
        None => Ok(LIMIT_DEFAULT),
        Some(text) => text.parse().ok().filter(|limit| (1..=ENTRIES_KEPT_MAX).contains(limit)).ok_or(text),
    };
    let limit = limit.map_err(|text| format!("limit = {text:?}: write 1 to {ENTRIES_KEPT_MAX}"))?;
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// What a request is about, in words; `None` when it changes nothing that operators are responsible for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Action {
    name: String,
    target: Option<String>,
    /// Not among those with a name of their own: worth an entry only if something came of it.
    is_unnamed: bool,
}

fn action(method: &Method, uri: &Uri) -> Option<Action> {
    let named = |name: &str, target: Option<String>| {
        Some(Action { name: name.to_owned(), target, is_unnamed: false })
    };
    let path = uri.path();
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_dry = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "dryRun=true"));
    match (method.as_str(), words.as_slice()) {
        ("GET" | "HEAD" | "OPTIONS", _) | (_, ["v1", "records", ..]) => None,
        ("POST", ["cluster", "v2", "rebalance"]) if is_dry => None,
        ("POST", ["cluster", "v2", "rebalance"] | ["actuator", "rebalance"]) => named("rebalance", None),
        ("DELETE", ["cluster", "v2", "rebalance"]) => named("cancel", None),
        ("DELETE", ["cluster", "v2", "rebalance", id]) => named("cancel", Some(format!("rebalance {id}"))),
        ("PUT", ["cluster", "v2", "brokers", node, "drain"]) => {
            named("drain", Some(format!("broker {node}")))
        }
        ("DELETE", ["cluster", "v2", "brokers", node, "drain"]) => {
            named("undrain", Some(format!("broker {node}")))
        }
        ("POST", ["actuator", "exporting", word @ ("pause" | "resume")]) => {
            named(&format!("exporting-{word}"), None)
        }
        ("PUT", ["ESCManager", "internal", "ownership", "rebalance"]) => named("ownership-rebalance", None),
        ("PUT", ["ESCManager", "internal", "ownership", word @ ("pause" | "resume")]) => named(word, None),
        _ => Some(Action { name: format!("{method} {path}"), target: None, is_unnamed: true }),
    }
}

/// Around all routes, inside the guard: an entry for each request that acts.
pub(crate) async fn record(State(audit): State<Audit>, request: Request<Body>, next: Next) -> Response {
    let Some(action) = action(request.method(), request.uri()) else { return next.run(request).await };
    let extensions = request.extensions();
    let who =
        extensions.get::<Arc<Caller>>().map_or_else(|| "anonymous".to_owned(), |caller| caller.name.clone());
    let source = extensions.get::<Arc<Connection>>().and_then(|connection| connection.source);
    let response = next.run(request).await;
    if action.is_unnamed && !response.status().is_success() {
        return response;
    }
    let (outcome, rebalance_id) = outcome(&action, &response);
    let detail = response.extensions().get::<Told>().map(|Told(detail)| detail.clone());
    let entry = Entry {
        who,
        source: source.map(|source| source.to_string()),
        action: action.name,
        target: action.target,
        outcome,
        rebalance_id,
        detail,
        ..Entry::default()
    };
    audit.record(entry).await;
    response
}

fn outcome(action: &Action, response: &Response) -> (String, Option<u64>) {
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let run = text(header::LOCATION.as_str()).and_then(|location| location.rsplit('/').next()?.parse().ok());
    let outcome = match (text(REBALANCE_STATUS), response.status()) {
        (Some(status), _) => status.to_owned(),
        (None, status) if status.is_success() && action.name == "rebalance" => {
            if run.is_some() { "started" } else { "noop" }.to_owned()
        }
        (None, status) if status.is_success() => "done".to_owned(),
        (None, status) if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED => {
            format!("refused ({})", status.as_u16())
        }
        // Whether it took effect is not known.
        (None, status) => format!("failed ({})", status.as_u16()),
    };
    (outcome, run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_acts_has_a_name_and_whatever_looks_has_none() {
        type Named = Option<(&'static str, Option<&'static str>)>;
        let table: [(Method, &str, Named); 13] = [
            (Method::GET, "/cluster/v2/rebalance", None),
            (Method::POST, "/cluster/v2/rebalance?dryRun=true", None),
            (Method::PUT, "/v1/records/k", None),
            (Method::POST, "/cluster/v2/rebalance?dryRun=false", Some(("rebalance", None))),
            (Method::POST, "/actuator/rebalance", Some(("rebalance", None))),
            (Method::DELETE, "/cluster/v2/rebalance", Some(("cancel", None))),
            (Method::DELETE, "/cluster/v2/rebalance/7", Some(("cancel", Some("rebalance 7")))),
            (Method::PUT, "/cluster/v2/brokers/1/drain", Some(("drain", Some("broker 1")))),
            (Method::DELETE, "/cluster/v2/brokers/1/drain", Some(("undrain", Some("broker 1")))),
            (Method::PUT, "/ESCManager/internal/ownership/rebalance", Some(("ownership-rebalance", None))),
            (Method::PUT, "/ESCManager/internal/ownership/pause", Some(("pause", None))),
            (Method::PUT, "/ESCManager/internal/ownership/resume", Some(("resume", None))),
            (Method::POST, "/something/new", Some(("POST /something/new", None))),
        ];
        for (method, path, expected) in table {
            let found = action(&method, &path.parse().unwrap());
            let found = found.map(|action| (action.name, action.target));
            let expected = expected.map(|(name, target)| (name.to_owned(), target.map(str::to_owned)));
            assert_eq!(found, expected, "{method} {path}");
        }
    }

    #[test]
    fn a_limit_is_a_number_of_entries() {
        let of = |text: &str| limit(&text.parse().unwrap());
        assert_eq!(of("/a"), Ok(100));
        assert_eq!(of("/a?limit=1000"), Ok(1000));
        for wrong in ["/a?limit=0", "/a?limit=1001", "/a?limit=", "/a?limit=x", "/a?limit=-1"] {
            assert!(of(wrong).unwrap_err().ends_with("write 1 to 1000"), "{wrong}");
        }
    }
}
