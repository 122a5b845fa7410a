//! The command against an API that answers what a test scripts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use clap::Parser;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::cluster::cluster_api::RunPartition;
use crate::cluster::fake_gateway::serve_http;
use crate::commands::rebalance::follow::Watcher;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: RebalanceArgs,
}

fn parsed(words: &[&str]) -> Result<RebalanceArgs, clap::Error> {
    Line::try_parse_from([&["rebalance"], words].concat()).map(|line| line.args)
}

/// The exit code of the command with these words.
async fn exit_code(url: &str, words: &[&str]) -> (u8, String) {
    let connection = Connection::to_api(url);
    match run(parsed(words).unwrap(), &connection).await {
        Ok(()) => (0, String::new()),
        Err(failure) => (failure.code, failure.message),
    }
}

fn partition(id: u32, result: Option<&str>) -> Value {
    json!({"partitionId": id, "currentLeader": "0", "desiredLeader": "1", "from": "0", "to": "1", "result": result})
}

fn run_json(result: Option<&str>, partitions: &[Value]) -> Value {
    let finished = result.map(|_| "2026-01-01T00:00:01Z");
    json!({"rebalanceId": 17, "startedAt": "2026-01-01T00:00:00Z", "dryRun": false, "cancelRequested": false,
           "finishedAt": finished, "result": result, "partitions": partitions})
}

/// An API whose run is these, one after the other each time that it is asked for; the last one stays.
fn api_with_runs(runs: Vec<Value>) -> Router {
    let asked = Arc::new(AtomicUsize::new(0));
    let next = move || {
        let run = &runs[asked.fetch_add(1, Relaxed).min(runs.len() - 1)];
        std::future::ready(axum::Json(run.clone()))
    };
    let started = || async {
        (StatusCode::ACCEPTED, [(header::LOCATION, "/cluster/v2/rebalance/17")], "{}").into_response()
    };
    Router::new().route("/cluster/v2/rebalance", post(started)).route("/cluster/v2/rebalance/17", get(next))
}

/// Every partition that was told, in order, with how many were done then.
#[derive(Default)]
struct Told(Vec<(u32, usize, usize)>);

impl Watcher for Told {
    fn partition_done(&mut self, partition: &RunPartition, done: usize, all: usize) {
        self.0.push((partition.partition_id, done, all));
    }
}

async fn followed(routes: Router) -> (Run, Vec<(u32, usize, usize)>) {
    let api = ClusterApi::new(crate::cluster::http::Http::new(), &serve_http(routes).await);
    let mut told = Told::default();
    let (run, _) = follow(&api, 17, &mut told).await.unwrap();
    (run, told.0)
}

#[test]
fn what_is_asked_for_goes_into_the_body() {
    let words = ["--policy", "even-count", "--partition", "1,3", "--partition", "7", "--max-concurrent", "2"];
    let more = ["--pause-budget", "1s 500ms", "--lag-threshold", "1024", "--plan", "00ff"];
    let named = ["--target", "3=0,1=2", "--target", "7=1", "--max-leaders-per-broker", "4"];
    let args = parsed(&[&words[..], &more[..], &named[..]].concat()).unwrap();
    let expected = json!({"policy": "even-count", "partitions": [1, 3, 7], "maxConcurrent": 2, "pauseBudget": "PT1.5S",
                          "replicationLagThreshold": 1024, "plan": "00ff", "targets": {"1": 2, "3": 0, "7": 1},
                          "maxLeadersPerBroker": 4});
    assert_eq!(serde_json::to_value(args.asked.body()).unwrap(), expected);
    assert_eq!(parsed(&[]).unwrap().asked.body(), RebalanceBody::default());
}

