//! The commands against an API that answers what a test scripts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, put};
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake_gateway::serve_http;

/// A cluster in which draining broker 1 takes one more leadership away at each attempt, by run 5.
fn routes(leaders: u64) -> Router {
    let left = Arc::new(AtomicU64::new(leaders));
    let taken = Arc::clone(&left);
    let drain = move || {
        let before = taken.load(Relaxed);
        taken.store(before.saturating_sub(1), Relaxed);
        let run = (before > 0).then_some(5);
        std::future::ready(axum::Json(json!({"nodeId": 1, "drained": true, "rebalanceId": run})))
    };
    let undrain = || async { axum::Json(json!({"nodeId": 1, "drained": false})) };
    let seen = Arc::clone(&left);
    let brokers = move || {
        let broker = json!({"nodeId": 1, "reachable": true, "drained": true, "leaders": seen.load(Relaxed)});
        std::future::ready(axum::Json(json!({"brokers": [broker]})))
    };
    let run = move || std::future::ready(axum::Json(finished(left.load(Relaxed))));
    let unknown =
        || async { (StatusCode::NOT_FOUND, axum::Json(json!({"detail": "broker 9 is not known"}))) };
    Router::new()
        .route("/cluster/v2/brokers", get(brokers))
        .route("/cluster/v2/brokers/1/drain", put(drain).delete(undrain))
        .route("/cluster/v2/brokers/9/drain", put(unknown).delete(unknown))
        .route("/cluster/v2/rebalance/5", get(run))
}

fn finished(left: u64) -> Value {
    let (result, of_partition) =
        if left == 0 { ("COMPLETED", "TRANSFERRED") } else { ("FAILED", "LAG_TOO_HIGH") };
    json!({"rebalanceId": 5, "finishedAt": "x", "result": result,
           "partitions": [{"partitionId": 1, "result": of_partition}]})
}

async fn connection(routes: Router) -> Connection {
    Connection::to_api(serve_http(routes).await)
}

#[tokio::test]
async fn a_drain_that_leaves_leaderships_exits_with_6_and_waits_when_told_to() {
    let connection = connection(routes(2)).await;
    let failure = drain(DrainArgs { broker: 1, wait: false, shown: PrintArgs::default() }, &connection)
        .await
        .unwrap_err();
    assert_eq!(failure.code, EXIT_TRANSFERS_FAILED);
    assert!(failure.message.contains("still leads 1 partition(s)"), "{failure}");
    drain(DrainArgs { broker: 1, wait: true, shown: PrintArgs::default() }, &connection).await.unwrap();
    // It leads nothing: no run is needed.
    drain(DrainArgs { broker: 1, wait: false, shown: PrintArgs::default() }, &connection).await.unwrap();
    undrain(UndrainArgs { broker: 1, shown: PrintArgs::default() }, &connection).await.unwrap();
}

#[tokio::test]
async fn with_wait_every_attempt_takes_more_away() {
    let connection = connection(routes(3)).await;
    drain(DrainArgs { broker: 1, wait: true, shown: PrintArgs::default() }, &connection).await.unwrap();
}

#[tokio::test]
async fn a_run_that_is_under_way_is_waited_for_only_once_the_broker_is_drained() {
    for (drained, expected) in [(true, None), (false, Some(EXIT_ALREADY_ACTIVE))] {
        let asked = Arc::new(AtomicU64::new(0));
        let drain_after_run_4 = move || {
            let active = json!({"detail": "x", "reason": "ACTIVE", "rebalanceId": 4});
            std::future::ready(match asked.fetch_add(1, Relaxed) {
                0 => (StatusCode::CONFLICT, axum::Json(active)),
                _ => (StatusCode::OK, axum::Json(json!({"nodeId": 1, "drained": true, "rebalanceId": null}))),
            })
        };
        let brokers = move || async move {
            axum::Json(
                json!({"brokers": [{"nodeId": 1, "reachable": true, "drained": drained, "leaders": 0}]}),
            )
        };
        let run_4 = json!({"rebalanceId": 4, "finishedAt": "x", "result": "COMPLETED", "partitions": []});
        let balance = json!({"runningRebalance": run_4, "lastCompletedRebalance": null});
        let answer = |value: Value| get(move || async move { axum::Json(value) });
        let routes = Router::new()
            .route("/cluster/v2/brokers", get(brokers))
            .route("/cluster/v2/brokers/1/drain", put(drain_after_run_4))
            .route("/cluster/v2/rebalance", answer(balance))
            .route("/cluster/v2/rebalance/4", answer(run_4));
        let drained = drain(
            DrainArgs { broker: 1, wait: false, shown: PrintArgs::default() },
            &connection(routes).await,
        )
        .await;
        assert_eq!(drained.err().map(|failure| failure.code), expected);
    }
}

#[tokio::test]
async fn an_unknown_broker_is_wrong_usage() {
    let connection = connection(routes(0)).await;
    let drained = drain(DrainArgs { broker: 9, wait: true, shown: PrintArgs::default() }, &connection)
        .await
        .unwrap_err();
    let undrained =
        undrain(UndrainArgs { broker: 9, shown: PrintArgs::default() }, &connection).await.unwrap_err();
    for failure in [drained, undrained] {
        assert_eq!((failure.code, failure.message.as_str()), (EXIT_USAGE, "broker 9 is not known"));
    }
}
