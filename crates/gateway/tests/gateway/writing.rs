//! Writes: routed, parked, replayed with the same request id, and refused within bounds.

use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, BatchRequest, DeleteRequest, Precondition, PutRequest, RequestId,
    batch_operation, precondition,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::fake_cluster::Manner;
use crate::harness::{Harness, PATIENCE, error_info, put};

fn put_operation(key: &Bytes, value: &'static str) -> BatchOperation {
    let put = BatchPut { key: key.clone(), value: Bytes::from_static(value.as_bytes()), precondition: None };
    BatchOperation { operation: Some(batch_operation::Operation::Put(put)) }
}

/// Distinct request ids among all writes that brokers received.
fn distinct_ids(harness: &Harness) -> Vec<(u64, u64)> {
    let mut ids: Vec<(u64, u64)> =
        harness.cluster.received().iter().map(|(_, id)| (id.client_id, id.sequence)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[tokio::test]
async fn writes_reach_their_partitions_leader_and_tell_version_and_position() {
    let harness = Harness::start(3).await;
    let mut records = harness.records();
    for partition in 1..=3 {
        let key = harness.key(partition, 3);
        let first = records.put(put(&key, "a")).await.unwrap().into_inner();
        let second = records.put(put(&key, "b")).await.unwrap().into_inner();
        assert_eq!((first.partition_id, first.version, second.version), (partition, 1, 2));
        assert!(second.position > first.position);
        let delete = DeleteRequest { key: key.clone(), ..DeleteRequest::default() };
        assert!(records.delete(delete.clone()).await.unwrap().into_inner().existed);
        assert!(!records.delete(delete).await.unwrap().into_inner().existed);
    }
    let received = harness.cluster.received();
    assert_eq!(received.len(), 12, "one hop each");
    let lanes: std::collections::BTreeSet<u64> = received.iter().map(|(_, id)| id.client_id).collect();
    assert_eq!(lanes.len(), 1, "a client that writes one after the other needs one lane");
    harness.stop().await;
}

#[tokio::test]
async fn a_write_parked_while_its_partition_has_no_leader_goes_to_the_next_one() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    let mut records = harness.records();
    let request = put(&key, "a");
    let waiting = tokio::spawn(async move { records.put(request).await });
    tokio::task::yield_now().await;
    harness.cluster.set_leader(1, Some(2));
    let written = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!(written.version, 1);
    assert_eq!(harness.cluster.received().last().unwrap().0, 2);
    harness.stop().await;
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_replayed_with_the_same_request_id_and_applied_once() {
    for manner in [Manner::ApplyAndBreak, Manner::ApplyAndDoubt, Manner::Silent] {
        let harness = Harness::start(1).await;
        let key = harness.key(1, 1);
        harness.cluster.set_manner(0, manner);
        let mut records = harness.records();
        let request = put(&key, "a");
        let waiting = tokio::spawn(async move { records.put(request).await });
        let received = async {
            while harness.cluster.received().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, received).await.unwrap();
        harness.cluster.set_leader(1, Some(1));
        let written = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().into_inner();
        assert_eq!(written.version, 1, "{manner:?}");
        assert_eq!(harness.cluster.version(1, &key), Some(1), "{manner:?}: applied once");
        assert_eq!(distinct_ids(&harness).len(), 1, "{manner:?}: one request id");
        assert_eq!(harness.cluster.received().last().unwrap().0, 1, "{manner:?}: answered by the new leader");
        harness.stop().await;
    }
}

#[tokio::test]
async fn a_hint_is_followed_before_the_topology_shows_it() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    harness.cluster.set_leader(1, Some(1));
    // Whether or not the topology has caught up, the write must arrive.
    let written = harness.records().put(put(&key, "a")).await.unwrap().into_inner();
    assert_eq!(written.version, 1);
    assert_eq!(harness.cluster.received().last().unwrap().0, 1);
    harness.stop().await;
}

#[tokio::test]
async fn brokers_that_point_at_each_other_cannot_make_a_request_spin() {
    let harness = Harness::with_options(1, |o| o.routing.park_timeout = Duration::from_millis(300)).await;
    let key = harness.key(1, 1);
    for node in 0..3 {
        harness.cluster.set_manner(node, Manner::PointAt((node + 1) % 3));
    }
    let status = harness.records().put(put(&key, "a")).await.unwrap_err();
    assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::Unavailable, "NO_LEADER"));
    assert!(status.get_details_retry_info().is_some());
    let attempts = harness.cluster.received().len();
    assert!((3..60).contains(&attempts), "{attempts} attempts in 300 ms");
    harness.stop().await;
}

