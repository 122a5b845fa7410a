//! Draining brokers through the API.

use serde_json::{Value, json};

use crate::harness::{Harness, HttpAnswer, http, until};

async fn drain(harness: &Harness, method: &str, node: &str) -> HttpAnswer {
    http(method, harness.addresses.api, &format!("/cluster/v2/brokers/{node}/drain")).await
}

async fn broker(harness: &Harness, node: usize) -> Value {
    http("GET", harness.addresses.api, "/cluster/v2/brokers").await.json()["brokers"][node].clone()
}

/// Whether a broker is drained and how many partitions it leads, once that is so.
async fn until_leads(harness: &Harness, node: usize, drained: bool, leaders: u64) {
    until("the broker to lead as many as it should", async || {
        let shown = broker(harness, node).await;
        shown["drained"] == drained && shown["leaders"] == leaders
    })
    .await;
}

#[tokio::test]
async fn a_drained_broker_leads_nothing_until_it_is_undrained_and_asked_for() {
    let harness = Harness::start(6).await;
    let answer = drain(&harness, "PUT", "1").await;
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["drained"], &body["rebalanceId"]),
        (200, &json!(true), &json!(1)),
        "{body}"
    );
    until_leads(&harness, 1, true, 0).await;
    assert!(harness.cluster.is_drained(1), "the broker was told");

    // Whatever comes to it is moved away again.
    harness.cluster.set_leader(2, Some(1));
    until_leads(&harness, 1, true, 1).await;
    until_leads(&harness, 1, true, 0).await;
    // Leadership belongs elsewhere as long as that is so.
    let balance = http("GET", harness.addresses.api, "/cluster/v2/rebalance").await.json();
    assert_eq!(balance["state"], "BALANCED", "{balance}");

    let answer = drain(&harness, "DELETE", "1").await;
    assert_eq!((answer.status, &answer.json()["wasDrained"]), (200, &json!(true)));
    until_leads(&harness, 1, false, 0).await;
    assert!(!harness.cluster.is_drained(1));
    http("POST", harness.addresses.monitoring, "/actuator/rebalance").await;
    until_leads(&harness, 1, false, 2).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_broker_that_forgot_that_it_is_drained_is_told_again() {
    let harness = Harness::start(3).await;
    drain(&harness, "PUT", "2").await;
    harness.cluster.forget_drained(2);
    until("the broker to be told", async || harness.cluster.is_drained(2)).await;
    harness.stop().await;
}

#[tokio::test]
async fn what_cannot_be_drained_is_refused_with_the_reason_and_nothing_changes() {
    let harness = Harness::start(3).await;
    for (node, status, reason) in [("9", 404, "UNKNOWN_BROKER"), ("x", 404, "UNKNOWN_BROKER")] {
        for method in ["PUT", "DELETE"] {
            let answer = drain(&harness, method, node).await;
            assert_eq!(
                (answer.status, &answer.json()["reason"]),
                (status, &json!(reason)),
                "{method} {node}"
            );
        }
    }
    http("PUT", harness.addresses.api, "/ESCManager/internal/ownership/pause").await;
    let answer = drain(&harness, "PUT", "0").await;
    assert_eq!((answer.status, &answer.json()["reason"]), (409, &json!("PAUSED")));
    assert_eq!(broker(&harness, 0).await["drained"], false);
    http("PUT", harness.addresses.api, "/ESCManager/internal/ownership/resume").await;
    for node in ["0", "1"] {
        until("the broker to be drained", async || drain(&harness, "PUT", node).await.status == 200).await;
    }
    until_leads(&harness, 1, true, 0).await;
    let answer = until_not_active(&harness, "2").await;
    assert_eq!((answer.status, &answer.json()["reason"]), (409, &json!("LAST_BROKER")));
    harness.stop().await;
}

/// The answer once no run stands in the way.
async fn until_not_active(harness: &Harness, node: &str) -> HttpAnswer {
    loop {
        let answer = drain(harness, "PUT", node).await;
        if answer.json()["reason"] != "ACTIVE" {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}
