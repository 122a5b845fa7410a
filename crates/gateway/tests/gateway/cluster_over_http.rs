//! Partitions, brokers and the console's files on the API port.

use serde_json::{Value, json};

use crate::harness::{Harness, http};

#[tokio::test]
async fn partitions_are_shown_with_their_replicas_and_one_with_its_indices_and_leaderships() {
    let harness = Harness::start(3).await;
    harness.cluster.set_leader(2, Some(0));
    harness.until_leader(2, Some(0)).await;
    let all = http("GET", harness.addresses.api, "/cluster/v2/partitions").await.json();
    let all = all["partitions"].as_array().unwrap();
    let ids: Vec<u64> = all.iter().map(|partition| partition["partitionId"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3]);
    let second = &all[1];
    assert_eq!(
        (&second["leader"], &second["primary"], &second["balanced"]),
        (&json!(0), &json!(1), &json!(false))
    );
    assert_eq!(second["replicas"].as_array().unwrap().len(), 3);
    assert_eq!(second["replicas"][0]["role"], "leader");
    assert!(second["replicas"][0].get("commitIndex").is_none(), "{second}");

    let one = http("GET", harness.addresses.api, "/cluster/v2/partitions/2").await.json();
    for index in ["lastLogIndex", "commitIndex", "appliedIndex"] {
        assert!(one["replicas"][0][index].is_u64(), "{index} in {one}");
    }
    let led: Vec<&Value> = one["leaderships"].as_array().unwrap().iter().map(|l| &l["leader"]).collect();
    assert_eq!(led.first(), Some(&&json!(0)), "the newest first: {one}");
    assert!(led.contains(&&json!(1)), "{one}");
    // The system group is routed to like a partition, and is none.
    for unknown in ["0", "4", "one", "-1"] {
        let answer = http("GET", harness.addresses.api, &format!("/cluster/v2/partitions/{unknown}")).await;
        assert_eq!(
            (answer.status, answer.json()["reason"].as_str()),
            (404, Some("UNKNOWN_PARTITION")),
            "{unknown}"
        );
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_broker_is_shown_with_the_partitions_that_it_has_replicas_of() {
    let harness = Harness::start(3).await;
    let broker = http("GET", harness.addresses.api, "/cluster/v2/brokers/1").await.json();
    assert_eq!((&broker["nodeId"], &broker["reachable"]), (&json!(1), &json!(true)), "{broker}");
    assert_eq!((&broker["leaders"], &broker["primaries"]), (&json!(1), &json!(1)), "{broker}");
    assert_eq!(broker["partitions"].as_array().unwrap().len(), 3);
    // The brokers of this test have no disk and no certificate.
    assert_eq!((&broker["diskFreeBytes"], &broker["certificateExpiresAt"]), (&Value::Null, &Value::Null));
    for unknown in ["9", "one"] {
        let answer = http("GET", harness.addresses.api, &format!("/cluster/v2/brokers/{unknown}")).await;
        assert_eq!(
            (answer.status, answer.json()["reason"].as_str()),
            (404, Some("UNKNOWN_BROKER")),
            "{unknown}"
        );
    }
    harness.stop().await;
}

#[tokio::test]
async fn the_console_comes_with_a_policy_that_lets_nothing_else_in() {
    let harness = Harness::start(1).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/console/main.js", "text/javascript; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let answer = http("GET", harness.addresses.api, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert!(!answer.body.is_empty() && answer.header("etag").is_some(), "{path}");
        let head = http("HEAD", harness.addresses.api, path).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    let missing = http("GET", harness.addresses.api, "/console/nothing.js").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")));
    harness.stop().await;
}
