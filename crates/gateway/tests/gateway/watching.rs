//! Watches: complete, in order, without duplicates, across leader changes.

use bytes::Bytes;
use evenkeel_protocol::v1::records_client::RecordsClient;
use evenkeel_protocol::v1::{PartitionPosition, PutRequest, WatchRequest, WatchResponse};
use tonic::{Code, Streaming};

use crate::harness::{Harness, PATIENCE, error_info, put};

async fn next(changes: &mut Streaming<WatchResponse>) -> WatchResponse {
    tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap().unwrap()
}

/// The next `count` changes as (partition, key, position).
async fn take(changes: &mut Streaming<WatchResponse>, count: usize) -> Vec<(u32, Bytes, u64)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let message = next(changes).await;
        for event in message.events {
            let record = event.record.unwrap();
            assert!(record.position <= message.position);
            taken.push((message.partition_id, record.key, record.position));
        }
    }
    taken
}

#[tokio::test]
async fn a_watch_goes_on_at_the_next_leader_without_gap_or_duplicate() {
    let harness = Harness::start(1).await;
    let mut records = harness.records();
    let mut changes = records.watch(WatchRequest::default()).await.unwrap().into_inner();
    let begin = next(&mut changes).await;
    assert!(begin.events.is_empty(), "the first message tells where the watch begins");

    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for round in 0..6u64 {
        for i in 0..5 {
            let key = Bytes::from(format!("key-{round}-{i}"));
            let written = records.put(put(&key, "v")).await.unwrap().into_inner();
            expected.push((1, key, written.position));
        }
        // Every other time before the changes were read.
        if round % 2 == 0 {
            seen.extend(take(&mut changes, 5).await);
        }
        let old = harness.cluster.leader(1).unwrap();
        harness.cluster.set_leader(1, Some((round + 1) % 3));
        harness.cluster.break_streams(old);
        if round % 2 == 1 {
            seen.extend(take(&mut changes, 5).await);
        }
    }
    assert_eq!(seen, expected);
    harness.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_from_a_position_filters_by_prefix_and_covers_all_partitions() {
    let harness = Harness::start(2).await;
    let mut records = harness.records();
    let (one, two) = (harness.key(1, 2), harness.key(2, 2));
    let first = records.put(put(&one, "1")).await.unwrap().into_inner();
    let second = records.put(put(&one, "2")).await.unwrap().into_inner();
    records.put(put(&two, "3")).await.unwrap();
    records.put(put(&Bytes::from_static(b"other"), "4")).await.unwrap();

    let request = WatchRequest {
        prefix: Bytes::from_static(b"key-"),
        partition_ids: Vec::new(),
        after: vec![
            PartitionPosition { partition_id: 1, position: first.position },
            PartitionPosition { partition_id: 2, position: 0 },
        ],
    };
    let mut changes = records.watch(request).await.unwrap().into_inner();
    let mut seen = take(&mut changes, 2).await;
    seen.sort();
    assert_eq!((seen[0].clone(), seen[1].0, seen[1].1.clone()), ((1, one, second.position), 2, two));
    harness.stop().await;
}

#[tokio::test]
async fn a_watch_from_before_what_is_kept_names_the_first_available_position() {
    let harness = Harness::start(1).await;
    let mut records = harness.records();
    for i in 0..5 {
        records.put(put(&Bytes::from(format!("key-{i}")), "v")).await.unwrap();
    }
    harness.cluster.compact(1, harness.cluster.position(1) - 2);
    let after = vec![PartitionPosition { partition_id: 1, position: 1 }];
    let mut changes =
        records.watch(WatchRequest { after, ..WatchRequest::default() }).await.unwrap().into_inner();
    let status = tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(error_info(&status).metadata["first_available_position"], "4");
    harness.stop().await;
}

#[tokio::test]
async fn watches_are_bounded_and_their_room_is_given_back() {
    let harness = Harness::with_options(1, |o| o.limits.watchers_max = 1).await;
    let mut records = harness.records();
    let mut changes = records.watch(WatchRequest::default()).await.unwrap().into_inner();
    next(&mut changes).await;
    let status = records.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "TOO_MANY_WATCHERS");
    drop(changes);
    let room = async {
        while records.watch(WatchRequest::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, room).await.unwrap();
    let unknown = WatchRequest { partition_ids: vec![9], ..WatchRequest::default() };
    assert!(records.watch(unknown).await.is_err());
    harness.stop().await;
}

#[tokio::test]
async fn a_stopping_gateway_ends_watches_so_that_clients_resume_elsewhere() {
    let harness = Harness::start(1).await;
    let mut changes = harness.records().watch(WatchRequest::default()).await.unwrap().into_inner();
    next(&mut changes).await;
    let stopping = tokio::spawn(harness.stop());
    let status = tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap_err();
    assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::Unavailable, "STOPPING"));
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn watchers_that_do_not_read_hold_nobody_back() {
    const WATCHERS: usize = 8;
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    let mut idle = Vec::new();
    for _ in 0..WATCHERS {
        let mut records = RecordsClient::new(harness.new_channel());
        let mut changes = records.watch(WatchRequest::default()).await.unwrap().into_inner();
        next(&mut changes).await;
        idle.push(changes);
    }
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    let mut records = harness.records();
    for version in 1..=24 {
        let request = PutRequest { value: value.clone(), ..put(&key, "") };
        assert_eq!(records.put(request).await.unwrap().into_inner().version, version);
    }
    drop(idle);
    harness.stop().await;
}
