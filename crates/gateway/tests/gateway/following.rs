//! A run as it goes on, as server-sent events.

use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use serde_json::Value;

use crate::harness::{Harness, HttpAnswer, http, http_then, until};

async fn events(harness: &Harness, id: &str) -> HttpAnswer {
    http("GET", harness.addresses.api, &format!("/cluster/v2/rebalance/{id}/events")).await
}

/// Names and data, in order.
fn parse(answer: &HttpAnswer) -> Vec<(String, Value)> {
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let line = |event: &str, field: &str| {
        event.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
    };
    let event =
        |event: &str| Some((line(event, "event:")?, serde_json::from_str(&line(event, "data:")?).unwrap()));
    text.split("\n\n").filter_map(event).collect()
}

#[tokio::test]
async fn every_step_of_a_run_is_told_in_order_and_the_end_is_the_last() {
    let harness = Harness::start(6).await;
    for partition in [2, 5] {
        harness.cluster.set_leader(partition, Some(0));
        harness.until_leader(partition, Some(0)).await;
    }
    let hold = harness.cluster.hold_step_downs();
    let started = http("POST", harness.addresses.monitoring, "/actuator/rebalance").await;
    assert_eq!(started.header("location"), Some("/cluster/v2/rebalance/1"));
    until("a leader to be asked", async || !harness.cluster.step_downs().is_empty()).await;
    let path = "/cluster/v2/rebalance/1/events";
    let answer = http_then("GET", harness.addresses.api, path, || hold.cancel()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    let told = parse(&answer);
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"rebalance"), Some(&"finished")), "{names:?}");
    let (first, last) = (&told[0].1, &told[told.len() - 1].1);
    assert_eq!((&first["rebalanceId"], &last["result"]), (&1.into(), &"COMPLETED".into()));
    for partition in [2, 5] {
        let mut steps =
            told.iter().filter(|(name, data)| name == "partition" && data["partitionId"] == partition);
        let last = steps.next_back().unwrap_or_else(|| panic!("nothing was told of {partition}: {told:?}"));
        assert_eq!((&last.1["progress"], &last.1["result"]), (&"COMPLETED".into(), &"TRANSFERRED".into()));
    }

    let afterwards = parse(&events(&harness, "1").await);
    let names: Vec<&str> = afterwards.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["rebalance", "finished"], "a finished run is told at once");
    harness.stop().await;
}

/// Real leaders are in this state for some milliseconds, until a majority has their first entry.
#[tokio::test]
async fn a_leader_that_has_just_been_elected_is_asked_again_and_then_told_as_initializing() {
    let harness = Harness::start(3).await;
    harness.cluster.set_leader(2, Some(0));
    harness.until_leader(2, Some(0)).await;
    let run = async |id: u64| {
        assert_eq!(http("POST", harness.addresses.api, "/cluster/v2/rebalance").await.status, 202);
        let told = parse(&events(&harness, &id.to_string()).await).pop().unwrap().1;
        let partition = told["partitions"].as_array().unwrap()[0].clone();
        (told["result"].clone(), partition["result"].clone(), partition["currentLeader"].clone())
    };
    harness.cluster.refuse_step_downs(2, Some(StepDown::LeaderInitializing));
    assert_eq!(run(1).await, ("FAILED".into(), "LEADER_INITIALIZING".into(), "0".into()));
    assert_eq!(harness.cluster.step_downs(), [(0, 2); 3], "as often as it may be asked");
    harness.cluster.refuse_step_downs(2, None);
    assert_eq!(run(2).await, ("COMPLETED".into(), "TRANSFERRED".into(), "1".into()));
    harness.stop().await;
}

#[tokio::test]
async fn an_unknown_run_has_no_events() {
    let harness = Harness::start(3).await;
    for id in ["7", "seven"] {
        let answer = events(&harness, id).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")));
    }
    harness.stop().await;
}
