//! Records over plain HTTP, for curl and for programs without gRPC: the same service with the same limits, roles, metrics
//! and errors, in another dress.
//!
//! A record is its value: the body is raw bytes, the version is the entity tag. Lists and watches are JSON, see
//! `records_json.rs`.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evenkeel_protocol::v1::records_server::Records;
use evenkeel_protocol::v1::{
    Consistency, DeleteRequest, GetRequest, ListRequest, Precondition, PutRequest, RequestId, precondition,
};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Status};
use xxhash_rust::xxh3::Xxh3;

use crate::grpc_problem;
use crate::http::problem_with;
use crate::intake::Gatekeeper;
use crate::records::RecordsService;
use crate::records_events;
use crate::records_json::{page_token, record_json, token_text};
use crate::refusals::Refusal;

pub(crate) const ROOT: &str = "/v1/records";
const POSITION: &str = "evenkeel-position";
const PARTITION: &str = "evenkeel-partition";
/// Longer keys are somebody's mistake.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// The service, and who has room for its requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RecordsHttp {
    records: Arc<RecordsService>,
    gatekeeper: Gatekeeper,
}

impl RecordsHttp {
    pub(crate) fn new(records: Arc<RecordsService>, gatekeeper: Gatekeeper) -> Self {
        Self { records, gatekeeper }
    }

    pub(crate) fn service(&self) -> &RecordsService {
        &self.records
    }

    fn admit(&self, method: &str) -> Result<Option<OwnedSemaphorePermit>, Status> {
        (self.gatekeeper)(method).map_err(Status::from)
    }
}

/// The routes, whatever state the others have.
pub(crate) fn routes<S>(records: RecordsHttp) -> Router<S> {
    Router::new()
        .route("/v1/records", get(list_or_watch))
        .route("/v1/records/{*key}", get(read).put(write).delete(remove))
        .with_state(records)
}

async fn read(State(records): State<RecordsHttp>, uri: Uri) -> Response {
    let found = async {
        let _room = records.admit("Get")?;
        let parameters = Parameters::of(&uri, &["consistency"])?;
        let request = GetRequest { key: key(&uri), consistency: parameters.consistency()?.into() };
        Ok::<_, Status>(records.records.get(Request::new(request)).await?.into_inner())
    };
    let record = match found.await {
        Ok(found) => found.record,
        Err(status) => return grpc_problem::response(&status, &uri),
    };
    let Some(record) = record else {
        let detail = "there is no record with this key; write it with PUT".to_owned();
        return problem_with(StatusCode::NOT_FOUND, &uri, detail, json!({"reason": "NO_RECORD"}));
    };
    let mut response = record.value.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    describe(headers, record.version, record.position, record.partition_id);
    response
}

async fn write(
    State(records): State<RecordsHttp>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    value: Bytes,
) -> Response {
    let written = async {
        let _room = records.admit("Put")?;
        Parameters::of(&uri, &[])?;
        let (key, precondition) = (key(&uri), precondition_of(&headers)?);
        let request_id = request_id(&headers, &method, &key, &value)?;
        let request = PutRequest { key, value, precondition, request_id };
        Ok::<_, Status>(records.records.put(Request::new(request)).await?.into_inner())
    };
    match written.await {
        Ok(written) => {
            let status = if written.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
            let told = json!({
                "partitionId": written.partition_id,
                "position": written.position,
                "version": written.version,
            });
            let mut response = (status, axum::Json(told)).into_response();
            describe(response.headers_mut(), written.version, written.position, written.partition_id);
            response
        }
        Err(status) => grpc_problem::response(&status, &uri),
    }
}

async fn remove(
    State(records): State<RecordsHttp>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let removed = async {
        let _room = records.admit("Delete")?;
        Parameters::of(&uri, &[])?;
        let (key, precondition) = (key(&uri), precondition_of(&headers)?);
        let request_id = request_id(&headers, &method, &key, &[])?;
        let request = DeleteRequest { key, precondition, request_id };
        Ok::<_, Status>(records.records.delete(Request::new(request)).await?.into_inner())
    };
    match removed.await {
        Ok(removed) => axum::Json(json!({
            "partitionId": removed.partition_id,
            "position": removed.position,
            "existed": removed.existed,
        }))
        .into_response(),
        Err(status) => grpc_problem::response(&status, &uri),
    }
}

