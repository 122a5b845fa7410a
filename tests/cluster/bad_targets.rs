//! A leader is asked to hand over to brokers that cannot lead. It leads on, and its clients notice nothing.

use evenkeel_protocol::internal::v1::step_down_response::Result as Code;
use evenkeel_protocol::internal::v1::{StepDownRequest, StepDownResponse};
use evenkeel_protocol::v1::Partition;

use crate::harness::{Cluster, Load, PARTITIONS, Spec, wait_until};

/// Five replicas of one partition, led by broker 0: two may be bad, and the others still are a majority.
async fn cluster_of_five() -> Cluster {
    let mut spec = Spec::new(5, 1);
    spec.replication_factor = 5;
    let cluster = Cluster::start(spec).await;
    cluster.wait_until_balanced().await;
    cluster
}

/// Asks broker 0 itself, past any gateway.
async fn step_down(cluster: &Cluster, candidates: &[u64]) -> StepDownResponse {
    let request = StepDownRequest { partition_id: 1, candidates: candidates.to_vec(), ..Default::default() };
    cluster.broker_service(0).step_down(request).await.unwrap().into_inner()
}

/// Who leads, in which term.
async fn led(cluster: &Cluster) -> (Option<u64>, u64) {
    let Partition { leader, term, .. } = cluster.topology().await.partitions[0];
    (leader, term)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_paused_and_wrong_targets_close_no_gate_and_the_next_best_leads() {
    let mut cluster = cluster_of_five().await;
    let before = led(&cluster).await;
    let load = Load::with_retries(&cluster.client(), 3);
    load.progress(50).await;
    cluster.kill(2);
    cluster.pause(1);
    for (candidates, expected) in [
        (&[1][..], Code::Unreachable),
        (&[2], Code::Unreachable),
        (&[1, 2], Code::Unreachable),
        (&[9], Code::NotMember),
    ] {
        let answer = step_down(&cluster, candidates).await;
        assert_eq!(answer.result(), expected, "{candidates:?}: {answer:?}");
        assert_eq!(answer.frozen_us, 0, "writes never waited for {candidates:?}: {answer:?}");
        assert_eq!((answer.from, answer.term), (Some(0), before.1), "{answer:?}");
        load.progress(20).await;
    }
    assert_eq!(led(&cluster).await, before, "the old leader leads on, in the same term");

    // With a good one behind the bad ones, leadership moves; a busy machine may need to be asked again.
    wait_until("broker 3 to lead", async || {
        let answer = step_down(&cluster, &[1, 2, 3]).await;
        match answer.result() {
            Code::Transferred => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    let view =
        cluster.wait_for("broker 3 to be seen leading", |view| view.partitions[0].leader == Some(3)).await;
    assert!(view.partitions[0].term > before.1);
    load.progress(50).await;
    cluster.resume(1);
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&cluster.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_nobody_answers_are_not_waited_for_beyond_the_freeze() {
    let mut cluster = cluster_of_five().await;
    let client = cluster.client();
    client.put("k", "before", None).await.unwrap();
    let (_, term) = led(&cluster).await;
    // The target is well; but no majority is, so what is proposed now stays unanswered.
    for node in [2, 3, 4] {
        cluster.pause(node);
    }
    let stuck = tokio::spawn(async move { client.put("k", "stuck", None).await });
    wait_until("a write that is proposed and not committed", async || {
        match cluster.scrape_broker(0).await?.sum("atomix_non_committed_entries", &PARTITIONS) {
            0.0 => Err("nothing".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let answer = step_down(&cluster, &[1]).await;
    assert_eq!(answer.result(), Code::PauseFailed, "{answer:?}");
    assert_eq!((answer.from, answer.term), (Some(0), term));
    let phases = answer.phases.unwrap();
    assert_eq!(phases.election_us, 0, "the target was not asked to stand");
    assert_eq!(phases.freeze_us, answer.frozen_us, "what was waited for was the gate");
    assert!(answer.frozen_us > 0);

    for node in [2, 3, 4] {
        cluster.resume(node);
    }
    stuck.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_step_downs_at_once_the_second_is_told_of_the_first() {
    // A paused target keeps the first busy for long enough.
    let spec = Spec::new(3, 1).broker("transfer.probe_timeout", "5s");
    let mut cluster = Cluster::start(spec).await;
    cluster.wait_until_balanced().await;
    let before = led(&cluster).await;
    wait_until("two step-downs at once", async || {
        cluster.pause(1);
        let answers = tokio::join!(step_down(&cluster, &[1]), step_down(&cluster, &[1]));
        cluster.resume(1);
        cluster.wait_until_caught_up(1).await;
        let mut results = [answers.0.result(), answers.1.result()];
        results.sort();
        match results {
            [Code::Unreachable, Code::TransferInProgress] => Ok(()),
            // Its pause was noticed before they were asked.
            [Code::Unreachable, Code::Unreachable] => Err(format!("{answers:?}")),
            _ => panic!("{answers:?}"),
        }
    })
    .await;
    assert_eq!(led(&cluster).await, before);
}
