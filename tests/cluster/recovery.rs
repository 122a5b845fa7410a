//! What was acknowledged survives: a broker away past the log's start, and a cluster that loses its power.

use evenkeel_client::ListQuery;
use evenkeel_protocol::internal::v1::{BrokerListRequest, broker_list_response};

use crate::harness::{Cluster, Load, Spec, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_past_the_logs_start_catches_up_from_a_snapshot() {
    let spec = Spec::new(3, 1).broker("raft.snapshot_after_entries", 50).broker("raft.log_entries_kept", 5);
    let mut cluster = Cluster::start(spec).await;
    cluster.wait_until_balanced().await;
    let client = cluster.client();
    for i in 0..30 {
        client.put(format!("before-{i:03}"), "v", None).await.unwrap();
    }
    cluster.kill(2);
    for i in 0..300 {
        client.put(format!("during-{i:03}"), i.to_string(), None).await.unwrap();
    }
    client.delete("before-007", None).await.unwrap();
    cluster.restart(2);
    cluster.wait_until_caught_up(2).await;
    let installed = cluster.scrape_broker(2).await.unwrap().sum("atomix_snapshot_replication_count", &[]);
    assert!(installed >= 1.0, "the log alone cannot have brought it up to date");

    // As the broker itself has it, without asking the leader.
    let expected = client.list(ListQuery { page_size: 1000, ..Default::default() }).await.unwrap().records;
    assert_eq!(expected.len(), 329);
    wait_until("the same records on the broker that was away", async || {
        let request = BrokerListRequest {
            partition_id: 1,
            limit: 1000,
            stale: true,
            bytes_max: 1 << 24,
            ..Default::default()
        };
        let answer = cluster.broker_service(2).list(request).await.map_err(|status| status.to_string())?;
        match answer.into_inner().result {
            Some(broker_list_response::Result::Page(page)) if page.records == expected => Ok(()),
            Some(broker_list_response::Result::Page(page)) => Err(format!("{} records", page.records.len())),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_killed_as_a_whole_keeps_every_acknowledged_write() {
    let mut cluster = Cluster::start(Spec::new(3, 6)).await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 4);
    load.progress(400).await;
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    load.progress(100).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&client).await;
}
