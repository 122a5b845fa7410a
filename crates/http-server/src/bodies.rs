//! Request bodies that come in time and fit: read whole before their handler runs, which so never waits for a client.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri, header};

use crate::problem;

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
                return refused(StatusCode::PAYLOAD_TOO_LARGE, &head.uri, detail);
            }
            let detail = format!("the body cannot be read: {error}; send it again");
            refused(StatusCode::BAD_REQUEST, &head.uri, detail)
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s; send it again", BODY_WAIT_MAX.as_secs());
            refused(StatusCode::REQUEST_TIMEOUT, &head.uri, detail)
        }
    }
}

/// The rest of the body is not waited for: the connection ends.
fn refused(status: StatusCode, uri: &Uri, detail: String) -> Response {
    let mut response = problem(status, uri, detail);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
