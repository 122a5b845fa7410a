//! Asks who calls before a request reaches its route: 401 and 403 as `application/problem+json`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use evenkeel_security::{Connection, Denied, Guard, Need};
use serde_json::json;

/// What RFC 6750 wants of an answer to nobody in particular, and to a token that is not known.
const CHALLENGE: &str = "Bearer realm=\"evenkeel\"";
const CHALLENGE_INVALID: &str = "Bearer realm=\"evenkeel\", error=\"invalid_token\"";

/// The routes behind the guard; without one, the routes as they are. `need` tells what a request takes. Requests that
/// pass carry their [`evenkeel_security::Caller`] among their extensions.
pub fn guarded(routes: Router, guard: Option<Arc<Guard>>, need: fn(&Method, &str) -> Need) -> Router {
    let Some(guard) = guard else { return routes };
    routes.layer(from_fn(move |mut request: Request<Body>, next: Next| {
        let guard = Arc::clone(&guard);
        async move {
            let need = need(request.method(), request.uri().path());
            let connection = request.extensions().get::<Arc<Connection>>().cloned();
            match guard.admit(need, request.headers(), connection.as_deref()) {
                Ok(caller) => {
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                    next.run(request).await
                }
                Err(denied) => refusal(&denied, request.uri().path()),
            }
        }
    }))
}

fn refusal(denied: &Denied, path: &str) -> Response {
    let status = if denied.is_forbidden() { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
    let problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": denied.to_string(),
        "instance": path,
        "reason": denied.reason(),
    });
    let content_type = (header::CONTENT_TYPE, "application/problem+json");
    let challenge = if matches!(denied, Denied::UnknownToken) { CHALLENGE_INVALID } else { CHALLENGE };
    match status {
        StatusCode::UNAUTHORIZED => {
            (status, [content_type, (header::WWW_AUTHENTICATE, challenge)], problem.to_string())
                .into_response()
        }
        _ => (status, [content_type], problem.to_string()).into_response(),
    }
}
