//! What a run says of partitions whose transfer went wrong half-way: leaders that hang or change, targets that do not
//! catch up, do not win or have not answered yet, writes that nobody answers.
//!
//! Brokers are stopped and continued at certain moments. A connection to a stopped process is given up after a second or
//! two; where that came first, a story begins anew.

use evenkeel_protocol::internal::v1::raft_client::RaftClient;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::internal::v1::{
    LogId, RaftVote, StepDownRequest, TransferLeaderRequest, WatchStatusRequest,
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{
    Cluster, PARTITIONS, PATIENT_LEASE, Spec, leaders, partition_of, pending, run_of, terms, transferring,
    wait_until,
};

/// Result of partition 1 and of the run.
fn told(run: &Value) -> [&str; 2] {
    [&partition_of(run, 1)["result"], &run["result"]].map(|value| value.as_str().unwrap())
}

/// Waits until a run would move partition 1.
async fn until_movable(cluster: &Cluster) {
    let api = cluster.rebalance_api(0);
    wait_until("partition 1 to be planned", async || {
        let planned = api.dry_run(&json!({})).await;
        if pending(&planned) == [1] { Ok(()) } else { Err(planned.to_string()) }
    })
    .await;
}

/// One partition whose primary is broker 2, and then come 1 and 0. Broker 0, which leads the system group, is never stopped.
fn spec() -> Spec {
    Spec::new(3, 1).fixed(&[&["2=3", "1=2", "0=1"]]).broker("raft.lease", PATIENT_LEASE)
}

/// One partition with a replica on each of four brokers, so that a majority is three; broker 1 is its primary. The
/// system group is on brokers 0 to 2.
async fn four_replicas_led_by_broker_0() -> Cluster {
    let layout: [&[&str]; 1] = [&["1=4", "0=3", "2=2", "3=1"]];
    let spec = Spec::new(4, 1).fixed(&layout).broker("raft.lease", PATIENT_LEASE);
    let cluster = Cluster::start_balanced(spec).await;
    cluster.give(1, 0).await;
    until_movable(&cluster).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_nobody_answers_fail_the_pause_and_a_target_without_majority_does_not_win() {
    let mut cluster = four_replicas_led_by_broker_0().await;
    let api = cluster.rebalance_api(0);
    let client = cluster.client();
    let attempt = json!({"maxTransferAttempts": 1, "leaderWaitTimeout": "PT0.2S"});
    let before = terms(&cluster.topology().await);

    // Leader and target are well, but no majority is: what is proposed now stays unanswered.
    cluster.pause(2);
    cluster.pause(3);
    let stuck = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "stuck", None).await }
    });
    wait_until("a write that is proposed and not committed", async || {
        match cluster.scrape_broker(0).await?.sum("atomix_non_committed_entries", &PARTITIONS) {
            0.0 => Err("nothing".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let run = api.run_to_the_end(&attempt).await;
    assert_eq!(told(&run), ["PAUSE_FAILED", "FAILED"], "{run}");
    let partition = partition_of(&run, 1);
    assert!(partition["gapMs"].as_f64().is_some_and(|gap| 0.0 < gap && gap < 1_000.0), "{run}");
    assert_eq!(
        (&partition["currentLeader"], &partition["phases"]["electionMs"]),
        (&json!("0"), &json!(0.0)),
        "{run}"
    );
    assert_eq!(terms(&cluster.topology().await), before, "who led before leads on");
    cluster.resume(2);
    cluster.resume(3);
    stuck.await.unwrap().unwrap();

    // Nothing is under way, so the gate closes; but two votes of four are no majority.
    cluster.wait_until_caught_up(2).await;
    cluster.wait_until_caught_up(3).await;
    cluster.pause(2);
    cluster.pause(3);
    let run = api.run_to_the_end(&attempt).await;
    assert_eq!(told(&run), ["TIMEOUT_NOW_EXHAUSTED", "FAILED"], "{run}");
    assert!(partition_of(&run, 1)["phases"]["electionMs"].as_f64().is_some_and(|ms| ms > 0.0), "{run}");
    cluster.resume(2);
    cluster.resume(3);
    client.put("k", "served again", None).await.unwrap();
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_has_not_answered_a_new_leader_does_not_replicate_yet() {
    let mut cluster = Cluster::start_balanced(spec()).await;
    let api = cluster.rebalance_api(0);
    wait_until("a run before the pause is noticed", async || {
        cluster.give(1, 1).await;
        until_movable(&cluster).await;
        cluster.pause(2);
        cluster.give(1, 0).await;
        let planned = api.dry_run(&json!({})).await;
        let run = api.run_to_the_end(&json!({"maxTransferAttempts": 1, "targets": {"1": 2}})).await;
        cluster.resume(2);
        cluster.wait_until_caught_up(2).await;
        match told(&run) {
            ["NOT_REPLICATING", "FAILED"] => {}
            ["UNREACHABLE", _] => return Err(run.to_string()),
            _ => panic!("{run}"),
        }
        let partition = partition_of(&run, 1);
        assert_eq!(
            (&partition["reason"], &partition["lagEntries"]),
            (&json!("NOT_REPLICATING"), &json!(null)),
            "{run}"
        );
        assert_eq!(partition["currentLeader"], "0", "{run}");
        // Broker 1 would be better than the leader, so without a name the partition goes there.
        assert_eq!(partition_of(&planned, 1)["to"], "1", "{planned}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_needs_longer_to_catch_up_than_it_may_is_left_to_catch_up() {
    const VALUES: usize = 300;
    let mut cluster = Cluster::start_balanced(spec()).await;
    let api = cluster.rebalance_api(0);
    let client = cluster.client();
    let hurried = json!({"replicationTimeout": "PT0.001S", "replicationLagThreshold": 1_u64 << 40,
                         "maxTransferAttempts": 1});
    wait_until("a run while broker 2 catches up", async || {
        cluster.give(1, 1).await;
        cluster.pause(2);
        let writes = (0..VALUES).map(|i| client.put(format!("k{i}"), "v".repeat(64 << 10), None));
        futures::future::try_join_all(writes).await.unwrap();
        cluster.resume(2);
        // Until it is connected again it cannot be reached.
        let run = wait_until("broker 2 to be asked", async || {
            let answer = api.post(&hurried).await;
            let Some(id) = run_of(&answer) else { return Err(answer.text()) };
            let run = api.finished(id).await;
            if told(&run)[0] == "UNREACHABLE" { Err(run.to_string()) } else { Ok(run) }
        })
        .await;
        cluster.wait_until_caught_up(2).await;
        match told(&run) {
            ["REPLICATION_TIMED_OUT", "FAILED"] => {}
            // It was faster.
            ["TRANSFERRED", _] => return Err(run.to_string()),
            _ => panic!("{run}"),
        }
        let partition = partition_of(&run, 1);
        assert_eq!((&partition["currentLeader"], &partition["gapMs"]), (&json!("1"), &json!(null)), "{run}");
        Ok(())
    })
    .await;
    let run = api.run_to_the_end(&json!({})).await;
    assert_eq!(told(&run), ["TRANSFERRED", "COMPLETED"], "{run}");
}

/// The last entry of a partition, as its leader knows it.
async fn last_entry(cluster: &Cluster, leader: usize) -> (u64, u64) {
    let request = WatchStatusRequest::default();
    let statuses = cluster.broker_service(leader).watch_status(request).await.unwrap().into_inner();
    // What was published last, and then what is so now.
    let status = statuses.skip(1).next().await.unwrap().unwrap();
    let replica = status.replicas.iter().find(|replica| replica.partition_id == 1).unwrap();
    assert_eq!(replica.leader, Some(leader as u64));
    (replica.term, replica.last_log_index)
}

/// Has broker `to` stand for election as if `leader` handed over to it.
async fn have_stand(cluster: &Cluster, to: u64, leader: u64, term: u64, last_index: u64) {
    let url = format!("http://127.0.0.1:{}", cluster.ports.brokers[usize::try_from(to).unwrap()].0);
    let mut broker = RaftClient::connect(url).await.unwrap();
    let request = TransferLeaderRequest {
        group: 1,
        from_leader: Some(RaftVote { term, node_id: leader, committed: true }),
        to_node_id: to,
        last_log_id: Some(LogId { term, node_id: leader, index: last_index }),
    };
    let answer = broker.transfer_leader(request).await.unwrap().into_inner();
    assert_eq!(answer.rejection, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_deposed_while_it_hands_over_is_told_as_changed() {
    let mut cluster = Cluster::start_balanced(spec().broker("transfer.probe_timeout", "30s")).await;
    let api = cluster.rebalance_api(0);
    wait_until("a transfer to be held up for long enough", async || {
        cluster.give(1, 1).await;
        until_movable(&cluster).await;
        // Broker 1 waits for its answer to the probe.
        cluster.pause(2);
        let id = api.start(&json!({"maxTransferAttempts": 1})).await;
        api.wait_for(id, "to be under way", |run| transferring(run) == [1]).await;
        let (term, last) = last_entry(&cluster, 1).await;
        have_stand(&cluster, 0, 1, term, last).await;
        let run = api.finished(id).await;
        cluster.resume(2);
        cluster.wait_until_caught_up(2).await;
        match told(&run) {
            ["LEADER_CHANGED", "FAILED"] => {}
            ["UNREACHABLE", _] => return Err(run.to_string()),
            _ => panic!("{run}"),
        }
        assert_eq!(leaders(&cluster.topology().await)[&1], 0, "{run}");
        assert_eq!(partition_of(&run, 1)["currentLeader"], "0", "{run}");
        Ok(())
    })
    .await;
    let run = api.run_to_the_end(&json!({})).await;
    assert_eq!(told(&run), ["TRANSFERRED", "COMPLETED"], "{run}");
}

/// Has the system group led by this broker.
async fn give_system_group(cluster: &Cluster, to: u64) {
    wait_until("the system group to be led where it shall be", async || {
        let mut told = Vec::new();
        for node in 0..cluster.brokers.len() {
            let ask = StepDownRequest { partition_id: 0, candidates: vec![to], ..Default::default() };
            let answer =
                cluster.broker_service(node).step_down(ask).await.map_err(|status| status.to_string())?;
            told.push(answer.into_inner().result());
        }
        if told.contains(&StepDown::AlreadyLeader) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_gives_no_response() {
    // Nobody takes over from it meanwhile.
    let mut cluster = Cluster::start_balanced(Spec::new(3, 1).broker("raft.lease", "1m")).await;
    let api = cluster.rebalance_api(0);
    give_system_group(&cluster, 0).await;
    cluster.give(1, 1).await;
    cluster
        .wait_for("broker 0 to be known as caught up", |view| {
            view.brokers[0].replicas.iter().all(|replica| replica.lag_entries == Some(0))
        })
        .await;

    cluster.pause(1);
    let id = api.start(&json!({"maxTransferAttempts": 1})).await;
    let run = api.finished(id).await;
    cluster.resume(1);
    assert_eq!(told(&run), ["NO_RESPONSE", "FAILED"], "{run}");
    let partition = partition_of(&run, 1);
    assert!(partition["detail"].as_str().unwrap().contains("was asked and did not answer"), "{run}");

    // What it was asked it does when it wakes up, if the request is still there; else when it is asked again.
    wait_until("the primary to lead", async || {
        let answer = api.post(&json!({})).await;
        let balance = api.balance().await;
        if balance["state"] == "BALANCED" { Ok(()) } else { Err(format!("{}: {balance}", answer.status)) }
    })
    .await;
}