async fn list_or_watch(State(records): State<RecordsHttp>, uri: Uri, headers: HeaderMap) -> Response {
    if records_events::are_wanted(&headers) {
        return records_events::watch(&records, &uri, &headers).await;
    }
    let listed = async {
        let _room = records.admit("List")?;
        let parameters = Parameters::of(&uri, &["prefix", "limit", "pageToken", "consistency", "partition"])?;
        let request = ListRequest {
            prefix: parameters.bytes("prefix"),
            partition_id: parameters.number("partition", 0)?,
            page_size: i32::try_from(parameters.number("limit", 0)?).unwrap_or(i32::MAX),
            page_token: page_token(&parameters.bytes("pageToken"))?,
            consistency: parameters.consistency()?.into(),
        };
        Ok::<_, Status>(records.records.list(Request::new(request)).await?.into_inner())
    };
    match listed.await {
        Ok(page) => {
            let shown: Vec<_> = page.records.iter().map(record_json).collect();
            let next = token_text(&page.next_page_token);
            let told = json!({"records": shown, "nextPageToken": next});
            ([(header::CACHE_CONTROL, "no-store")], axum::Json(told)).into_response()
        }
        Err(status) => grpc_problem::response(&status, &uri),
    }
}

/// What headers tell about a record. A record changes without the cache being asked, hence `no-store`.
fn describe(headers: &mut HeaderMap, version: u64, position: u64, partition: u32) {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(POSITION, HeaderValue::from(position));
    headers.insert(PARTITION, HeaderValue::from(partition));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Whatever follows the root, with its percent-encoding taken away: a key is any bytes.
fn key(uri: &Uri) -> Bytes {
    let encoded = uri.path().strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    percent_decode_str(encoded).collect::<Vec<u8>>().into()
}

/// `If-Match: "VERSION"` or `If-None-Match: *`.
fn precondition_of(headers: &HeaderMap) -> Result<Option<Precondition>, Refusal> {
    let bad = |name: &str, problem: &str| {
        Err(Refusal::invalid("BAD_PRECONDITION", name, format!("{name}: {problem}")))
    };
    let sole = |name: header::HeaderName| {
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        if values.next().is_some() {
            Some(Err(()))
        } else {
            first.map(|value| value.to_str().map_err(|_| ()))
        }
    };
    let condition = match (sole(header::IF_MATCH), sole(header::IF_NONE_MATCH)) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return bad("If-Match", "comes with If-None-Match, and both never hold; give one of them");
        }
        (None, Some(Ok("*"))) => precondition::Condition::MustNotExist(true),
        (None, Some(_)) => return bad("If-None-Match", "only * is understood: the record must not exist"),
        (Some(tag), None) => {
            let version = tag.ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
            match version {
                Some(version) => precondition::Condition::VersionEquals(version),
                None => return bad("If-Match", "give one version as GET shows it in ETag, such as \"3\""),
            }
        }
    };
    Ok(Some(Precondition { condition: Some(condition) }))
}

