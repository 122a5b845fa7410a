//! The console at `/` of the API port: plain files, part of the binary, so that it works wherever the gateway does.
//!
//! They hold nothing secret and need no token. What they show they ask of the API, as whoever looks at them may.

use std::hash::Hasher;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use xxhash_rust::xxh3::Xxh3;

use crate::http::{HttpState, problem};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Nothing from elsewhere, nothing inline, nowhere else to send anything, and in nobody's frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Sent with each file. `no-cache`: a browser asks whether it is still so, and an upgraded gateway is seen at once.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-cache"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

macro_rules! files {
    ($($name:literal: $kind:expr),* $(,)?) => {
        &[$(File { name: $name, content_type: $kind, text: include_str!(concat!("../console/", $name)) }),*]
    };
}

struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const INDEX: &str = "index.html";

static FILES: &[File] = files! {
    "index.html": HTML,
    "console.css": CSS,
    "icon.svg": SVG,
    "main.js": SCRIPT,
    "api.js": SCRIPT,
    "cluster.js": SCRIPT,
    "page.js": SCRIPT,
    "words.js": SCRIPT,
    "overview.js": SCRIPT,
    "matrix.js": SCRIPT,
    "rebalance.js": SCRIPT,
    "run.js": SCRIPT,
    "partition.js": SCRIPT,
    "broker.js": SCRIPT,
    "history.js": SCRIPT,
    "sign_in.js": SCRIPT,
};

pub(crate) fn routes() -> Router<HttpState> {
    Router::new().route("/", get(index)).route("/console/{name}", get(file))
}

async fn index(headers: HeaderMap, uri: Uri) -> Response {
    serve(INDEX, &headers, &uri)
}

async fn file(Path(name): Path<String>, headers: HeaderMap, uri: Uri) -> Response {
    serve(&name, &headers, &uri)
}

fn serve(name: &str, asked: &HeaderMap, uri: &Uri) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return problem(
            StatusCode::NOT_FOUND,
            uri,
            format!("the console has no file {name:?}; it begins at /"),
        );
    };
    let tag = tag(file.text);
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let known = known.is_some_and(|tags| {
        tags.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
    });
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, file.content_type)], file.text).into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Of what a file holds, so that it is the same at every gateway of one version.
fn tag(text: &str) -> String {
    let mut hash = Xxh3::new();
    hash.write(text.as_bytes());
    format!("\"{:016x}\"", hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_holds_nothing_that_its_policy_forbids() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut served: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        there.sort_unstable();
        served.sort_unstable();
        assert_eq!(there, served);
        for File { name, text, .. } in FILES {
            for forbidden in
                ["innerHTML", "insertAdjacentHTML", "eval(", "style=", "localStorage", "javascript:"]
            {
                assert!(!text.contains(forbidden), "{name} holds {forbidden}");
            }
            let elsewhere = ["https://", "src=\"//", "href=\"//"];
            assert!(elsewhere.iter().all(|other| !text.contains(other)), "{name} names another origin");
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let uri: Uri = "/".parse().unwrap();
        let mut asked = HeaderMap::new();
        let first = serve(INDEX, &asked, &uri);
        assert_eq!(
            (first.status(), first.headers()[header::CONTENT_TYPE].to_str().unwrap()),
            (StatusCode::OK, HTML)
        );
        let tag = first.headers()[header::ETAG].clone();
        for (text, status) in [
            (tag.to_str().unwrap().to_owned(), StatusCode::NOT_MODIFIED),
            (format!("\"x\", W/{}", tag.to_str().unwrap()), StatusCode::NOT_MODIFIED),
            ("\"x\"".to_owned(), StatusCode::OK),
        ] {
            asked.insert(header::IF_NONE_MATCH, text.parse().unwrap());
            let again = serve(INDEX, &asked, &uri);
            assert_eq!(again.status(), status, "{text}");
            assert_eq!(again.headers()[header::ETAG], tag);
            assert!(again.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        }
        assert_eq!(serve("no.js", &HeaderMap::new(), &uri).status(), StatusCode::NOT_FOUND);
    }
}
