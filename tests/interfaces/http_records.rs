//! Records with nothing but HTTP: what a person does with curl.

use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, PATIENCE, PATIENT_LEASE, Spec, http, send, wait_until};

async fn get(cluster: &Cluster, path: &str) -> Answer {
    http(Method::GET, &cluster.api(path)).await.unwrap()
}

async fn put(cluster: &Cluster, path: &str, headers: &[(&str, &str)], value: &str) -> Answer {
    send(Method::PUT, &cluster.api(path), headers, value.to_owned()).await.unwrap()
}

fn is_problem(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["reason"], reason, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_written_read_guarded_and_removed() {
    let cluster = Cluster::start(Spec::new(1, 3)).await;
    let answer = put(&cluster, "/v1/records/a/b%20c", &[], "first").await;
    assert_eq!((answer.status, answer.header("etag")), (StatusCode::CREATED, Some("\"1\"")));
    let read = get(&cluster, "/v1/records/a%2Fb%20c").await;
    assert_eq!(
        (read.status, read.text().as_str(), read.header("etag")),
        (StatusCode::OK, "first", Some("\"1\""))
    );
    assert_eq!(read.header("content-type"), Some("application/octet-stream"));
    assert_eq!(
        read.header("evenkeel-position").map(str::to_owned),
        Some(answer.json()["position"].to_string())
    );
    assert_eq!(get(&cluster, "/v1/records/a%2Fb%20c?consistency=stale").await.status, StatusCode::OK);

    // An empty value is a value, whatever its content type.
    let empty = put(&cluster, "/v1/records/empty", &[("content-type", "application/json")], "").await;
    assert_eq!(empty.status, StatusCode::CREATED);
    assert_eq!(get(&cluster, "/v1/records/empty").await.body.len(), 0);

    let path = "/v1/records/a/b%20c";
    is_problem(&put(&cluster, path, &[("if-none-match", "*")], "x").await, 412, "PRECONDITION_FAILED");
    let stale = put(&cluster, path, &[("if-match", "\"7\"")], "x").await;
    is_problem(&stale, 412, "PRECONDITION_FAILED");
    assert_eq!(stale.json()["metadata"]["current_version"], "1");
    let second = put(&cluster, path, &[("if-match", "\"1\"")], "second").await;
    assert_eq!((second.status, second.header("etag")), (StatusCode::OK, Some("\"2\"")));

    // A repetition with the same key is answered as the first was, and done once.
    let key = [("idempotency-key", "tuesday")];
    let (once, again) = (put(&cluster, path, &key, "third").await, put(&cluster, path, &key, "third").await);
    assert_eq!((once.json(), once.json()["version"].clone()), (again.json(), json!(3)));
    let other = put(&cluster, path, &key, "fourth").await;
    assert_eq!(other.json()["version"], 4, "something else is not what was done");

    let url = cluster.api(path);
    let guarded = send(Method::DELETE, &url, &[("if-match", "\"1\"")], String::new()).await.unwrap();
    is_problem(&guarded, 412, "PRECONDITION_FAILED");
    assert_eq!(http(Method::DELETE, &url).await.unwrap().json()["existed"], true);
    assert_eq!(http(Method::DELETE, &url).await.unwrap().json()["existed"], false);
    is_problem(&get(&cluster, path).await, 404, "NO_RECORD");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_and_bad_requests_change_nothing() {
    let cluster = Cluster::start(Spec::new(1, 3)).await;
    let client = cluster.client();
    let keys: Vec<String> = (0..25).map(|i| format!("k/{i:02}")).collect();
    for key in &keys {
        client.put(key.clone(), "v", None).await.unwrap();
    }
    client.put(vec![0xff_u8, 0xfe], vec![0x80_u8], None).await.unwrap();

    let (mut seen, mut path): (Vec<String>, _) = (Vec::new(), "/v1/records?prefix=k/&limit=10".to_owned());
    loop {
        let page = get(&cluster, &path).await.json();
        let records = page["records"].as_array().unwrap();
        assert!(records.len() <= 10);
        seen.extend(records.iter().map(|record| record["key"].as_str().unwrap().to_owned()));
        let Some(token) = page["nextPageToken"].as_str() else { break };
        path = format!("/v1/records?prefix=k/&limit=10&pageToken={token}");
    }
    assert_eq!(seen, keys);
    let other = get(&cluster, "/v1/records?prefix=%FF").await.json();
    assert_eq!(
        (&other["records"][0]["keyBase64"], &other["records"][0]["valueBase64"]),
        (&json!("//4="), &json!("gA=="))
    );

    let before = get(&cluster, "/v1/records?limit=1000").await.json();
    for (path, reason) in [
        ("/v1/records?prefx=k", "BAD_PARAMETER"),
        ("/v1/records?limit=0", "BAD_PARAMETER"),
        ("/v1/records?consistency=eventual", "BAD_PARAMETER"),
        ("/v1/records?pageToken=!", "BAD_PAGE_TOKEN"),
        ("/v1/records/k?prefix=x", "BAD_PARAMETER"),
    ] {
        is_problem(&get(&cluster, path).await, 400, reason);
    }
    is_problem(&get(&cluster, "/v1/records?partition=4").await, 404, "UNKNOWN_PARTITION");
    for headers in [("if-match", "3"), ("if-match", "*"), ("if-none-match", "\"3\"")] {
        is_problem(&put(&cluster, "/v1/records/k/00", &[headers], "x").await, 400, "BAD_PRECONDITION");
    }
    let long = "k".repeat(5_000);
    is_problem(&put(&cluster, &format!("/v1/records/{long}"), &[], "x").await, 400, "KEY_TOO_LARGE");
    let large = "v".repeat((1 << 20) + 1);
    is_problem(&put(&cluster, "/v1/records/k/00", &[], &large).await, 413, "VALUE_TOO_LARGE");
    let huge = put(&cluster, "/v1/records/k/00", &[], &"v".repeat(3 << 20)).await;
    assert_eq!(huge.status, StatusCode::PAYLOAD_TOO_LARGE);
    let wrong = http(Method::POST, &cluster.api("/v1/records/k")).await.unwrap();
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(wrong.header("allow").is_some_and(|allow| allow.contains("PUT")), "{:?}", wrong.headers);
    assert_eq!(get(&cluster, "/v1/records?limit=1000").await.json(), before);
}

/// One event of a stream: id, name and data.
type Told = (Option<String>, String, Value);

/// Server-sent events as they come.
struct Events {
    body: hyper::body::Incoming,
    read: String,
}

impl Events {
    async fn open(cluster: &Cluster, path: &str, last: Option<&str>) -> Result<Self, StatusCode> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let mut request = http::Request::get(cluster.api(path)).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answered = client.request(request.body(Empty::new()).unwrap());
        let response = tokio::time::timeout(PATIENCE, answered).await.unwrap().unwrap();
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self { body: response.into_body(), read: String::new() })
    }

    /// The next block, an event or only an id.
    async fn block(&mut self) -> String {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.read = rest;
                return block;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event");
            let data = frame.expect("the stream goes on").unwrap().into_data().unwrap();
            self.read.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn next(&mut self) -> Told {
        loop {
            let block = self.block().await;
            let field = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned())
            };
            if let (Some(name), Some(data)) = (field("event:"), field("data:")) {
                return (field("id:"), name, serde_json::from_str(&data).unwrap());
            }
        }
    }

    /// Waits until the stream has begun everywhere: it tells where.
    async fn begun(&mut self) -> String {
        loop {
            if let Some(id) = self.block().await.lines().find_map(|line| line.strip_prefix("id:")) {
                return id.trim().to_owned();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_http_resumes_where_it_was_and_outlives_its_leader() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3).broker("raft.lease", PATIENT_LEASE)).await;
    let client = cluster.client();
    let mut events = Events::open(&cluster, "/v1/records?prefix=w/", None).await.unwrap();
    let began_at = events.begun().await;
    assert_eq!(began_at.matches(':').count(), 3, "{began_at}");
    client.put("w/1", "a", None).await.unwrap();
    client.put("other", "x", None).await.unwrap();
    let (id, name, data) = events.next().await;
    assert_eq!((name.as_str(), &data["key"], &data["value"]), ("put", &json!("w/1"), &json!("a")));
    let id = id.expect("the stream has begun everywhere");

    drop(events);
    client.delete("w/1", None).await.unwrap();
    client.put("w/2", "b", None).await.unwrap();
    let mut resumed = Events::open(&cluster, "/v1/records?prefix=w/", Some(&id)).await.unwrap();
    let mut missed =
        [resumed.next().await, resumed.next().await].map(|(_, name, data)| (name, data["key"].clone()));
    missed.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(missed, [("delete".to_owned(), json!("w/1")), ("put".to_owned(), json!("w/2"))]);

    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    for i in 0..20 {
        client.put(format!("w/after/{i}"), "c", None).await.unwrap();
    }
    let mut after = std::collections::BTreeSet::new();
    while after.len() < 20 {
        let (_, name, data) = resumed.next().await;
        assert_eq!(name, "put", "{data}");
        assert!(after.insert(data["key"].to_string()), "{data} came twice");
    }

    let bad = Events::open(&cluster, "/v1/records", Some("nonsense")).await.err();
    assert_eq!(bad, Some(StatusCode::BAD_REQUEST));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_before_what_is_kept_is_gone() {
    let cluster = Cluster::start(Spec::new(1, 1).broker("data.changes_retained_max", 10)).await;
    let client = cluster.client();
    for i in 0..60 {
        client.put(format!("k{i}"), "v", None).await.unwrap();
    }
    wait_until("old changes to be gone", async || {
        match Events::open(&cluster, "/v1/records", Some("1:1")).await {
            Err(StatusCode::GONE) => Ok(()),
            other => Err(format!("{:?}", other.err())),
        }
    })
    .await;
}
