//! The description of every HTTP endpoint, gateway and broker: an OpenAPI 3.1 document, and the same as a page to read.
//!
//! The document is `openapi.json`, written by hand; tests hold it against the routes of both ports.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

use crate::http::HttpState;
use crate::openapi_page;

pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

/// Rendered once; empty if the document could not be read, which a test rules out.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    serde_json::from_str(DOCUMENT)
        .map_or_else(|_| String::new(), |document: Value| openapi_page::render(&document))
});

pub(crate) fn routes() -> Router<HttpState> {
    Router::new().route("/openapi.json", get(document)).route("/openapi", get(page))
}

async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // Nothing is fetched, and nothing runs.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    (headers, PAGE.as_str()).into_response()
}
