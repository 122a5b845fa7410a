//! A broker is killed, and comes back.

use std::collections::BTreeMap;

use crate::harness::{
    Cluster, Load, PARTITIONS, PATIENT_STAGGER, Spec, leaders, leads_per_broker, wait_until,
};

#[tokio::test(flavor = "multi_thread")]
async fn killing_a_broker_spreads_its_leaderships_over_the_others_and_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(Spec::new(3, 12).broker("raft.stagger", PATIENT_STAGGER)).await;
    cluster.wait_until_balanced().await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 4);
    load.progress(200).await;
    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    load.progress(400).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    assert_eq!(ledger.longest_gap.len(), 12, "every partition was written to");
    ledger.check(&client).await;

    // Under load the next in rank may have lacked the last write, which another one had. When all have everything, rank decides.
    cluster.restart(0);
    cluster.wait_until_caught_up(0).await;
    cluster.rebalance().await;
    cluster.wait_until_balanced().await;
    cluster.kill(0);
    let topology = cluster.wait_until_abandoned(0).await;
    assert_eq!(leads_per_broker(&topology), [0, 6, 6], "{:?}", leaders(&topology));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_broker_catches_up_and_takes_nothing_back_by_itself() {
    let mut cluster = Cluster::start(Spec::new(3, 6)).await;
    cluster.wait_until_balanced().await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 2);
    load.progress(50).await;
    cluster.kill(1);
    cluster.wait_until_abandoned(1).await;
    load.progress(200).await;
    let lag = wait_until("the killed broker's lag to show", async || match cluster.lag_of(1).await? {
        lag if lag >= 10.0 => Ok(lag),
        lag => Err(format!("it is {lag}")),
    })
    .await;
    load.progress(200).await;
    wait_until("the lag to rise", async || match cluster.lag_of(1).await? {
        now if now > lag => Ok(()),
        now => Err(format!("it was {lag} and is {now}")),
    })
    .await;
    load.stop().await.assert_no_failures();

    let before = terms(&cluster).await;
    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    client.put("written", "after the return", None).await.unwrap();
    cluster.wait_until_caught_up(1).await;
    assert_eq!(terms(&cluster).await, before, "leaders and terms are as they were");
}

/// Leader and term of every partition.
async fn terms(cluster: &Cluster) -> BTreeMap<u32, (Option<u64>, u64)> {
    cluster.topology().await.partitions.iter().map(|p| (p.partition_id, (p.leader, p.term))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_gateway_dies_its_clients_go_on_through_another_one() {
    let mut cluster = Cluster::start(Spec::new(3, 3).gateways(2)).await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 3);
    load.progress(100).await;
    for gateway in [0, 1] {
        cluster.gateways[gateway].kill();
        load.progress(200).await;
        cluster.gateways[gateway].restart();
        cluster.wait_for_gateway(gateway, "all leaders", |topology| leaders(topology).len() == 3).await;
    }
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_lost_its_majority_is_shown_as_none_until_the_majority_is_back() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3)).await;
    cluster.kill(1);
    cluster.kill(2);
    cluster.wait_for("no leader", |topology| leaders(topology).is_empty()).await;
    let scrape = cluster.scrape_broker(0).await.unwrap();
    assert!(!scrape.values("atomix_role", &PARTITIONS).contains(&3.0), "nor in its own metrics");
    cluster.restart(2);
    cluster.wait_for("leaders again", |topology| leaders(topology).len() == 3).await;
    cluster.client().put("k", "written by two of three", None).await.unwrap();
}
