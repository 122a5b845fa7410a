//! Watching the topology: a snapshot, then every change of a leader or a broker, for as long as one listens.

use evenkeel_protocol::v1::cluster_client::ClusterClient;
use evenkeel_protocol::v1::topology_event::Event;
use evenkeel_protocol::v1::{Epoch, LeaderChanged, TopologyEvent, TopologyResponse, WatchTopologyRequest};
use tonic::{Code, Streaming};

use crate::harness::{Harness, PATIENCE, error_info};

async fn watch(harness: &Harness) -> Streaming<TopologyEvent> {
    let mut cluster = ClusterClient::new(harness.new_channel());
    cluster.watch_topology(WatchTopologyRequest {}).await.unwrap().into_inner()
}

async fn next(events: &mut Streaming<TopologyEvent>) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap().unwrap();
    event.event.unwrap()
}

async fn next_leader(events: &mut Streaming<TopologyEvent>) -> LeaderChanged {
    match next(events).await {
        Event::LeaderChanged(changed) => changed,
        other => panic!("no leader changed: {other:?}"),
    }
}

async fn first_snapshot(events: &mut Streaming<TopologyEvent>) -> TopologyResponse {
    match next(events).await {
        Event::Snapshot(snapshot) => snapshot,
        other => panic!("the first event is a snapshot: {other:?}"),
    }
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_tells_every_new_leader_with_its_fencing_token() {
    let harness = Harness::start(3).await;
    let mut events = watch(&harness).await;
    let snapshot = first_snapshot(&mut events).await;
    assert_eq!(snapshot.partitions, harness.topology().await.partitions);
    assert_eq!(snapshot.partitions[1].epoch, Some(Epoch { term: 1, node_id: 1 }));

    for (leader, term) in [0, 2, 1, 0].into_iter().zip(2..) {
        harness.cluster.set_leader(2, Some(leader));
        let epoch = Some(Epoch { term, node_id: leader });
        let changed = loop {
            // The old leader may give up its claim before the new one makes its own.
            let changed = next_leader(&mut events).await;
            assert_eq!(changed.partition_id, 2);
            if changed.leader.is_some() {
                break changed;
            }
        };
        assert_eq!(changed, LeaderChanged { partition_id: 2, leader: Some(leader), epoch });
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_broker_that_dies_and_the_leaders_lost_with_it_are_told() {
    let harness = Harness::start(2).await;
    let mut events = watch(&harness).await;
    first_snapshot(&mut events).await;
    harness.cluster.kill(1);
    let (mut gone, mut leaderless) = (false, false);
    while !(gone && leaderless) {
        match next(&mut events).await {
            Event::BrokerChanged(changed) if changed.node_id == 1 => gone = !changed.reachable,
            Event::LeaderChanged(changed) if changed.partition_id == 2 => {
                assert_eq!((changed.leader, changed.epoch), (None, Some(Epoch { term: 1, node_id: 1 })));
                leaderless = true;
            }
            other => panic!("nothing else changed: {other:?}"),
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn watchers_of_the_topology_are_bounded_and_their_room_is_given_back() {
    let harness = Harness::with_options(1, |o| o.limits.watchers_max = 1).await;
    let mut events = watch(&harness).await;
    first_snapshot(&mut events).await;
    let mut cluster = ClusterClient::new(harness.channel.clone());
    let status = cluster.watch_topology(WatchTopologyRequest {}).await.unwrap_err();
    assert_eq!((status.code(), &*error_info(&status).reason), (Code::ResourceExhausted, "TOO_MANY_WATCHERS"));
    drop(events);
    let room = async {
        while cluster.watch_topology(WatchTopologyRequest {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, room).await.unwrap();
    harness.stop().await;
}

#[tokio::test]
async fn a_stopping_gateway_ends_topology_watches_so_that_clients_go_elsewhere() {
    let harness = Harness::start(1).await;
    let mut events = watch(&harness).await;
    first_snapshot(&mut events).await;
    let stopping = tokio::spawn(harness.stop());
    let status = tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), &*error_info(&status).reason), (Code::Unavailable, "STOPPING"));
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
}
