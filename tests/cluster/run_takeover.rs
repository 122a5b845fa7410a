//! A run outlives the gateway that carries it out, and is never carried out twice.

use std::collections::BTreeMap;

use evenkeel_protocol::v1::TopologyResponse;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, HELD, HeldRun, RebalanceApi, partitions_where, run_of, terms, transferring, wait_until,
};

/// Every partition of the run was moved, each by one change of leadership and no more.
fn assert_moved_once(run: &Value, before: &TopologyResponse, after: &TopologyResponse) {
    assert_eq!(run["result"], "COMPLETED", "{run}");
    assert_eq!(partitions_where(run, |p| p["result"] == "TRANSFERRED" && p["to"] == "2"), HELD, "{run}");
    let (before, after) = (terms(before), terms(after));
    let grown: BTreeMap<u32, u64> =
        after.iter().map(|(partition, (_, term))| (*partition, term - before[partition].1)).collect();
    let expected = (1..=9).map(|partition| (partition, u64::from(HELD.contains(&partition)))).collect();
    assert_eq!(grown, expected, "terms grew by: {run}");
}

/// Waits until the run's partition under way has been begun by another gateway than before, which its log tells.
async fn carried_on(cluster: &Cluster, gateway: usize) {
    wait_until("another gateway to carry the run on", async || {
        let log = cluster.gateways[gateway].log();
        if log.contains("carrying it on") { Ok(()) } else { Err("its log does not say so".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_gateway_carries_on_the_run_of_one_that_was_killed() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(2)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let before = cluster.topology().await;
    let api = cluster.rebalance_api(1);

    cluster.gateways[0].kill();
    carried_on(&cluster, 1).await;
    let run = api.run(held.id).await;
    assert_eq!((transferring(&run), &run["result"]), (vec![held.first], &Value::Null), "{run}");
    assert_eq!(api.balance().await["runningRebalance"]["rebalanceId"], held.id);

    HeldRun::let_go(&mut cluster);
    let run = api.finished(held.id).await;
    cluster.gateways[0].restart();
    assert_moved_once(&run, &before, &cluster.wait_until_balanced().await);
    assert_eq!(api.history().await.len(), 1, "it is still the same run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_gateway_carries_its_run_on_when_it_is_started_again() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(1)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let before = cluster.topology().await;

    cluster.gateways[0].kill();
    HeldRun::let_go(&mut cluster);
    cluster.gateways[0].restart();
    let api = cluster.rebalance_api(0);
    let run = api.finished(held.id).await;
    assert_moved_once(&run, &before, &cluster.wait_until_balanced().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_asked_to_stop_ends_its_transfer_and_leaves_the_rest_to_another() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(2)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let before = cluster.topology().await;

    cluster.gateways[0].signal(Signal::TERM);
    wait_until("gateway 0 to know that it stops", async || {
        let log = cluster.gateways[0].log();
        if log.contains("stopping") { Ok(()) } else { Err("its log does not say so".to_owned()) }
    })
    .await;
    HeldRun::let_go(&mut cluster);
    assert!(cluster.gateways[0].ended().await.success());
    let log = cluster.gateways[0].log();
    assert!(log.contains("another one carries the rebalance on"), "{log}");
    assert!(log.contains(&format!("partition {} moved from", held.first)), "{log}");

    let run = cluster.rebalance_api(1).finished(held.id).await;
    cluster.gateways[0].restart();
    assert_moved_once(&run, &before, &cluster.wait_until_balanced().await);
}

/// It does not know that it was replaced, and has a transfer half done.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_taken_for_dead_moves_nothing_when_it_wakes_up() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(2)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let before = cluster.topology().await;

    cluster.gateways[0].signal(Signal::STOP);
    carried_on(&cluster, 1).await;
    HeldRun::let_go(&mut cluster);
    cluster.gateways[0].signal(Signal::CONT);
    let run = cluster.rebalance_api(1).finished(held.id).await;
    wait_until("gateway 0 to see that it was replaced", async || {
        let log = cluster.gateways[0].log();
        let knows = log.contains("another gateway carries this rebalance on");
        if knows { Ok(()) } else { Err("its log does not say so".to_owned()) }
    })
    .await;
    assert_moved_once(&run, &before, &cluster.wait_until_balanced().await);
    assert_eq!(cluster.rebalance_api(0).run(held.id).await, run, "both show the same");
}

/// Killed between two requests to leaders, in one, or after one that nobody heard the answer of: wherever it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_gateways_are_killed_wherever_they_are_moves_each_partition_once() {
    const PARTITIONS: u32 = 24;
    let mut spec = HeldRun::spec(2);
    spec.partitions = PARTITIONS;
    let mut cluster = Cluster::start_balanced(spec).await;
    let displaced: Vec<u32> = (1..=PARTITIONS).filter(|partition| partition % 3 == 0).collect();
    for partition in &displaced {
        cluster.give(*partition, u64::from(partition % 2)).await;
    }
    let api = cluster.rebalance_api(1);
    wait_until("all of them to be planned", async || {
        let planned = api.dry_run(&json!({})).await;
        let moves = partitions_where(&planned, |p| p["progress"] == "PENDING");
        if moves == displaced { Ok(()) } else { Err(planned.to_string()) }
    })
    .await;
    let before = cluster.topology().await;

    let id = cluster.rebalance_api(0).start(&json!({})).await;
    let transferred = |run: &Value| partitions_where(run, |p| p["result"] == "TRANSFERRED").len();
    api.wait_for(id, "some transfers to be done", |run| transferred(run) >= 2).await;
    cluster.gateways[0].kill();
    cluster.gateways[0].restart();
    api.wait_for(id, "more transfers to be done", |run| transferred(run) >= 5).await;
    cluster.gateways[1].kill();
    let run = cluster.rebalance_api(0).finished(id).await;
    cluster.gateways[1].restart();
    let after = cluster.wait_until_balanced().await;

    assert_eq!((&run["result"], transferred(&run)), (&json!("COMPLETED"), displaced.len()), "{run}");
    let (before, after) = (terms(&before), terms(&after));
    for (partition, (_, term)) in after {
        let expected = before[&partition].1 + u64::from(displaced.contains(&partition));
        assert_eq!(term, expected, "partition {partition}: {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_gateways_asked_at_once_one_starts_a_run_and_the_other_names_it() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(2)).await;
    HeldRun::prepare(&mut cluster).await;
    let apis = [cluster.rebalance_api(0), cluster.rebalance_api(1)];
    let request = HeldRun::request();
    let ask = |api: &RebalanceApi| {
        let (api, request) = (api.clone(), request.clone());
        async move { api.post(&request).await }
    };
    let answers = futures::future::join_all(apis.iter().map(ask)).await;

    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    let told: Vec<String> = answers.iter().map(super::harness::Answer::text).collect();
    assert_eq!(statuses, [202, 409], "{told:?}");
    let ids: Vec<Option<u64>> = answers.iter().map(run_of).collect();
    assert_eq!(ids[0], ids[1], "both name the one run");
    let refusal = answers.iter().find(|answer| answer.status == 409).unwrap().json();
    assert_eq!(
        (refusal["rebalanceId"].as_u64(), &refusal["reason"]),
        (ids[0], &json!("ACTIVE")),
        "{refusal}"
    );
    HeldRun::let_go(&mut cluster);
    for api in &apis {
        assert_eq!(api.finished(ids[0].unwrap()).await["result"], "COMPLETED");
        assert_eq!(api.history().await.len(), 1, "there was one run");
    }
}
