//! The HTTP ports: actuator, metrics, health, topology and rebalance runs; and how a gateway starts and stops.

use std::time::Duration;

use evenkeel_gateway::{Gateway, Options};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fake_cluster::Manner;
use crate::harness::{Harness, PATIENCE, http, put};

async fn rebalance(harness: &Harness) -> (String, Option<String>) {
    let answer = http("POST", harness.addresses.monitoring, "/actuator/rebalance").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let location = answer.header("location").map(str::to_owned);
    (answer.header("rebalance-status").unwrap().to_owned(), location)
}

async fn finished_run(harness: &Harness, path: &str) -> serde_json::Value {
    let finished = async {
        loop {
            let run = http("GET", harness.addresses.api, path).await.json();
            if run.get("finishedAt").is_some() {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, finished).await.unwrap()
}

#[tokio::test]
async fn a_balanced_cluster_is_left_alone() {
    let harness = Harness::start(3).await;
    assert_eq!(rebalance(&harness).await, ("noop".into(), None));
    assert!(harness.cluster.step_downs().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn misplaced_partitions_and_only_they_go_home() {
    let harness = Harness::start(6).await;
    for (partition, leader) in [(2, 0), (3, 0), (5, 0)] {
        harness.cluster.set_leader(partition, Some(leader));
        harness.until_leader(partition, Some(leader)).await;
    }
    let (status, location) = rebalance(&harness).await;
    assert_eq!(status, "started");
    let run = finished_run(&harness, &location.unwrap()).await;
    assert_eq!(run["result"], "COMPLETED");
    for entry in run["partitions"].as_array().unwrap() {
        assert_eq!((entry["result"].as_str(), entry["from"].as_str()), (Some("TRANSFERRED"), Some("0")));
        assert_eq!(entry["gapMs"], 1.5);
        let phases =
            serde_json::json!({"probeMs": 0.3, "catchUpMs": 0.0, "freezeMs": 0.6, "electionMs": 0.9});
        assert_eq!(entry["phases"], phases);
    }
    let mut contacted = harness.cluster.step_downs();
    contacted.sort_unstable();
    assert_eq!(contacted, [(0, 2), (0, 3), (0, 5)]);
    // A result never contradicts the topology that follows.
    assert_eq!(rebalance(&harness).await.0, "noop");
    let balance = http("GET", harness.addresses.api, "/cluster/v2/rebalance").await.json();
    assert_eq!(balance["state"], "BALANCED");
    assert_eq!(balance["lastCompletedRebalance"]["rebalanceId"], run["rebalanceId"]);
    assert_eq!(balance["partitions"][1]["desiredLeader"], "1");
    harness.stop().await;
}

#[tokio::test]
async fn a_second_request_during_a_run_is_told_of_the_run() {
    let harness = Harness::start(3).await;
    harness.cluster.set_leader(2, Some(0));
    harness.until_leader(2, Some(0)).await;
    let hold = harness.cluster.hold_step_downs();
    let (first, run) = rebalance(&harness).await;
    let (second, same) = rebalance(&harness).await;
    assert_eq!((first.as_str(), second.as_str()), ("started", "running"));
    assert_eq!(run, same);
    let balance = http("GET", harness.addresses.api, "/cluster/v2/rebalance").await.json();
    assert_eq!(balance["state"], "BALANCING");
    hold.cancel();
    finished_run(&harness, &run.unwrap()).await;
    assert_eq!(harness.cluster.step_downs().len(), 1);
    harness.stop().await;
}

#[tokio::test]
async fn without_priority_election_a_rebalance_is_refused_and_nothing_is_sent() {
    let harness = Harness::start(3).await;
    harness.cluster.set_leader(2, Some(0));
    harness.cluster.set_priority_election(false);
    harness.until_topology(|view| !view.priority_election).await;
    assert_eq!(rebalance(&harness).await, ("refused".into(), None));
    assert!(harness.cluster.step_downs().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn a_partition_without_leader_fails_the_run_but_not_the_others() {
    let harness = Harness::start(3).await;
    harness.cluster.set_leader(1, None);
    harness.cluster.set_leader(2, Some(0));
    harness.until_leader(1, None).await;
    harness.until_leader(2, Some(0)).await;
    let (_, location) = rebalance(&harness).await;
    let run = finished_run(&harness, &location.unwrap()).await;
    let results: Vec<_> = run["partitions"].as_array().unwrap().iter().map(|p| p["result"].clone()).collect();
    assert_eq!(
        (run["result"].as_str(), results),
        (Some("FAILED"), vec!["NO_LEADER".into(), "TRANSFERRED".into()])
    );
    harness.stop().await;
}

#[tokio::test]
async fn a_rebalance_works_while_a_broker_is_away() {
    let harness = Harness::start(3).await;
    harness.cluster.set_leader(2, Some(0));
    harness.cluster.set_leader(3, Some(0));
    harness.cluster.kill(1);
    harness.until_topology(|view| !view.brokers[1].reachable).await;
    harness.until_leader(3, Some(0)).await;
    let (_, location) = rebalance(&harness).await;
    let run = finished_run(&harness, &location.unwrap()).await;
    assert_eq!(run["result"], "COMPLETED");
    // Partition 2's primary is away: the next replica in priority takes it.
    assert_eq!((harness.cluster.leader(2), harness.cluster.leader(3)), (Some(2), Some(2)));

    let (_, location) = rebalance(&harness).await;
    let again = finished_run(&harness, &location.unwrap()).await;
    assert_eq!(again["partitions"][0]["result"], "UNREACHABLE");
    let topology = http("GET", harness.addresses.api, "/v2/topology").await.json();
    let nodes: Vec<_> = topology["brokers"].as_array().unwrap().iter().map(|b| b["nodeId"].clone()).collect();
    assert_eq!(nodes, [0, 2], "as Zeebe, only those that can be reached");
    harness.stop().await;
}

#[tokio::test]
async fn a_stopping_gateway_says_so_and_finishes_what_is_under_way() {
    let harness = Harness::start(1).await;
    harness.cluster.set_manner(0, Manner::Silent);
    let (mut records, request) = (harness.records(), put(&harness.key(1, 1), "a"));
    let waiting = tokio::spawn(async move { records.put(request).await });
    let under_way = async {
        while harness.cluster.received().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, under_way).await.unwrap();
    let (cluster, monitoring) = (harness.cluster.clone(), harness.addresses.monitoring);
    let stopping = tokio::spawn(harness.stop());
    let shown = async {
        while http("GET", monitoring, "/actuator/health/readiness").await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.unwrap();
    cluster.set_leader(1, Some(1));
    let written = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(written.into_inner().version, 1);
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_topology_has_zeebes_rest_shape() {
    let harness = Harness::start(1).await;
    let answer = http("GET", harness.addresses.api, "/v2/topology").await;
    let broker = |node: u64, role: &str| {
        serde_json::json!({
            "nodeId": node, "host": "127.0.0.1", "port": 26501, "version": "0.0.0",
            "partitions": [{"partitionId": 1, "role": role, "health": "healthy"}],
        })
    };
    let expected = serde_json::json!({
        "brokers": [broker(0, "leader"), broker(1, "follower"), broker(2, "follower")],
        "clusterSize": 3, "partitionsCount": 1, "replicationFactor": 3,
        "gatewayVersion": env!("CARGO_PKG_VERSION"),
    });
    assert_eq!((answer.status, answer.json()), (200, expected));
    harness.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_a_problem_document() {
    let harness = Harness::start(1).await;
    let table = [
        ("GET", harness.addresses.api, "/nothing", 404),
        ("GET", harness.addresses.api, "/cluster/v2/rebalance/77", 404),
        ("GET", harness.addresses.api, "/cluster/v2/rebalance/x", 404),
        ("DELETE", harness.addresses.api, "/v2/topology", 405),
        ("GET", harness.addresses.monitoring, "/actuator/rebalance", 405),
        ("PUT", harness.addresses.monitoring, "/actuator/rebalance", 405),
    ];
    for (method, at, path, status) in table {
        let answer = http(method, at, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
        assert_eq!(answer.json()["status"], status);
    }
    harness.stop().await;
}

#[tokio::test]
async fn metrics_show_roles_requests_and_rebalances_with_buckets() {
    let harness = Harness::start(1).await;
    harness.records().put(put(&harness.key(1, 1), "a")).await.unwrap();
    rebalance(&harness).await;
    for path in ["/actuator/prometheus", "/metrics"] {
        let answer = http("GET", harness.addresses.monitoring, path).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        for wanted in [
            "# TYPE zeebe_gateway_topology_partition_roles gauge",
            "zeebe_gateway_topology_partition_roles{partition=\"1\",broker=\"1\"}",
            "evenkeel_gateway_requests_total{method=\"Put\",status=\"OK\"}",
            "evenkeel_gateway_request_seconds_bucket{method=\"Put\",le=\"0.001\"}",
            "evenkeel_gateway_parked_requests",
            "evenkeel_rebalance_runs_total{result=\"noop\"}",
        ] {
            assert!(text.contains(wanted), "{wanted} missing at {path} in:\n{text}");
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn health_follows_the_brokers() {
    let harness = Harness::start(1).await;
    let endpoints = ["", "/liveness", "/readiness", "/startup"];
    for endpoint in endpoints {
        let answer = http("GET", harness.addresses.monitoring, &format!("/actuator/health{endpoint}")).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &serde_json::json!("UP")), "{endpoint}");
    }
    let mut health = HealthClient::new(harness.channel.clone());
    let serving = async {
        for service in ["", "evenkeel.v1.Records", "gateway_protocol.Gateway"] {
            let ask = HealthCheckRequest { service: service.into() };
            while health.check(ask.clone()).await.unwrap().into_inner().status != 1 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, serving).await.unwrap();
    harness.stop().await;

    let mut options = Options::default();
    // Nobody listens on a reserved port of this host.
    options.cluster.brokers = vec!["0=127.0.0.1:1".into()];
    (options.network.port, options.network.api_port, options.network.monitoring_port) = (0, 0, 0);
    let gateway = Gateway::bind(options).await.unwrap();
    let at = gateway.addresses().monitoring;
    let running = tokio::spawn(gateway.serve(std::future::pending()));
    for (endpoint, status) in endpoints.into_iter().zip([503, 200, 503, 200]) {
        let answer = http("GET", at, &format!("/actuator/health{endpoint}")).await;
        assert_eq!(answer.status, status, "{endpoint}");
        if status == 503 {
            let brokers = &answer.json()["components"]["brokers"];
            assert_eq!(
                brokers,
                &serde_json::json!({"status": "DOWN", "details": {"known": 1, "reachable": 0}})
            );
        }
    }
    let answer = http("POST", at, "/actuator/rebalance").await;
    assert_eq!((answer.status, answer.header("rebalance-status")), (200, Some("refused")));
    running.abort();
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut options = Options::default();
    options.cluster.brokers = vec!["0=127.0.0.1:1".into()];
    (options.network.port, options.network.api_port, options.network.monitoring_port) = (0, port, 0);
    let error = Gateway::bind(options).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("network.api_port = 127.0.0.1:{port}: ")), "{error}");
    assert!(error.ends_with("stop the process that holds the port or choose another one"), "{error}");
}

#[tokio::test]
async fn exporters_are_paused_on_every_broker_and_whoever_was_not_told_is_named() {
    let harness = Harness::start(3).await;
    for (word, paused) in [("pause", true), ("resume", false)] {
        let path = format!("/actuator/exporting/{word}");
        let answer = http("POST", harness.addresses.monitoring, &path).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert!((0..3).all(|node| harness.cluster.is_exporting_paused(node) == paused), "{word}");
    }
    harness.cluster.kill(1);
    harness.until_topology(|view| !view.brokers[1].reachable).await;
    let answer = http("POST", harness.addresses.monitoring, "/actuator/exporting/pause").await;
    assert_eq!((answer.status, answer.json()["brokers"].clone()), (502, serde_json::json!([1])));
    assert!(harness.cluster.is_exporting_paused(0) && harness.cluster.is_exporting_paused(2));
    harness.stop().await;
}
