//! Errors as `application/problem+json` (RFC 9457), whoever finds them: a handler, the router or the framework.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Map, Value};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// What the framework says of an error is a sentence; more of it is not looked at.
const SENTENCE_BYTES_MAX: usize = 4_096;

/// How an error of these routes is shown: status, where, and a sentence with the remedy.
pub type Shape = fn(StatusCode, &Uri, String) -> Response;

/// In the order in which people read it.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    instance: &'a str,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// An error without more to tell than a sentence.
#[must_use]
pub fn problem(status: StatusCode, uri: &Uri, detail: String) -> Response {
    problem_with(status, uri, detail, Map::new())
}

/// An error with members of its own, for programs.
#[must_use]
pub fn problem_with(status: StatusCode, uri: &Uri, detail: String, more: Map<String, Value>) -> Response {
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail,
        instance: uri.path(),
        more,
    };
    let mut response = (status, Json(problem)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
    response
}

/// The routes, with every error in this shape: paths that are not served, methods that are not supported, and what the
/// framework refuses by itself, such as a body that is too large.
pub fn with_errors<S: Clone + Send + Sync + 'static>(routes: Router<S>, shape: Shape) -> Router<S> {
    routes
        .fallback(move |uri: Uri| async move {
            let detail = format!("nothing is served at {}; check the path and the port", uri.path());
            shape(StatusCode::NOT_FOUND, &uri, detail)
        })
        .method_not_allowed_fallback(move |method: Method, uri: Uri| async move {
            let detail = format!("{method} is not supported here; use what the Allow header names");
            shape(StatusCode::METHOD_NOT_ALLOWED, &uri, detail)
        })
        .layer(middleware::from_fn(move |request: Request, next: Next| async move {
            let uri = request.uri().clone();
            let response = next.run(request).await;
            if is_shaped(&response) { response } else { reshape(response, &uri, shape).await }
        }))
}

fn is_shaped(response: &Response) -> bool {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    !(status.is_client_error() || status.is_server_error())
        || content_type.is_some_and(|value| value.starts_with("application/") && value.contains("json"))
}

async fn reshape(response: Response, uri: &Uri, shape: Shape) -> Response {
    let (head, body) = response.into_parts();
    let remedy = match head.status {
        StatusCode::PAYLOAD_TOO_LARGE => "send a body of 2 MiB at most",
        _ => "correct the request",
    };
    let said = axum::body::to_bytes(body, SENTENCE_BYTES_MAX).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = match said.trim() {
        "" => head.status.canonical_reason().unwrap_or("the request failed"),
        said => said,
    };
    let mut shaped = shape(head.status, uri, format!("{said}; {remedy}"));
    for (name, value) in &head.headers {
        let describes_the_body = [header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name);
        if !describes_the_body {
            shaped.headers_mut().append(name, value.clone());
        }
    }
    shaped
}
