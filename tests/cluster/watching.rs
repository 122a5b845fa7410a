//! Watches: every change once and in order, whatever happens to the leaders.

use std::collections::BTreeMap;

use evenkeel_client::WatchQuery;
use evenkeel_protocol::v1::watch_event::Kind;
use evenkeel_protocol::v1::{PartitionPosition, WatchRequest};
use tonic::Code;

use crate::harness::{Cluster, Load, PATIENCE, Spec, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_across_a_killed_leader_without_gap_or_duplicate() {
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    cluster.wait_until_balanced().await;
    let client = cluster.client();
    // The bare stream: the client's own would hide what a gateway delivers twice.
    let after = (1..=3).map(|partition_id| PartitionPosition { partition_id, position: 0 }).collect();
    let request = WatchRequest { prefix: "load-".into(), after, ..Default::default() };
    let mut changes = cluster.records().watch(request).await.unwrap().into_inner();
    let load = Load::with_retries(&client, 3);
    load.progress(100).await;
    cluster.kill(0);
    load.progress(300).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();

    let mut final_versions = BTreeMap::new();
    for key in ledger.keys.keys() {
        let record = client.get(key.clone(), Default::default()).await.unwrap().unwrap();
        final_versions.insert(key.clone(), record.version);
    }
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
    while seen != final_versions {
        let next = tokio::time::timeout(PATIENCE, changes.message()).await;
        let response = next.unwrap_or_else(|_| panic!("{seen:?} of {final_versions:?}")).unwrap().unwrap();
        for event in response.events {
            assert_eq!(event.kind(), Kind::Put);
            let record = event.record.unwrap();
            let last = positions.insert(record.partition_id, record.position).unwrap_or(0);
            assert!(record.position > last, "{record:?} after position {last}");
            let key = String::from_utf8(record.key.to_vec()).unwrap();
            let version = seen.entry(key.clone()).or_default();
            *version += 1;
            assert_eq!(record.version, *version, "{key}: a change is missing or came twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_position_that_is_no_longer_kept_is_told_the_first_that_is() {
    let cluster = Cluster::start(Spec::new(1, 1).broker("data.changes_retained_max", 10)).await;
    let client = cluster.client();
    let mut last = 0;
    for i in 0..40 {
        last = client.put("k", i.to_string(), None).await.unwrap().position;
    }
    let query = |after| WatchQuery { after: [(1, after)].into(), ..Default::default() };
    let error = match client.watch(query(1)).await {
        Ok(mut watch) => watch.next().await.unwrap_err(),
        Err(error) => error,
    };
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, Code::OutOfRange);
    let first: u64 = refusal.metadata["first_available_position"].parse().unwrap();
    assert!((last - 10..=last).contains(&first), "{first} of {last}");

    let mut watch = client.watch(query(first - 1)).await.unwrap();
    let mut positions = Vec::new();
    wait_until("the changes that are kept", async || {
        let changes = watch.next().await.map_err(|error| error.to_string())?;
        positions.extend(changes.events.iter().map(|event| event.record.as_ref().unwrap().position));
        if positions.last() == Some(&last) { Ok(()) } else { Err(format!("{positions:?}")) }
    })
    .await;
    assert_eq!(positions, (first..=last).collect::<Vec<_>>());
}
