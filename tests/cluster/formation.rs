//! A cluster starts, and every partition is led from where it should be.

use crate::harness::{Cluster, Spec, leads_per_broker};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_forms_with_every_leader_on_its_primary() {
    let cluster = Cluster::start(Spec::new(3, 12)).await;
    let topology = cluster.wait_until_balanced().await;
    assert_eq!((topology.cluster_size, topology.partitions_count, topology.replication_factor), (3, 12, 3));
    for partition in &topology.partitions {
        assert_eq!(partition.leader, Some(u64::from(partition.partition_id - 1) % 3), "{partition:?}");
    }
    assert_eq!(leads_per_broker(&topology), [4, 4, 4]);
}