/// The request id that an `Idempotency-Key` stands for. It depends on the whole request: who sends something else with the
/// same key gets that done, and never the answer to another request.
fn request_id(
    headers: &HeaderMap,
    method: &Method,
    key: &[u8],
    value: &[u8],
) -> Result<Option<RequestId>, Refusal> {
    let Some(given) = headers.get("idempotency-key") else { return Ok(None) };
    let given = given.as_bytes();
    if !(1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&given.len()) {
        let problem = format!("Idempotency-Key: give 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Refusal::invalid("BAD_IDEMPOTENCY_KEY", "Idempotency-Key", problem));
    }
    let mut hash = Xxh3::new();
    let condition = [header::IF_MATCH, header::IF_NONE_MATCH]
        .map(|name| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default());
    for part in [given, method.as_str().as_bytes(), key, value, condition[0], condition[1]] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(Some(RequestId { client_id: hash.digest(), sequence: 1 }))
}

/// What a query says, form-decoded.
pub(crate) struct Parameters(Vec<(String, Bytes)>);

impl Parameters {
    /// Refuses what is not known, and what is given twice.
    pub(crate) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Refusal> {
        let mut parameters: Vec<(String, Bytes)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let problem = if !known.contains(&name) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                format!("{name:?} is no parameter here; there are: {known}")
            } else if parameters.iter().any(|(other, _)| other == name) {
                format!("{name} is given twice; give it once")
            } else {
                let value = value.replace('+', " ");
                parameters.push((name.to_owned(), percent_decode_str(&value).collect::<Vec<u8>>().into()));
                continue;
            };
            return Err(Refusal::invalid("BAD_PARAMETER", name.escape_debug().to_string(), problem));
        }
        Ok(Self(parameters))
    }

    pub(crate) fn bytes(&self, name: &str) -> Bytes {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    fn number(&self, name: &'static str, default: u32) -> Result<u32, Refusal> {
        let Some((_, value)) = self.0.iter().find(|(known, _)| known == name) else { return Ok(default) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.filter(|number| *number > 0).ok_or_else(|| {
            let problem = format!("{name} = \"{}\": write a number from 1", value.escape_ascii());
            Refusal::invalid("BAD_PARAMETER", name, problem)
        })
    }

    fn consistency(&self) -> Result<Consistency, Refusal> {
        match &*self.bytes("consistency") {
            b"" | b"linearizable" => Ok(Consistency::Linearizable),
            b"stale" => Ok(Consistency::Stale),
            other => {
                let problem =
                    format!("consistency = \"{}\": write linearizable or stale", other.escape_ascii());
                Err(Refusal::invalid("BAD_PARAMETER", "consistency", problem))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_key_is_what_follows_with_its_encoding_taken_away() {
        for (path, expected) in [
            ("/v1/records/a", &b"a"[..]),
            ("/v1/records/a/b%2Fc", b"a/b/c"),
            ("/v1/records/%00%ff+%20", b"\x00\xff+ "),
        ] {
            assert_eq!(key(&path.parse().unwrap()), expected, "{path}");
        }
    }

    #[test]
    fn a_precondition_is_one_version_or_that_there_is_no_record() {
        let of = |pairs: &[_]| precondition_of(&headers(pairs)).map(|given| given.and_then(|g| g.condition));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("if-match", "\"7\"")]), Ok(Some(precondition::Condition::VersionEquals(7))));
        assert_eq!(of(&[("if-none-match", "*")]), Ok(Some(precondition::Condition::MustNotExist(true))));
        let wrong: [&[(&'static str, &'static str)]; 6] = [
            &[("if-match", "*")],
            &[("if-match", "7")],
            &[("if-match", "W/\"7\"")],
            &[("if-match", "\"7\", \"8\"")],
            &[("if-none-match", "\"7\"")],
            &[("if-match", "\"7\""), ("if-none-match", "*")],
        ];
        for pairs in wrong {
            assert!(of(pairs).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn an_idempotency_key_stands_for_one_request_only() {
        let of = |key: &'static str, method: Method, record: &[u8], value: &[u8]| {
            request_id(&headers(&[("idempotency-key", key)]), &method, record, value)
                .unwrap()
                .unwrap()
                .client_id
        };
        let first = of("a", Method::PUT, b"k", b"v");
        assert_eq!(first, of("a", Method::PUT, b"k", b"v"));
        let others = [
            of("b", Method::PUT, b"k", b"v"),
            of("a", Method::DELETE, b"k", b"v"),
            of("a", Method::PUT, b"l", b"v"),
            of("a", Method::PUT, b"k", b"w"),
            of("a", Method::PUT, b"kv", b""),
        ];
        assert!(!others.contains(&first));
        assert_eq!(request_id(&headers(&[]), &Method::PUT, b"k", b"v"), Ok(None));
        assert!(request_id(&headers(&[("idempotency-key", "")]), &Method::PUT, b"k", b"v").is_err());
    }

    #[test]
    fn parameters_that_nobody_knows_or_that_come_twice_are_refused() {
        let of = |uri: &str| Parameters::of(&uri.parse().unwrap(), &["prefix", "limit", "consistency"]);
        let given = of("/v1/records?prefix=a%2Fb+c&limit=5&").unwrap();
        assert_eq!((&given.bytes("prefix")[..], given.number("limit", 0)), (&b"a/b c"[..], Ok(5)));
        assert_eq!(given.consistency(), Ok(Consistency::Linearizable));
        assert!(of("/v1/records?prefx=a").is_err());
        assert!(of("/v1/records?limit=1&limit=2").is_err());
        for wrong in ["limit=0", "limit=-1", "limit=x", "limit="] {
            assert!(of(&format!("/v1/records?{wrong}")).unwrap().number("limit", 0).is_err(), "{wrong}");
        }
        assert!(of("/v1/records?consistency=maybe").unwrap().consistency().is_err());
    }
}
