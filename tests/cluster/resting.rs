//! Partitions with nothing to say fall silent, and are led all the same.

use evenkeel_protocol::v1::Consistency;

use crate::harness::{Cluster, PARTITIONS, Spec, all_led, leaders, leads_per_broker, terms, wait_until};

const REST_AFTER: (&str, &str) = ("raft.rest_after", "300ms");

async fn resting_cluster() -> Cluster {
    let (key, value) = REST_AFTER;
    let cluster = Cluster::start_balanced(Spec::new(3, 12).broker(key, value)).await;
    wait_until_all_rest(&cluster, &[0, 1, 2]).await;
    cluster
}

async fn wait_until_all_rest(cluster: &Cluster, brokers: &[usize]) {
    wait_until("every partition to rest", async || match resting(cluster, brokers).await? {
        12.0 => Ok(()),
        resting => Err(format!("{resting} do")),
    })
    .await;
}

async fn resting(cluster: &Cluster, brokers: &[usize]) -> Result<f64, String> {
    let scrapes = brokers.iter().map(|node| cluster.scrape_broker(*node));
    let scrapes = futures::future::try_join_all(scrapes).await?;
    Ok(scrapes.iter().map(|scrape| scrape.sum("evenkeel_partition_resting", &PARTITIONS)).sum())
}

/// Appends that brokers were sent, heartbeats among them.
async fn appends(cluster: &Cluster) -> f64 {
    let scrapes = [0, 1, 2].map(|node| cluster.scrape_broker(node));
    let scrapes = futures::future::try_join_all(scrapes).await.unwrap();
    let appends = |scrape: &crate::harness::Scrape| {
        scrape.sum("atomix_raft_messages_received_total", &[PARTITIONS[0], ("type", "AppendRequest")])
    };
    scrapes.iter().map(appends).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_partitions_send_nothing_and_the_first_write_or_read_is_served_at_once() {
    let cluster = resting_cluster().await;
    let (client, before) = (cluster.client(), terms(&cluster.topology().await));
    let sent = appends(&cluster).await;
    // Signs of life of the brokers themselves go on, and nobody stands for election.
    assert!(all_led(&cluster.topology().await));
    assert_eq!(appends(&cluster).await, sent, "not one append or heartbeat of a resting partition");

    for key in 0..40 {
        client.put(format!("k{key}"), "v", None).await.unwrap();
    }
    for key in 0..40 {
        assert!(client.get(format!("k{key}"), Consistency::Linearizable).await.unwrap().is_some());
    }
    assert!(appends(&cluster).await > sent);
    assert_eq!(terms(&cluster.topology().await), before, "no election was needed");
    wait_until_all_rest(&cluster, &[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_broker_wakes_the_partitions_that_rest_on_it() {
    let mut cluster = resting_cluster().await;
    cluster.kill(1);
    let topology = cluster.wait_until_abandoned(1).await;
    assert_eq!(leads_per_broker(&topology)[1], 0);
    assert_eq!(leaders(&topology).len(), 12);
    // None rests while one of its replicas is away: it would hear of nothing when it returns.
    assert_eq!(resting(&cluster, &[0, 2]).await, Ok(0.0));
    cluster.client().put("k", "v", None).await.unwrap();
    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    wait_until_all_rest(&cluster, &[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_sleeps_loses_the_partitions_that_rest_on_it_and_wakes_as_a_follower() {
    let mut cluster = resting_cluster().await;
    cluster.pause(2);
    let topology = cluster.wait_until_abandoned(2).await;
    assert_eq!(leaders(&topology).len(), 12);
    cluster.client().put("k", "written meanwhile", None).await.unwrap();
    cluster.resume(2);
    cluster.wait_until_caught_up(2).await;
    assert_eq!(leads_per_broker(&cluster.topology().await)[2], 0);
    wait_until_all_rest(&cluster, &[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_partitions_go_home_when_they_are_rebalanced() {
    let mut cluster = resting_cluster().await;
    cluster.lose_and_return(0).await;
    wait_until_all_rest(&cluster, &[0, 1, 2]).await;
    let answer = cluster.rebalance().await;
    assert_eq!(answer.header("rebalance-status"), Some("started"));
    let topology = cluster.wait_until_balanced().await;
    assert_eq!(leads_per_broker(&topology), [4, 4, 4]);
    wait_until_all_rest(&cluster, &[0, 1, 2]).await;
}