#[test]
fn durations_are_iso_8601_on_the_wire() {
    let table = [("2s", "PT2S"), ("500ms", "PT0.5S"), ("1m 30s", "PT90S"), ("1us", "PT0.000001S")];
    for (given, expected) in table {
        assert_eq!(iso_8601(pause_budget(given).unwrap()), expected);
    }
    for bad in ["", "2", "0s", "2h", "PT2S"] {
        assert!(pause_budget(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_go_together_is_wrong_usage() {
    let wrong: [&[&str]; 14] = [
        &["--cancel", "--show"],
        &["--cancel", "--history"],
        &["--cancel", "--policy", "records"],
        &["--history", "--watch"],
        &["--show", "3", "--dry-run"],
        &["--dry-run", "--watch"],
        &["--partition", "0"],
        &["--policy", "fair"],
        &["--max-concurrent", "65"],
        &["--target", "3"],
        &["--target", "0=1"],
        &["--target", "3=one"],
        &["--max-leaders-per-broker", "-1"],
        &["--cancel", "--target", "3=0"],
    ];
    for words in wrong {
        assert_eq!(parsed(words).unwrap_err().exit_code(), 2, "{words:?}");
    }
    for words in [&["--show"][..], &["--show", "3", "--watch"], &["--history"], &["--cancel"], &["--dry-run"]]
    {
        assert!(parsed(words).is_ok(), "{words:?}");
    }
}

#[tokio::test]
async fn a_run_is_followed_by_asking_when_there_are_no_events() {
    let runs = vec![
        run_json(None, &[partition(1, None), partition(2, None)]),
        run_json(None, &[partition(1, None), partition(2, Some("TRANSFERRED"))]),
        run_json(Some("COMPLETED"), &[partition(1, Some("TRANSFERRED")), partition(2, Some("TRANSFERRED"))]),
    ];
    let (run, told) = followed(api_with_runs(runs)).await;
    assert!(run.went_well());
    assert_eq!(told, [(2, 1, 2), (1, 2, 2)]);
}

#[tokio::test]
async fn a_run_is_followed_by_its_events_and_each_partition_told_once() {
    let first = run_json(None, &[partition(1, Some("TRANSFERRED")), partition(2, None), partition(3, None)]);
    let last: Vec<Value> = (1..=3).map(|id| partition(id, Some("TRANSFERRED"))).collect();
    let text = format!(
        ": alive\n\nevent: partition\ndata: {}\n\nevent: partition\ndata: {}\n\nevent: partition\ndata: {}\n\n\
         event: finished\ndata: {}\n\n",
        partition(1, Some("TRANSFERRED")),
        partition(3, None),
        partition(3, Some("TRANSFERRED")),
        run_json(Some("COMPLETED"), &last)
    );
    let events = move || async move { ([(header::CONTENT_TYPE, "text/event-stream")], text) };
    // Were it to ask, it would ask for ever: this run does not end.
    let routes = api_with_runs(vec![first]).route("/cluster/v2/rebalance/17/events", get(events));
    let (run, told) = followed(routes).await;
    assert!(run.went_well());
    assert_eq!(told, [(1, 1, 3), (3, 2, 3), (2, 3, 3)]);
}

#[tokio::test]
async fn events_that_end_too_early_are_replaced_by_asking() {
    let whole = run_json(Some("COMPLETED"), &[partition(1, Some("TRANSFERRED"))]);
    for text in ["event: partition\ndata: {\n\n", "event: finished\ndata: {}\n\n", ""] {
        let events = move || async move { Body::from(text) };
        let routes = api_with_runs(vec![run_json(None, &[partition(1, None)]), whole.clone()])
            .route("/cluster/v2/rebalance/17/events", get(events));
        let (run, told) = followed(routes).await;
        assert!(run.went_well());
        assert_eq!(told, [(1, 1, 1)], "{text:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_cannot_answer_for_a_moment_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = move || {
        let run = match asked.fetch_add(1, Relaxed) {
            0 => run_json(None, &[partition(1, None)]),
            1 | 2 => {
                return std::future::ready((
                    StatusCode::SERVICE_UNAVAILABLE,
                    axum::Json(json!({"detail": "x"})),
                ));
            }
            _ => run_json(Some("COMPLETED"), &[partition(1, Some("TRANSFERRED"))]),
        };
        std::future::ready((StatusCode::OK, axum::Json(run)))
    };
    let (run, _) = followed(Router::new().route("/cluster/v2/rebalance/17", get(answer))).await;
    assert!(run.went_well());
}

#[tokio::test]
async fn the_exit_code_tells_how_the_run_ended() {
    let table =
        [("COMPLETED", "TRANSFERRED", 0), ("FAILED", "LAG_TOO_HIGH", 6), ("CANCELLED", "CANCELLED", 6)];
    for (result, of_partition, expected) in table {
        let runs = vec![run_json(Some(result), &[partition(1, Some(of_partition))])];
        let url = serve_http(api_with_runs(runs)).await;
        for words in [&[][..], &["--watch"], &["--output", "json"]] {
            let (code, message) = exit_code(&url, words).await;
            assert_eq!(code, expected, "{result} {words:?}: {message}");
        }
        // To look at a run is no failure, however it ended.
        assert_eq!(exit_code(&url, &["--show", "17"]).await.0, 0);
    }
}

#[tokio::test]
async fn the_exit_code_tells_why_there_was_no_run() {
    let table = [
        (StatusCode::ACCEPTED, json!({"state": "BALANCED"}), 0, ""),
        (StatusCode::BAD_REQUEST, json!({"detail": "partition 99 does not exist"}), 2, "partition 99"),
        (StatusCode::CONFLICT, json!({"detail": "paused", "reason": "PAUSED"}), 3, "refused: paused"),
        (StatusCode::CONFLICT, json!({"detail": "x", "reason": "PLAN_CHANGED"}), 3, "refused: x"),
        (StatusCode::SERVICE_UNAVAILABLE, json!({"detail": "no broker"}), 3, "no broker"),
        (
            StatusCode::CONFLICT,
            json!({"detail": "x", "reason": "ACTIVE", "rebalanceId": 4}),
            7,
            "rebalance 4 is under way",
        ),
    ];
    for (status, body, expected, said) in table {
        let routes = Router::new()
            .route("/cluster/v2/rebalance", post(move || async move { (status, axum::Json(body)) }));
        let (code, message) = exit_code(&serve_http(routes).await, &[]).await;
        assert_eq!(code, expected, "{message}");
        assert!(message.contains(said), "{message}");
    }
    let port = crate::processes::free_ports::free_ports(1).unwrap()[0];
    assert_eq!(exit_code(&format!("http://127.0.0.1:{port}"), &[]).await.0, 3);
}

#[tokio::test]
async fn a_dry_run_starts_nothing() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let start = move |uri: axum::http::Uri, body: String| async move {
        seen.lock().push((uri.to_string(), body));
        let plan =
            json!({"rebalanceId": 0, "dryRun": true, "plan": "00ff", "partitions": [partition(1, None)]});
        (StatusCode::ACCEPTED, axum::Json(json!({"state": "UNBALANCED", "plannedRebalance": plan})))
    };
    let url = serve_http(Router::new().route("/cluster/v2/rebalance", post(start))).await;
    assert_eq!(exit_code(&url, &["--dry-run", "--partition", "1"]).await.0, 0);
    let expected = ("/cluster/v2/rebalance?dryRun=true".to_owned(), r#"{"partitions":[1]}"#.to_owned());
    assert_eq!(*asked.lock(), [expected]);
}

#[tokio::test]
async fn runs_are_shown_listed_and_cancelled() {
    let last = run_json(Some("FAILED"), &[partition(1, Some("UNREACHABLE"))]);
    let balance = json!({"state": "UNBALANCED", "partitions": [], "runningRebalance": null, "lastCompletedRebalance": last});
    let cancel = || async { axum::Json(json!({"wasRunning": false})) };
    let history = || async { axum::Json(json!({"rebalances": [{"rebalanceId": 1, "startedAt": "x"}]})) };
    let unknown = || async { (StatusCode::NOT_FOUND, axum::Json(json!({"detail": "run 4 is not known"}))) };
    let routes = Router::new()
        .route("/cluster/v2/rebalance", get(move || async move { axum::Json(balance) }).delete(cancel))
        .route("/cluster/v2/rebalance/history", get(history))
        .route("/cluster/v2/rebalance/4", get(unknown));
    let url = serve_http(routes).await;
    for words in [&["--show"][..], &["--history"], &["--cancel"], &["--show", "--output", "json"]] {
        assert_eq!(exit_code(&url, words).await, (0, String::new()), "{words:?}");
    }
    assert_eq!(exit_code(&url, &["--show", "4"]).await, (1, "run 4 is not known".to_owned()));
}

#[tokio::test]
async fn two_leaders_for_one_partition_are_wrong_usage_and_nothing_is_asked_for() {
    let (code, message) = exit_code("http://127.0.0.1:1", &["--target", "3=0", "--target", "3=1"]).await;
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("both broker 0 and broker 1 for partition 3; name one"), "{message}");
}
