//! An operator lays the replicas out by hand.

use crate::harness::{Cluster, PATIENT_STAGGER, Spec, leaders};

pub fn spec(layout: &[&[&str]]) -> Spec {
    Spec::new(3, u32::try_from(layout.len()).unwrap()).fixed(layout)
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_priorities_decide_who_leads_and_who_gets_leadership_back() {
    let layout: [&[&str]; 3] = [&["0=1", "1=7", "2=100"], &["2=9", "1=3", "0=2"], &["1=5", "0=4", "2=3"]];
    let mut cluster = Cluster::start(spec(&layout).broker("raft.stagger", PATIENT_STAGGER)).await;
    let expected = [(1, 2), (2, 2), (3, 1)].into();
    assert_eq!(leaders(&cluster.wait_until_balanced().await), expected);
    cluster.kill(2);
    let topology = cluster.wait_until_abandoned(2).await;
    assert_eq!(leaders(&topology), [(1, 1), (2, 1), (3, 1)].into(), "the next priority leads");
    cluster.restart(2);
    cluster.wait_until_caught_up(2).await;
    assert_eq!(cluster.rebalance().await.header("rebalance-status"), Some("started"));
    assert_eq!(leaders(&cluster.wait_until_balanced().await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_distribution_without_primaries_refuses_a_rebalance_and_moves_nothing() {
    let layout: [&[&str]; 2] = [&["0", "1", "2"], &["1", "2", "0"]];
    let mut cluster = Cluster::start(spec(&layout)).await;
    let topology = cluster.topology().await;
    assert!(topology.partitions.iter().all(|partition| partition.primary.is_none()));
    let first = leaders(&topology)[&1];
    cluster.kill(usize::try_from(first).unwrap());
    let before = leaders(&cluster.wait_until_abandoned(first).await);
    let answer = cluster.rebalance().await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_eq!(answer.header("rebalance-status"), Some("refused"));
    assert!(cluster.gateways[0].log().contains("rebalance refused"));
    cluster.client().put("k", "v", None).await.unwrap();
    assert_eq!(leaders(&cluster.topology().await), before);
}