#[tokio::test]
async fn at_the_deadline_a_write_that_may_have_been_applied_says_so_and_gives_its_id() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    harness.cluster.set_manner(0, Manner::Silent);
    let mut request = Request::new(put(&key, "a"));
    request.set_timeout(Duration::from_millis(400));
    let status = harness.records().put(request).await.unwrap_err();
    let info = error_info(&status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    let (_, id) = harness.cluster.received()[0];
    assert_eq!(info.metadata["client_id"], id.client_id.to_string());

    // The lane of an unknown outcome is never used again.
    harness.cluster.set_manner(0, Manner::Proper);
    harness.records().put(put(&key, "b")).await.unwrap();
    assert_ne!(harness.cluster.received().last().unwrap().1.client_id, id.client_id);
    harness.stop().await;
}

#[tokio::test]
async fn what_an_overloaded_leader_refuses_goes_back_to_its_client_at_once() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    harness.cluster.set_manner(0, Manner::Overloaded);
    let status = harness.records().put(put(&key, "a")).await.unwrap_err();
    assert_eq!(
        (status.code(), error_info(&status).reason.as_str()),
        (Code::ResourceExhausted, "BROKER_OVERLOADED")
    );
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(harness.cluster.received().len(), 1);
    harness.stop().await;
}

#[tokio::test]
async fn parked_bytes_are_bounded() {
    let harness = Harness::with_options(1, |o| o.routing.parked_bytes_max = 300).await;
    let key = harness.key(1, 1);
    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    let mut waiting = tokio::task::JoinSet::new();
    let big: &'static str =
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    for _ in 0..6 {
        let (mut records, request) = (harness.records(), put(&key, big));
        waiting.spawn(async move { records.put(request).await });
    }
    // Those beyond the bound are turned away at once, while the others wait on.
    for _ in 0..4 {
        let status = tokio::time::timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap().unwrap();
        let status = status.unwrap_err();
        assert_eq!(
            (status.code(), error_info(&status).reason.as_str()),
            (Code::ResourceExhausted, "PARKED_FULL")
        );
        assert!(status.get_details_retry_info().is_some());
    }
    harness.cluster.set_leader(1, Some(0));
    for _ in 0..2 {
        waiting.join_next().await.unwrap().unwrap().unwrap();
    }
    harness.stop().await;
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let harness = Harness::with_options(1, |o| o.routing.in_flight_max = 1).await;
    let key = harness.key(1, 1);
    harness.cluster.set_manner(0, Manner::Silent);
    let (mut records, request) = (harness.records(), put(&key, "a"));
    let waiting = tokio::spawn(async move { records.put(request).await });
    let received = async {
        while harness.cluster.received().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, received).await.unwrap();
    let status = harness.records().put(put(&key, "b")).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "TOO_MANY_IN_FLIGHT");
    waiting.abort();
    harness.stop().await;
}

#[tokio::test]
async fn preconditions_and_client_request_ids_pass_through() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    let mut records = harness.records();
    let id = RequestId { client_id: 7, sequence: 3 };
    let request = PutRequest { request_id: Some(id), ..put(&key, "a") };
    let first = records.put(request.clone()).await.unwrap().into_inner();
    let again = records.put(request).await.unwrap().into_inner();
    assert_eq!(first, again, "the same id applies once");
    assert!(harness.cluster.received().iter().all(|(_, received)| *received == id));

    let older = PutRequest { request_id: Some(RequestId { sequence: 2, ..id }), ..put(&key, "b") };
    let status = records.put(older).await.unwrap_err();
    assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::InvalidArgument, "SUPERSEDED"));

    let only_new = Precondition { condition: Some(precondition::Condition::MustNotExist(true)) };
    let status =
        records.put(PutRequest { precondition: Some(only_new), ..put(&key, "c") }).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(error_info(&status).metadata["current_version"], "1");
    harness.stop().await;
}

