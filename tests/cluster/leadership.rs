//! Leadership moves: the old owner ends what it did as leader, the new one begins, and watchers are told at once.

use evenkeel_protocol::internal::v1::step_down_response::Result as Code;
use evenkeel_protocol::internal::v1::{
    BrokerWatchRequest, BrokerWatchResponse, NotLeader, StepDownRequest, broker_watch_response,
};
use evenkeel_protocol::v1::topology_event::Event;
use evenkeel_protocol::v1::{Epoch, LeaderChanged};
use tonic::Streaming;

use crate::harness::{Cluster, PARTITIONS, PATIENCE, Spec, wait_until};

/// A watch of partition 1 at this broker itself, past any gateway, that is open.
async fn watch_at(cluster: &Cluster, node: usize) -> Streaming<BrokerWatchResponse> {
    let request = BrokerWatchRequest { partition_id: 1, ..Default::default() };
    let mut changes = cluster.broker_service(node).watch(request).await.unwrap().into_inner();
    let first = tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first.result, Some(broker_watch_response::Result::Changes(_))), "{first:?}");
    changes
}

/// The last word of a watch whose broker leads no longer; nothing is written meanwhile.
async fn end_of(mut changes: Streaming<BrokerWatchResponse>) -> NotLeader {
    loop {
        let message = tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap();
        match message.unwrap().result.unwrap() {
            // A watch that has nothing to tell tells its position now and then.
            broker_watch_response::Result::Changes(changes) => assert!(changes.events.is_empty()),
            broker_watch_response::Result::NotLeader(not_leader) => {
                let after = tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap();
                assert_eq!(after, None, "it was the last word");
                return not_leader;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_change_of_leader_unloads_the_old_owner_and_tells_watchers_the_new_epoch() {
    let cluster = Cluster::start(Spec::new(3, 1)).await;
    let before = cluster.wait_until_balanced().await.partitions[0];
    assert_eq!(before.leader, Some(0));
    let mut topology = cluster.client().watch_topology().await.unwrap();
    let first = tokio::time::timeout(PATIENCE, topology.next()).await.unwrap().unwrap();
    assert!(matches!(&first, Event::Snapshot(view) if view.partitions == [before]), "{first:?}");
    let watch = watch_at(&cluster, 0).await;

    let answer = wait_until("broker 1 to take over", async || {
        let request = StepDownRequest { partition_id: 1, candidates: vec![1], ..Default::default() };
        let answer = cluster.broker_service(0).step_down(request).await.unwrap().into_inner();
        if answer.result() == Code::Transferred { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let phases = answer.phases.unwrap();
    assert!(phases.probe_us > 0 && phases.election_us > 0, "{answer:?}");
    let gap = phases.freeze_us..=phases.freeze_us + phases.election_us + 1;
    assert!(gap.contains(&answer.frozen_us), "the gap lies within freeze and election: {answer:?}");
    println!("phases of a transfer without load: {phases:?}, gap {} µs", answer.frozen_us);

    end_of(watch).await;
    let changed = loop {
        match tokio::time::timeout(PATIENCE, topology.next()).await.unwrap().unwrap() {
            Event::LeaderChanged(changed @ LeaderChanged { leader: Some(1), .. }) => break changed,
            Event::LeaderChanged(LeaderChanged { leader: None, .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    let epoch = changed.epoch.unwrap();
    assert!(epoch.term > before.term && epoch.node_id == 1, "{changed:?}");
    watch_at(&cluster, 1).await;

    let Epoch { term, node_id } = before.epoch.unwrap();
    let log = cluster.brokers[0].log();
    let unloaded = log.lines().filter(|line| line.contains("unloaded"));
    let unloaded: Vec<_> =
        unloaded.filter(|line| line.contains(&format!("epoch={term}/{node_id}"))).collect();
    assert_eq!(unloaded.len(), 1, "once, for the epoch that ended: {unloaded:?}");
    let loaded = format!("epoch={}/{}", epoch.term, epoch.node_id);
    let log = cluster.brokers[1].log();
    assert!(log.lines().any(|line| line.contains(" loaded") && line.contains(&loaded)), "{log}");
    wait_until("metrics of both owners", async || {
        let (old, new) = (cluster.scrape_broker(0).await?, cluster.scrape_broker(1).await?);
        let unloaded = old.sum("evenkeel_leaderships_unloaded_total", &PARTITIONS);
        let loaded = new.sum("evenkeel_leaderships_loaded_total", &PARTITIONS);
        let phases = ["probe", "freeze", "election"]
            .map(|phase| old.sum("evenkeel_transfer_phase_seconds_count", &[("phase", phase)]));
        let gaps = old.sum("evenkeel_transfer_frozen_seconds_count", &[]);
        let shown =
            unloaded >= 1.0 && loaded >= 1.0 && gaps >= 1.0 && phases.iter().all(|count| *count >= 1.0);
        if shown { Ok(()) } else { Err(format!("{unloaded} {loaded} {gaps} {phases:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_replaced_while_it_slept_ends_its_watches_when_it_wakes() {
    let mut cluster = Cluster::start(Spec::new(3, 1)).await;
    let before = cluster.wait_until_balanced().await.partitions[0];
    assert_eq!(before.leader, Some(0));
    let watch = watch_at(&cluster, 0).await;
    cluster.pause(0);
    let after = cluster.wait_until_abandoned(0).await.partitions[0];
    assert!(after.epoch.unwrap().term > before.term);
    cluster.resume(0);
    let told = end_of(watch).await;
    assert!(told.term > before.term, "{told:?}");
    assert_ne!(told.leader, Some(0));
}
