//! What a run says of partitions that it could not move: brokers that lag, do not answer, hold no replica, or are gone.

use evenkeel_protocol::internal::v1::StepDownRequest;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, HELD, HeldRun, PATIENT_STAGGER, Spec, http, leaders, partition_of, partitions_where, pending,
    terms, wait_until,
};

/// Result and reason of one partition, and the result of the run.
fn told(run: &Value, partition: u32) -> [&str; 3] {
    let partition = partition_of(run, partition);
    [&partition["result"], &partition["reason"], &run["result"]].map(|value| value.as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_stopped_lags_by_the_bytes_that_the_request_allows_or_does_not_answer() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3)).await;
    cluster.give(1, 1).await;
    let api = cluster.rebalance_api(0);
    wait_until("broker 0 to be known as caught up", async || {
        let planned = api.dry_run(&json!({})).await;
        if pending(&planned) == [1] { Ok(()) } else { Err(planned.to_string()) }
    })
    .await;
    let before = cluster.topology().await;
    // Its connections stay open, but it takes nothing in.
    cluster.pause(0);
    let client = cluster.client();
    let writes = (0..40).map(|i| client.put(format!("k{i}"), "v".repeat(1024), None));
    futures::future::try_join_all(writes).await.unwrap();

    let run = api.run_to_the_end(&json!({"replicationLagThreshold": 1024})).await;
    assert_eq!(told(&run, 1), ["LAG_TOO_HIGH", "PRIMARY_LAGGING", "FAILED"], "{run}");
    assert!(partition_of(&run, 1)["lagBytes"].as_u64().is_some_and(|bytes| bytes > 1024), "{run}");
    assert!(partition_of(&run, 1)["lagEntries"].as_u64().is_some_and(|entries| entries > 0), "{run}");
    // It lags by less than this, but nothing comes back from it.
    let run = api.run_to_the_end(&json!({"maxTransferAttempts": 1})).await;
    assert_eq!((told(&run, 1)[0], told(&run, 1)[2]), ("UNREACHABLE", "FAILED"), "{run}");
    assert_eq!(partition_of(&run, 1)["currentLeader"], "1", "{run}");
    assert_eq!(terms(&cluster.topology().await), terms(&before), "who led before leads on");
    client.put("k", "still served", None).await.unwrap();

    cluster.resume(0);
    cluster.wait_until_caught_up(0).await;
    let run = api.run_to_the_end(&json!({"replicationLagThreshold": 1024})).await;
    assert_eq!(told(&run, 1), ["TRANSFERRED", "MISPLACED", "COMPLETED"], "{run}");
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_brokers_away_each_partition_goes_to_the_best_that_is_left_or_is_told_to_have_no_leader() {
    // Partition p is on brokers p - 1, p and p + 1.
    let mut cluster = Cluster::start_balanced(Spec::new(5, 5).broker("raft.stagger", PATIENT_STAGGER)).await;
    let api = cluster.rebalance_api(0);
    let run = api.run_to_the_end(&json!({"targets": {"1": 4}})).await;
    assert_eq!(told(&run, 1), ["NOT_MEMBER", "NOT_MEMBER", "FAILED"], "{run}");

    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    let run = api.run_to_the_end(&json!({"targets": {"2": 2, "4": 0}})).await;
    assert_eq!(told(&run, 4), ["UNREACHABLE", "TARGET_UNREACHABLE", "FAILED"], "{run}");
    assert_eq!(told(&run, 2), ["TRANSFERRED", "OVERRIDE", "FAILED"], "what could be moved was: {run}");
    // The primary of partition 1 is away: the next best leads it, which is as good as can be.
    cluster.give(1, 2).await;
    wait_until("partition 1 to be planned", async || {
        let planned = api.dry_run(&json!({})).await;
        if pending(&planned) == [1, 2] { Ok(()) } else { Err(planned.to_string()) }
    })
    .await;
    let run = api.run_to_the_end(&json!({})).await;
    assert_eq!(told(&run, 1), ["TRANSFERRED", "PRIMARY_UNREACHABLE", "COMPLETED"], "{run}");
    assert_eq!(partition_of(&run, 1)["to"], "1", "{run}");
    let run = api.run_to_the_end(&json!({})).await;
    assert_eq!(told(&run, 1), ["UNREACHABLE", "PRIMARY_UNREACHABLE", "FAILED"], "{run}");

    // Two of three replicas of partition 1 are away now, its leader among them, but most of the cluster runs.
    cluster.kill(1);
    let topology = cluster
        .wait_for("partition 1 to have no leader, and all others one", |topology| {
            leaders(topology).into_keys().collect::<Vec<u32>>() == [2, 3, 4, 5]
        })
        .await;
    let run = api.run_to_the_end(&json!({})).await;
    assert_eq!((told(&run, 1)[0], told(&run, 1)[2]), ("NO_LEADER", "FAILED"), "{run}");
    assert_eq!(partitions_where(&run, |p| p["currentLeader"].is_null()), [1], "{run}");
    assert_eq!(told(&run, 2)[..2], ["UNREACHABLE", "PRIMARY_UNREACHABLE"], "{run}");
    assert_eq!(leaders(&cluster.topology().await), leaders(&topology));

    cluster.restart(0);
    cluster.restart(1);
    cluster.wait_until_caught_up(0).await;
    cluster.wait_until_caught_up(1).await;
    wait_until("every primary to lead", async || {
        // Brokers may need a moment to catch up: asking again is what an operator does.
        let answer = api.post(&json!({})).await;
        let balance = api.balance().await;
        if balance["state"] == "BALANCED" { Ok(()) } else { Err(format!("{}: {balance}", answer.status)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_most_of_its_brokers_a_cluster_answers_that_it_cannot_tell_and_starts_nothing() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3)).await;
    cluster.kill(1);
    cluster.kill(2);
    cluster
        .wait_for("brokers 1 and 2 to be away", |topology| {
            topology.brokers.iter().filter(|broker| broker.reachable).count() == 1
        })
        .await;
    let url = cluster.api("/cluster/v2/rebalance");
    wait_until("broker 0 to know that it is alone", async || {
        let answer = http(Method::GET, &url).await?;
        if answer.status.is_success() { Err(answer.text()) } else { Ok(()) }
    })
    .await;
    let ways = [(Method::POST, ""), (Method::POST, "?dryRun=true"), (Method::GET, ""), (Method::DELETE, "")];
    let asked = ways.map(async |(method, path)| {
        let answer = http(method.clone(), &format!("{url}{path}")).await.unwrap();
        let unavailable = [503, 504].contains(&answer.status.as_u16());
        assert!(unavailable, "{method} {path}: {} {}", answer.status, answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    });
    let (_, actuator) = tokio::join!(futures::future::join_all(asked), cluster.rebalance());
    assert_eq!(actuator.header("rebalance-status"), Some("refused"));

    cluster.restart(1);
    cluster.restart(2);
    cluster
        .wait_for("every partition to be led again", |topology| {
            leaders(topology).len() == 3 && topology.brokers.iter().all(|broker| broker.reachable)
        })
        .await;
    assert!(cluster.rebalance_api(0).history().await.is_empty(), "nothing was started");
}

/// The leader of the partition under way dies, and with it the request that it was about to carry out.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_leader_dies_while_it_is_asked_gets_where_it_belongs_all_the_same() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(1)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let dying = leaders(&cluster.topology().await)[&held.first];

    cluster.kill(usize::try_from(dying).unwrap());
    HeldRun::let_go(&mut cluster);
    let run = cluster.rebalance_api(0).finished(held.id).await;
    assert_eq!(run["result"], "COMPLETED", "{run}");
    assert_eq!(partitions_where(&run, |p| p["currentLeader"] == "2"), HELD, "{run}");
    let led = leaders(&cluster.topology().await);
    assert!(HELD.iter().all(|partition| led.get(partition) == Some(&2)), "{led:?}: {run}");
    cluster.client().put("k", "v", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_somebody_else_is_transferring_is_told_as_such() {
    // A target that is stopped holds a transfer up as long as its connection stays open.
    let spec = Spec::new(3, 3).broker("transfer.probe_timeout", "30s");
    let mut cluster = Cluster::start_balanced(spec).await;
    cluster.give(1, 1).await;
    let api = cluster.rebalance_api(0);
    wait_until("a transfer to be held up for long enough", async || {
        cluster.give(1, 1).await;
        let planned = api.dry_run(&json!({})).await;
        if pending(&planned) != [1] {
            return Err(planned.to_string());
        }
        let ask = |to: u64| StepDownRequest { partition_id: 1, candidates: vec![to], ..Default::default() };
        let mut broker = cluster.broker_service(1);
        cluster.pause(0);
        let elsewhere = tokio::spawn({
            let (mut broker, ask) = (broker.clone(), ask(0));
            async move { broker.step_down(ask).await }
        });
        wait_until("it to be under way", async || {
            // To nobody: only whether it could begin is of interest.
            let answer = broker.step_down(ask(99)).await.map_err(|status| status.to_string())?.into_inner();
            let in_progress = answer.result() == StepDown::TransferInProgress;
            if in_progress || elsewhere.is_finished() { Ok(()) } else { Err(answer.detail) }
        })
        .await;
        let run = api.run_to_the_end(&json!({"maxTransferAttempts": 1})).await;
        let held_up = !elsewhere.is_finished();
        cluster.resume(0);
        let ended = elsewhere.await.unwrap();
        if !held_up {
            return Err(format!("{ended:?}"));
        }
        assert_eq!((told(&run, 1)[0], told(&run, 1)[2]), ("TRANSFER_IN_PROGRESS", "FAILED"), "{run}");
        Ok(())
    })
    .await;
    cluster.wait_until_balanced().await;
}
