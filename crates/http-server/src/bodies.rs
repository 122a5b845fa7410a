//! Request bodies that come in time and fit: read whole before their handler runs, which so never waits for a client.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

/// A client has this long to send a body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// No request has anything to say that is longer.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Answers 408 or 413 where the body does not come.
pub(crate) async fn read_in_time(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_WAIT_MAX, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(whole)) => next.run(Request::from_parts(head, Body::from(whole))).await,
        Ok(Err(error)) => {
            let too_long = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            if too_long {
                let detail = format!("the body is longer than {BODY_BYTES_MAX} bytes; send less");
                return problem(StatusCode::PAYLOAD_TOO_LARGE, &detail);
            }
            problem(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}; send it again"))
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s; send it again", BODY_WAIT_MAX.as_secs());
            problem(StatusCode::REQUEST_TIMEOUT, &detail)
        }
    }
}

/// RFC 9457. The rest of the body is not waited for: the connection ends.
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = serde_json::json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
    });
    let headers = [(header::CONTENT_TYPE, "application/problem+json"), (header::CONNECTION, "close")];
    (status, headers, body.to_string()).into_response()
}
