//! A broker is asked to stop.

use rustix::process::Signal;

use crate::harness::{Cluster, Load, Spec, leaders};

/// Far longer than a gateway parks a request: a leadership that is not handed over would fail requests.
const LEASE: &str = "60s";

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_asked_to_stop_hands_over_first_so_that_no_request_fails_or_waits_for_a_lease() {
    let mut cluster = Cluster::start(Spec::new(3, 6).broker("raft.lease", LEASE)).await;
    cluster.wait_until_balanced().await;
    let load = Load::without_retries(cluster.records(), 4);
    load.progress(100).await;
    cluster.brokers[1].signal(Signal::TERM);
    let status = cluster.brokers[1].ended().await;
    assert_eq!(status.code(), Some(0));
    let topology = cluster.wait_until_abandoned(1).await;
    load.progress(200).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&cluster.client()).await;
    assert_eq!(leaders(&topology).len(), 6);

    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    assert_eq!(cluster.rebalance().await.header("rebalance-status"), Some("started"));
    cluster.wait_until_balanced().await;
}