#[tokio::test]
async fn requests_beyond_a_limit_are_refused_before_anything_is_sent() {
    let harness = Harness::start(2).await;
    let mut records = harness.records();
    let (one, two) = (harness.key(1, 2), harness.key(2, 2));
    let mib = Bytes::from(vec![0; (1 << 20) + 1]);

    let too_large = records.put(PutRequest { value: mib.clone(), ..put(&one, "") }).await.unwrap_err();
    let info = error_info(&too_large);
    assert_eq!((too_large.code(), info.reason.as_str()), (Code::InvalidArgument, "VALUE_TOO_LARGE"));
    assert_eq!((info.metadata["limit"].as_str(), info.metadata["actual"].as_str()), ("1048576", "1048577"));
    assert!(too_large.get_details_bad_request().is_some());

    let long_key = records.put(put(&Bytes::from(vec![b'k'; 1025]), "")).await.unwrap_err();
    assert_eq!(error_info(&long_key).reason, "KEY_TOO_LARGE");
    let no_key = records.put(put(&Bytes::new(), "")).await.unwrap_err();
    assert_eq!(error_info(&no_key).reason, "EMPTY_KEY");

    let whole = |operations| BatchRequest { operations, request_id: None };
    let empty = records.batch(whole(Vec::new())).await.unwrap_err();
    assert_eq!((empty.code(), error_info(&empty).reason.as_str()), (Code::InvalidArgument, "EMPTY_BATCH"));
    let apart = vec![put_operation(&one, "1"), put_operation(&two, "2")];
    let apart = records.batch(whole(apart)).await.unwrap_err();
    assert_eq!(
        (apart.code(), error_info(&apart).reason.as_str()),
        (Code::InvalidArgument, "SEVERAL_PARTITIONS")
    );
    let value = Bytes::from(vec![0; 1 << 20]);
    let large = BatchPut { key: one.clone(), value, precondition: None };
    let large = BatchOperation { operation: Some(batch_operation::Operation::Put(large)) };
    let large = records.batch(whole(vec![large; 5])).await.unwrap_err();
    assert_eq!(error_info(&large).reason, "BATCH_TOO_LARGE");

    assert!(harness.cluster.received().is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn a_batch_is_one_write_with_a_result_for_each_operation() {
    let harness = Harness::start(2).await;
    let key = harness.key(2, 2);
    let delete = BatchDelete { key: key.clone(), precondition: None };
    let delete = BatchOperation { operation: Some(batch_operation::Operation::Delete(delete)) };
    let operations = vec![put_operation(&key, "1"), put_operation(&key, "2"), delete];
    let response =
        harness.records().batch(BatchRequest { operations, request_id: None }).await.unwrap().into_inner();
    let versions: Vec<(u64, bool)> = response.results.iter().map(|r| (r.version, r.existed)).collect();
    assert_eq!((response.partition_id, versions), (2, vec![(1, false), (2, true), (0, true)]));
    assert_eq!(harness.cluster.received().len(), 1);
    harness.stop().await;
}

#[tokio::test]
async fn many_concurrent_writes_survive_leader_changes_without_an_error_or_a_double_apply() {
    const WRITERS: u64 = 16;
    const ROUNDS: u64 = 100;
    let harness = Harness::start(3).await;
    let enough = CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (mut records, enough) = (harness.records(), enough.clone());
        writers.spawn(async move {
            let key = Bytes::from(format!("writer-{writer}"));
            let mut version = 0;
            while !enough.is_cancelled() {
                version += 1;
                let written = records.put(put(&key, "v")).await.unwrap().into_inner();
                assert_eq!(written.version, version);
            }
            version
        });
    }
    for round in 1..=ROUNDS {
        for partition in 1..=3 {
            harness.cluster.set_leader(partition, Some(round % 3));
        }
        // Rarer than a link's longest pause, so that brokers come back in between.
        if round % 10 == 0 {
            harness.cluster.break_streams(round % 3);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    enough.cancel();
    while let Some(written) = tokio::time::timeout(PATIENCE, writers.join_next()).await.unwrap() {
        assert!(written.unwrap() > 1);
    }
    harness.stop().await;
}
