//! Cisco ESC's ownership routes.

use std::time::{Duration, Instant};

use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use serde_json::{Value, json};

use crate::harness::{Harness, HttpAnswer, PATIENCE, http};

const REBALANCE: &str = "/ESCManager/internal/ownership/rebalance";

async fn rebalance(harness: &Harness) -> HttpAnswer {
    http("PUT", harness.addresses.api, REBALANCE).await
}

async fn put(harness: &Harness, what: &str) -> HttpAnswer {
    http("PUT", harness.addresses.api, &format!("/ESCManager/internal/ownership/{what}")).await
}

async fn ownership(harness: &Harness) -> Value {
    http("GET", harness.addresses.api, "/ESCManager/internal/ownership").await.json()
}

/// Twelve partitions of 50 records, six on each of the brokers 0 and 1.
async fn the_example() -> Harness {
    let harness = Harness::start(12).await;
    for partition in 1..=12 {
        harness.cluster.tell_records(partition, 50);
        harness.cluster.set_leader(partition, Some(u64::from(partition) % 2));
    }
    until_owned(&harness, [300, 300, 0]).await;
    harness
}

/// Returns when the gateway knows that the brokers own so many records.
async fn until_owned(harness: &Harness, records: [u64; 3]) {
    let seen = async {
        loop {
            let shown = ownership(harness).await;
            let brokers = shown["brokers"].as_array().unwrap();
            if brokers.iter().map(|broker| broker["records"].as_u64().unwrap()).eq(records) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the brokers should have come to own that");
}

fn account(previous: u64, requested: u64, accepted: u64, current: u64) -> Value {
    json!({
        "previous_configs_count": previous, "requested_unload_count": requested,
        "accepted_unload_count": accepted, "current_configs_count": current,
    })
}

#[track_caller]
fn assert_refused(answer: &HttpAnswer, code: u16, says: &str) {
    let body = answer.json();
    assert_eq!(answer.status, code, "{body}");
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    let error = body["error"].as_object().unwrap();
    assert_eq!(error.len(), 2, "{body}");
    assert_eq!(error["error_code"], code, "{body}");
    assert!(error["error_message"].as_str().unwrap().contains(says), "{body}");
}

#[tokio::test]
async fn escs_example_is_answered_in_escs_words_and_a_second_call_finds_nothing() {
    let harness = the_example().await;
    let answer = rebalance(&harness).await;
    let expected = json!({
        "uuid-0": account(300, 100, 100, 200),
        "uuid-1": account(300, 100, 100, 200),
        "uuid-2": account(0, 0, 0, 200),
    });
    assert_eq!((answer.status, answer.json()), (200, expected));
    assert_eq!(harness.cluster.step_downs().len(), 4);
    let again = rebalance(&harness).await;
    assert_eq!((again.status, again.json()), (200, json!({"message": "No configs found for rebalance."})));
    assert_eq!(harness.cluster.step_downs().len(), 4, "nothing more was asked for");
    harness.stop().await;
}

#[tokio::test]
async fn what_an_owner_keeps_is_not_accepted_and_the_next_call_asks_for_it_again() {
    let harness = the_example().await;
    for partition in [2, 4, 6, 8, 10, 12] {
        harness.cluster.refuse_step_downs(partition, Some(StepDown::LagTooHigh));
    }
    let expected = json!({
        "uuid-0": account(300, 100, 0, 300),
        "uuid-1": account(300, 100, 100, 200),
        "uuid-2": account(0, 0, 0, 100),
    });
    assert_eq!(rebalance(&harness).await.json(), expected);
    for partition in [2, 4, 6, 8, 10, 12] {
        harness.cluster.refuse_step_downs(partition, None);
    }
    let expected = json!({
        "uuid-0": account(300, 100, 100, 200),
        "uuid-1": account(200, 0, 0, 200),
        "uuid-2": account(100, 0, 0, 200),
    });
    assert_eq!(rebalance(&harness).await.json(), expected);
    harness.stop().await;
}

#[tokio::test]
async fn paused_ownership_refuses_until_resumed_and_both_may_be_repeated() {
    let harness = the_example().await;
    for _ in 0..2 {
        let answer = put(&harness, "pause").await;
        assert_eq!((answer.status, answer.json()), (200, json!({"paused": true})));
        assert_refused(&rebalance(&harness).await, 409, "paused");
    }
    let shown = ownership(&harness).await;
    assert_eq!(shown["paused"], true);
    let first = json!({"uuid": "uuid-0", "node_id": 0, "records": 300, "partitions_led": 6, "healthy": true});
    assert_eq!(shown["brokers"][0], first);
    // Paused comes before the failover.
    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    assert_refused(&rebalance(&harness).await, 409, "paused");
    for _ in 0..2 {
        assert_eq!(put(&harness, "resume").await.json(), json!({"paused": false}));
    }
    assert_refused(&rebalance(&harness).await, 409, "failover is under way (partition 1");
    assert!(harness.cluster.step_downs().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn a_failover_under_way_refuses() {
    let harness = the_example().await;
    harness.cluster.set_leader(0, None);
    let refused = async {
        loop {
            // Until the gateway has heard of it, nothing is refused.
            let asked = Instant::now();
            let answer = rebalance(&harness).await;
            if answer.status != 200 {
                return (answer, asked.elapsed());
            }
        }
    };
    let (answer, took) = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_refused(&answer, 409, "failover is under way (the system group");
    println!("refused in {took:?}");
    assert!(ownership(&harness).await["paused"].is_null(), "nobody can tell");
    harness.stop().await;
}

#[tokio::test]
async fn fewer_than_two_healthy_brokers_refuse() {
    let harness = the_example().await;
    harness.cluster.kill(1);
    harness.cluster.kill(2);
    harness.until_topology(|view| view.brokers.iter().filter(|broker| broker.reachable).count() == 1).await;
    assert_refused(&rebalance(&harness).await, 503, "less than two healthy ESC nodes (1 of 3)");
    harness.stop().await;
}

#[tokio::test]
async fn a_stand_alone_cluster_refuses_whatever_else_is_wrong() {
    let harness = the_example().await;
    harness.cluster.tell_cluster_size(1);
    harness.until_topology(|view| view.cluster_size == 1).await;
    harness.cluster.set_leader(1, None);
    assert_refused(&rebalance(&harness).await, 501, "standalone");
    harness.stop().await;
}

#[tokio::test]
async fn a_rebalance_under_way_refuses_another_and_goes_on_when_its_client_leaves() {
    let harness = the_example().await;
    let hold = harness.cluster.hold_step_downs();
    let api = harness.addresses.api;
    let first = tokio::spawn(async move { http("PUT", api, REBALANCE).await });
    let asked = async {
        while harness.cluster.step_downs().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert_refused(&rebalance(&harness).await, 409, "a rebalance is under way");
    first.abort();
    hold.cancel();
    until_owned(&harness, [200, 200, 200]).await;
    let nothing = async {
        while rebalance(&harness).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, nothing).await.expect("its place is given back");
    harness.stop().await;
}

#[tokio::test]
async fn a_rebalance_through_another_gateway_refuses() {
    for (key, value, says) in [
        ("esc-ownership-rebalance", r#"{"run": 7, "beat": 3}"#, "through another gateway"),
        ("rebalance/active", r#"{"id": 3, "owner": "b", "beat": 1, "cancel_requested": false}"#, "(run 3)"),
    ] {
        let harness = the_example().await;
        harness.cluster.put_system(key, value);
        for _ in 0..2 {
            assert_refused(&rebalance(&harness).await, 409, says);
        }
        assert!(harness.cluster.step_downs().is_empty());
        harness.stop().await;
    }
}

#[tokio::test]
async fn ownership_rebalances_are_counted_by_outcome() {
    let harness = Harness::start(3).await;
    rebalance(&harness).await;
    put(&harness, "pause").await;
    rebalance(&harness).await;
    let answer = http("GET", harness.addresses.monitoring, "/metrics").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for outcome in ["completed", "nothing", "refused_paused"] {
        let wanted = format!("evenkeel_ownership_rebalances_total{{outcome=\"{outcome}\"}}");
        assert!(text.contains(&wanted), "{wanted} missing in:\n{text}");
    }
    harness.stop().await;
}
