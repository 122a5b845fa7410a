//! Reads and listings.

use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::gateway_protocol::gateway_client::GatewayClient;
use evenkeel_protocol::v1::{Consistency, GetRequest, ListRequest};
use tonic::Code;

use crate::harness::{Harness, PATIENCE, error_info, put};

fn get(key: &Bytes, consistency: Consistency) -> GetRequest {
    GetRequest { key: key.clone(), consistency: consistency.into() }
}

#[tokio::test]
async fn reads_find_what_was_written_and_tell_what_was_not() {
    let harness = Harness::start(3).await;
    let mut records = harness.records();
    let key = harness.key(2, 3);
    records.put(put(&key, "a")).await.unwrap();
    for consistency in [Consistency::Unspecified, Consistency::Linearizable, Consistency::Stale] {
        let found = records.get(get(&key, consistency)).await.unwrap().into_inner();
        assert_eq!((found.partition_id, found.record.unwrap().value), (2, Bytes::from_static(b"a")));
    }
    let absent = records.get(get(&Bytes::from_static(b"absent"), Consistency::Unspecified)).await.unwrap();
    assert!(absent.into_inner().record.is_none());
    harness.stop().await;
}

#[tokio::test]
async fn stale_reads_spread_over_replicas_and_others_go_to_the_leader() {
    const READS: u64 = 300;
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    for (consistency, spread) in [(Consistency::Linearizable, false), (Consistency::Stale, true)] {
        let before = harness.cluster.gets();
        for _ in 0..READS {
            harness.records().get(get(&key, consistency)).await.unwrap();
        }
        let after = harness.cluster.gets();
        let by_broker: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(by_broker.iter().sum::<u64>(), READS, "{by_broker:?}");
        if spread {
            // A third each; that one gets less than a sixth happens once in a thousand million million runs.
            assert!(by_broker.iter().all(|reads| *reads > READS / 6), "{by_broker:?}");
        } else {
            assert_eq!(by_broker[0], READS, "{by_broker:?}");
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn brokers_that_know_no_streams_of_gets_are_read_by_calls() {
    let harness = Harness::start(3).await;
    let key = harness.key(2, 3);
    harness.records().put(put(&key, "a")).await.unwrap();
    harness.cluster.forget_get_streams();
    for consistency in [Consistency::Linearizable, Consistency::Stale] {
        let found = harness.records().get(get(&key, consistency)).await.unwrap().into_inner();
        assert_eq!(found.record.unwrap().value, Bytes::from_static(b"a"));
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_read_waits_for_the_next_leader_and_a_stale_one_does_not() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    harness.records().put(put(&key, "a")).await.unwrap();
    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    let stale = harness.records().get(get(&key, Consistency::Stale)).await.unwrap().into_inner();
    assert!(stale.record.is_some());

    let (mut records, request) = (harness.records(), get(&key, Consistency::Linearizable));
    let waiting = tokio::spawn(async move { records.get(request).await });
    tokio::task::yield_now().await;
    harness.cluster.set_leader(1, Some(1));
    let found = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert!(found.into_inner().record.is_some());
    harness.stop().await;
}

#[tokio::test]
async fn a_read_without_a_leader_ends_at_its_deadline() {
    let harness = Harness::with_options(1, |o| o.routing.park_timeout = Duration::from_millis(100)).await;
    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    let key = harness.key(1, 1);
    let status = harness.records().get(get(&key, Consistency::Unspecified)).await.unwrap_err();
    assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::Unavailable, "NO_LEADER"));
    harness.stop().await;
}

#[tokio::test]
async fn listing_pages_through_all_partitions_in_key_order() {
    let harness = Harness::start(3).await;
    let mut records = harness.records();
    let mut expected: Vec<String> = (0..25).map(|i| format!("order-{i}")).collect();
    for key in &expected {
        records.put(put(&Bytes::from(key.clone()), "v")).await.unwrap();
    }
    records.put(put(&Bytes::from_static(b"unrelated"), "v")).await.unwrap();
    expected.sort();

    let mut request =
        ListRequest { prefix: Bytes::from_static(b"order-"), page_size: 4, ..ListRequest::default() };
    let mut listed = Vec::new();
    let mut pages = 0;
    loop {
        let page = records.list(request.clone()).await.unwrap().into_inner();
        listed.extend(page.records.into_iter().map(|r| String::from_utf8(r.key.to_vec()).unwrap()));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((listed, pages), (expected, 7));

    let of_one = ListRequest { partition_id: 2, ..ListRequest::default() };
    let of_one = records.list(of_one).await.unwrap().into_inner();
    assert!(!of_one.records.is_empty() && of_one.records.iter().all(|r| r.partition_id == 2));

    let table = [
        (ListRequest { partition_id: 4, ..ListRequest::default() }, Code::NotFound, "UNKNOWN_PARTITION"),
        (ListRequest { page_size: -1, ..ListRequest::default() }, Code::InvalidArgument, "BAD_PAGE_SIZE"),
        (
            ListRequest { page_token: Bytes::from_static(b"?"), ..ListRequest::default() },
            Code::InvalidArgument,
            "BAD_PAGE_TOKEN",
        ),
    ];
    for (request, code, reason) in table {
        let status = records.list(request).await.unwrap_err();
        assert_eq!((status.code(), error_info(&status).reason.as_str()), (code, reason));
    }
    harness.stop().await;
}

#[tokio::test]
async fn existing_zeebe_clients_read_the_topology() {
    let harness = Harness::start(4).await;
    let mut client = GatewayClient::new(harness.channel.clone());
    let request = evenkeel_protocol::gateway_protocol::TopologyRequest {};
    let topology = client.topology(request).await.unwrap().into_inner();
    assert_eq!((topology.cluster_size, topology.partitions_count, topology.replication_factor), (3, 4, 3));
    let leaders: Vec<(i32, Vec<i32>)> = topology
        .brokers
        .iter()
        .map(|b| (b.node_id, b.partitions.iter().filter(|p| p.role == 0).map(|p| p.partition_id).collect()))
        .collect();
    assert_eq!(leaders, [(0, vec![1, 4]), (1, vec![2]), (2, vec![3])]);
    harness.stop().await;
}
