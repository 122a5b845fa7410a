//! Leadership got uneven; an operator asks for a rebalance.

use std::collections::BTreeMap;

use evenkeel_protocol::v1::TopologyResponse;
use http::Method;
use serde_json::Value;

use crate::harness::{Answer, Cluster, Load, Spec, http, leads_per_broker, terms, wait_until};

/// What the contract promises whatever came of it; returns the `Rebalance-Status`.
fn status_of(answer: &Answer) -> &str {
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0), "always 200 without a body");
    answer.header("rebalance-status").unwrap()
}

/// Follows a started run to its end.
async fn run_of(cluster: &Cluster, answer: &Answer) -> Value {
    let location = cluster.api(answer.header("location").unwrap());
    wait_until("the run to end", async || {
        let run = http(Method::GET, &location).await?.json();
        if run["finishedAt"].is_string() { Ok(run) } else { Err(run.to_string()) }
    })
    .await
}

fn leader(topology: &TopologyResponse, partition: u32) -> Option<u64> {
    topology.partitions.iter().find(|p| p.partition_id == partition).and_then(|p| p.leader)
}

/// The live broker with the highest priority, by partition.
fn best_live(topology: &TopologyResponse) -> BTreeMap<u32, u64> {
    let mut best: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    for broker in topology.brokers.iter().filter(|broker| broker.reachable) {
        for replica in &broker.replicas {
            let candidate = (replica.priority, broker.node_id);
            let known = best.entry(replica.partition_id).or_insert(candidate);
            *known = candidate.max(*known);
        }
    }
    best.into_iter().map(|(partition, (_, node))| (partition, node)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_under_light_load_evens_the_leaders_without_a_failed_request() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 12)).await;
    cluster.lose_and_return(2).await;
    assert_eq!(leads_per_broker(&cluster.topology().await)[2], 0);
    let load = Load::without_retries(cluster.records(), 4);
    load.progress(100).await;

    let answer = cluster.rebalance().await;
    assert_eq!(status_of(&answer), "started");
    let run = run_of(&cluster, &answer).await;
    let topology = cluster.wait_until_balanced().await;
    load.progress(200).await;

    assert_eq!(leads_per_broker(&topology), [4, 4, 4]);
    assert_eq!(run["result"], "COMPLETED");
    let moved = run["partitions"].as_array().unwrap();
    assert_eq!(moved.len(), 4, "only what broker 2 should lead is moved: {run}");
    for partition in moved {
        assert_eq!((&partition["result"], &partition["to"]), (&"TRANSFERRED".into(), &"2".into()));
    }
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    println!("longest gaps between acknowledged writes: {:?}", ledger.longest_gap);
    ledger.check(&cluster.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rebalancing_a_balanced_cluster_is_a_noop_that_changes_no_leadership() {
    let cluster = Cluster::start(Spec::new(3, 6)).await;
    let before = terms(&cluster.wait_until_balanced().await);
    for _ in 0..3 {
        let answer = cluster.rebalance().await;
        assert_eq!((status_of(&answer), answer.header("location")), ("noop", None));
    }
    cluster.client().put("k", "still served", None).await.unwrap();
    assert_eq!(terms(&cluster.topology().await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_of_three_brokers_up_the_best_of_them_lead_after_a_rebalance() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 6)).await;
    cluster.lose_and_return(0).await;
    cluster.kill(2);
    cluster.wait_until_abandoned(2).await;
    let answer = cluster.rebalance().await;
    assert_eq!(status_of(&answer), "started");
    run_of(&cluster, &answer).await;
    cluster
        .wait_for("the best live replica of each partition to lead", |topology| {
            let best = best_live(topology);
            best.len() == 6
                && best.iter().all(|(partition, node)| leader(topology, *partition) == Some(*node))
        })
        .await;
    cluster.client().put("k", "v", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_primary_is_away_the_next_best_replica_leads() {
    let mut spec = Spec::new(5, 5);
    spec.replication_factor = 5;
    let mut cluster = Cluster::start_balanced(spec).await;
    // Partition 1 ranks brokers 0, 1, 2, 3, 4; one of the last three shall lead it.
    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    cluster.kill(1);
    cluster
        .wait_for("partition 1 to be led by none of the two best", |topology| {
            leader(topology, 1).is_some_and(|leader| leader > 1)
        })
        .await;
    cluster.restart(1);
    cluster.wait_for("broker 1 to be back", |topology| topology.brokers[1].reachable).await;
    wait_until("the next best replica to lead", async || {
        // Broker 1 may need a moment to catch up: asking again is what an operator does.
        cluster.rebalance().await;
        let topology = cluster.topology().await;
        if leader(&topology, 1) == Some(1) { Ok(()) } else { Err(format!("{:?}", terms(&topology))) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_primary_is_left_alone_until_it_has_caught_up() {
    /// More than the 8 MiB that a rebalance allows unless told otherwise.
    const VALUES: usize = 10;
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3)).await;
    cluster.lose_and_return(0).await;
    // Its connections stay open, but it takes nothing in.
    cluster.pause(0);
    let client = cluster.client();
    let of_partition_1 = |key: &String| evenkeel_protocol::partition_of(key.as_bytes(), 3).0 == 1;
    let keys = (0..).map(|i| format!("k{i}")).filter(of_partition_1).take(VALUES);
    for key in keys {
        client.put(key, "v".repeat(1 << 20), None).await.unwrap();
    }
    wait_until("broker 0 to lag in partition 1", async || match cluster.lag_of(0).await? {
        lag if lag >= VALUES as f64 => Ok(()),
        lag => Err(format!("it lacks {lag}")),
    })
    .await;
    let answer = cluster.rebalance().await;
    assert_eq!(status_of(&answer), "started");
    let run = run_of(&cluster, &answer).await;
    assert_eq!(run["result"], "FAILED");
    assert_eq!(run["partitions"][0]["partitionId"], 1);
    assert_eq!(run["partitions"][0]["result"], "LAG_TOO_HIGH", "{run}");
    let topology = cluster.topology().await;
    assert_eq!(leader(&topology, 1), Some(1), "who led before leads on");

    cluster.resume(0);
    cluster.wait_until_caught_up(0).await;
    assert_eq!(status_of(&cluster.rebalance().await), "started");
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_priority_election_off_a_rebalance_is_refused_and_nothing_moves() {
    let cluster = Cluster::start(Spec::new(3, 6).broker("raft.priority_election", false)).await;
    let before = terms(&cluster.topology().await);
    let answer = cluster.rebalance().await;
    assert_eq!((status_of(&answer), answer.header("location")), ("refused", None));
    let log = cluster.gateways[0].log();
    assert!(log.contains("rebalance refused") && log.contains("raft.priority_election"), "{log}");
    cluster.client().put("k", "still served", None).await.unwrap();
    assert_eq!(terms(&cluster.topology().await), before);
}
