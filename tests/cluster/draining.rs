//! An operator drains a broker, and wants it to lead nothing until told otherwise.

use http::Method;
use serde_json::Value;

use crate::fixed_distribution;
use crate::harness::{Answer, Cluster, Load, Spec, http, leads_per_broker, wait_until};

async fn drain(cluster: &Cluster, method: Method, node: u64) -> Answer {
    http(method, &cluster.api(&format!("/cluster/v2/brokers/{node}/drain"))).await.unwrap()
}

async fn broker(cluster: &Cluster, node: usize) -> Result<Value, String> {
    let answer = http(Method::GET, &cluster.api("/cluster/v2/brokers")).await?;
    Ok(answer.json()["brokers"][node].clone())
}

async fn until_drained(cluster: &Cluster, node: usize) {
    wait_until(&format!("broker {node} to lead nothing"), async || {
        let shown = broker(cluster, node).await?;
        if shown["drained"] == true && shown["leaders"] == 0 { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_broker_leads_nothing_through_failures_and_restarts_until_undrained() {
    let mut cluster = Cluster::start(Spec::new(3, 6)).await;
    cluster.wait_until_balanced().await;
    let load = Load::without_retries(cluster.records(), 4);
    load.progress(100).await;

    let answer = drain(&cluster, Method::PUT, 1).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["rebalanceId"].is_u64(), "{}", answer.text());
    until_drained(&cluster, 1).await;
    load.progress(100).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&cluster.client()).await;

    // Restarted, it remembers.
    cluster.kill(1);
    cluster.wait_until_abandoned(1).await;
    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    until_drained(&cluster, 1).await;

    // Another broker fails: what it led goes to the third, or comes to the drained one for a moment at most.
    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    until_drained(&cluster, 1).await;
    assert_eq!(leads_per_broker(&cluster.topology().await)[2], 6);
    cluster.restart(0);
    cluster.wait_until_caught_up(0).await;

    let answer = drain(&cluster, Method::DELETE, 1).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["wasDrained"]), (200, &true.into()));
    assert_eq!(leads_per_broker(&cluster.topology().await)[1], 0, "nothing moves back by itself");
    assert_eq!(cluster.rebalance().await.header("rebalance-status"), Some("started"));
    let topology = cluster.wait_until_balanced().await;
    assert_eq!(leads_per_broker(&topology), [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_broker_leads_on_where_nobody_else_can() {
    let mut spec = Spec::new(2, 2);
    spec.replication_factor = 1;
    let cluster = Cluster::start(spec).await;
    // Each partition has one replica: there is nobody to take over.
    let answer = drain(&cluster, Method::PUT, 1).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown = broker(&cluster, 1).await.unwrap();
    assert_eq!((&shown["drained"], &shown["leaders"]), (&true.into(), &1.into()), "{shown}");
    cluster.client().put("k", "still served", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_drained_where_no_partition_has_a_primary_too() {
    let layout: [&[&str]; 2] = [&["0", "1", "2"], &["1", "2", "0"]];
    let cluster = Cluster::start(fixed_distribution::spec(&layout)).await;
    let first = cluster.topology().await.partitions[0].leader.unwrap();
    let answer = drain(&cluster, Method::PUT, first).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    until_drained(&cluster, usize::try_from(first).unwrap()).await;
    cluster.client().put("k", "still served", None).await.unwrap();
}
