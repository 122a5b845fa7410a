//! What a dry run says is what a run does.

use std::collections::BTreeMap;

use evenkeel_protocol::partition_of;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, PATIENT_LEASE, RebalanceApi, Spec, partition_of as told_of, pending, wait_until,
};

/// By partition: the result, who led and who should, from whom to whom, and the lag that the plan saw.
type Told = BTreeMap<u64, [Value; 7]>;

/// What is told of every partition that takes part in `run`; a planned move counts as one that was done.
fn told(shown: &Value, run: &Value) -> Told {
    let taking_part = run["partitions"].as_array().unwrap().iter();
    let told = |partition: &Value| {
        let id = partition["partitionId"].as_u64().unwrap();
        let told = told_of(shown, u32::try_from(id).unwrap());
        let result = if told["result"].is_null() { json!("TRANSFERRED") } else { told["result"].clone() };
        let rest = ["desiredLeader", "from", "to", "reason", "lagEntries", "lagBytes"];
        let [desired, from, to, reason, entries, bytes] = rest.map(|field| told[field].clone());
        (id, [result, desired, from, to, reason, entries, bytes])
    };
    taking_part.map(told).collect()
}

/// A dry run, and then a run of the same request; what both tell. The second tries once.
async fn planned_and_run(api: &RebalanceApi, body: Value) -> (Told, Told, Value) {
    let mut body = body;
    body["maxTransferAttempts"] = json!(1);
    let planned = api.dry_run(&body).await;
    let run = api.run_to_the_end(&body).await;
    let left_out = planned["partitions"].as_array().unwrap().iter().filter(|p| {
        let id = p["partitionId"].as_u64().unwrap();
        !run["partitions"].as_array().unwrap().iter().any(|other| other["partitionId"].as_u64() == Some(id))
    });
    for partition in left_out {
        let led_as_wanted = partition["result"] == "ALREADY_LEADER" || partition["reason"] == "FILTERED";
        assert!(led_as_wanted, "{planned}\n{run}");
    }
    (told(&planned, &run), told(&run, &run), run)
}

/// Results by partition.
fn results(told: &Told) -> Vec<(u64, &str)> {
    told.iter().map(|(partition, told)| (*partition, told[0].as_str().unwrap())).collect()
}

/// Writes so many values of a KiB to a partition.
async fn write_to(cluster: &Cluster, partition: u32, values: usize) {
    let client = cluster.client();
    let partitions = cluster.spec.partitions;
    let of_partition = |key: &String| partition_of(key.as_bytes(), partitions).0 == partition;
    let keys = (0..).map(|i| format!("k{i}")).filter(of_partition).take(values);
    let writes = keys.map(|key| client.put(key, "v".repeat(1024), None));
    futures::future::try_join_all(writes).await.unwrap();
}

/// Primaries of partitions 1 to 8 are brokers 0, 1, 2, 3, 0, 1, 2, 3; broker 3 is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_with_a_broker_away_equals_the_run_with_all_that_it_skips() {
    let mut cluster = Cluster::start_balanced(Spec::new(4, 8).broker("raft.lease", PATIENT_LEASE)).await;
    let api = cluster.rebalance_api(0);
    cluster.kill(3);
    cluster.wait_until_abandoned(3).await;
    // Partition 4 ranks brokers 3, 0, 1 and partition 8 brokers 3, 1, 0. One is led by the best that is left, the other
    // by the worst.
    for (partition, to) in [(1, 1), (4, 0), (5, 0), (8, 0)] {
        cluster.give(partition, to).await;
    }
    wait_until("every follower that is left to be known as caught up", async || {
        let planned = api.dry_run(&json!({})).await;
        if pending(&planned) == [1, 8] { Ok(()) } else { Err(planned.to_string()) }
    })
    .await;

    // What is asked for by name is skipped for whom it names.
    let named = json!({"targets": {"2": 0, "3": 3, "6": 0}, "partitions": [2, 3, 6, 7]});
    let (planned, done, run) = planned_and_run(&api, named).await;
    assert_eq!(planned, done, "{run}");
    let expected = [(2, "NOT_MEMBER"), (3, "UNREACHABLE"), (6, "NOT_MEMBER"), (7, "ALREADY_LEADER")];
    assert_eq!(results(&done), expected, "{run}");

    let (planned, done, run) = planned_and_run(&api, json!({})).await;
    assert_eq!(planned, done, "{run}");
    let expected = [(1, "TRANSFERRED"), (4, "UNREACHABLE"), (8, "TRANSFERRED")];
    assert_eq!(results(&done), expected, "{run}");
    assert_eq!(told_of(&run, 8)["to"], "1", "the next best: {run}");

    // Once more: nothing is left but what cannot be done.
    let (planned, done, run) = planned_and_run(&api, json!({})).await;
    assert_eq!(planned, done, "{run}");
    assert_eq!(results(&done), [(4, "UNREACHABLE"), (8, "UNREACHABLE")], "{run}");
}

/// A process that is stopped keeps its connections for a second; whoever is asked until then may still lead, by what
/// is known of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_finds_a_target_that_lags_or_hangs_just_as_the_run_does() {
    // Broker 0, which leads the system group, is never stopped.
    let layout: [&[&str]; 2] = [&["2=3", "1=2", "0=1"], &["0=3", "1=2", "2=1"]];
    let spec = Spec::new(3, 2).fixed(&layout).broker("raft.lease", PATIENT_LEASE);
    let mut cluster = Cluster::start_balanced(spec).await;
    let api = cluster.rebalance_api(0);
    wait_until("a dry run and a run before the pause is noticed", async || {
        for partition in [1, 2] {
            cluster.give(partition, 1).await;
        }
        wait_until("the primaries to be known as caught up", async || {
            let planned = api.dry_run(&json!({})).await;
            if pending(&planned) == [1, 2] { Ok(()) } else { Err(planned.to_string()) }
        })
        .await;
        cluster.pause(2);
        write_to(&cluster, 1, 40).await;
        let lagging =
            planned_and_run(&api, json!({"replicationLagThreshold": 1024, "partitions": [1]})).await;
        let hanging = planned_and_run(&api, json!({})).await;
        cluster.resume(2);
        cluster.wait_until_caught_up(2).await;

        let (planned, done, run) = hanging;
        assert_eq!(results(&planned), results(&done), "{planned:?}\n{run}");
        assert_eq!(results(&done), [(1, "UNREACHABLE"), (2, "TRANSFERRED")], "{run}");
        let (planned, done, run) = lagging;
        assert_eq!(results(&planned), results(&done), "{planned:?}\n{run}");
        match results(&done)[..] {
            [(1, "LAG_TOO_HIGH")] => Ok(()),
            [(1, "UNREACHABLE")] => Err(format!("the pause was noticed: {run}")),
            _ => panic!("{run}"),
        }
    })
    .await;
}
