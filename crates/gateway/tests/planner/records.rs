//! Even records: Cisco ESC's example, and how even it gets.

use std::collections::BTreeMap;

use evenkeel_gateway::planner::{ClusterView, PlanRequest, Policy, plan};
use evenkeel_protocol::NodeId;
use proptest::prelude::*;

use crate::world::{broker, carry_out, check, partition, replica, set_drained};

fn request() -> PlanRequest {
    PlanRequest { policy: Policy::Records, ..PlanRequest::default() }
}

/// Every partition on every broker.
fn everywhere(brokers: u64, partitions: &[(u64, u64)]) -> ClusterView {
    let replicas = || (0..brokers).map(|node| replica(node, node as u32 + 1)).collect();
    let one = |(i, (leader, records)): (usize, &(u64, u64))| {
        partition(i as u32 + 1, leader % brokers, *records, replicas())
    };
    ClusterView {
        brokers: (0..brokers).map(broker).collect(),
        partitions: partitions.iter().enumerate().map(one).collect(),
        paused: false,
    }
}

#[test]
fn two_brokers_with_300_records_give_100_each_to_one_without() {
    let partitions: Vec<(u64, u64)> = (0..12).map(|i| (i % 2, 50)).collect();
    let cluster = everywhere(3, &partitions);
    let plan = plan(&cluster, &request());
    check(&cluster, &plan, 0);
    assert_eq!((plan.records_optimal, plan.transfers.len()), (200, 4));
    let loads: Vec<(u64, u64, u64)> =
        plan.brokers.iter().map(|b| (b.records_before, b.records_requested, b.records_after)).collect();
    assert_eq!(loads, [(300, 100, 200), (300, 100, 200), (0, 0, 200)]);
}

#[test]
fn records_of_a_drained_broker_spread_evenly() {
    let partitions: Vec<(u64, u64)> = (0..12).map(|i| (i, 50)).collect();
    let mut cluster = everywhere(3, &partitions);
    set_drained(&mut cluster, NodeId(1), true);
    let plan = plan(&cluster, &request());
    let after: Vec<u64> = plan.brokers.iter().map(|b| b.records_after).collect();
    assert_eq!((after, plan.transfers.len()), (vec![300, 0, 300], 4));
}

#[test]
fn a_chain_helps_where_no_single_move_does() {
    // Only broker 1 shares partitions with both others.
    let both = |a: u64, b: u64| vec![replica(a, 2), replica(b, 1)];
    let cluster = ClusterView {
        brokers: (0..3).map(broker).collect(),
        partitions: vec![
            partition(1, 0, 100, both(0, 1)),
            partition(2, 0, 100, both(0, 1)),
            partition(3, 1, 100, both(1, 2)),
        ],
        paused: false,
    };
    let plan = plan(&cluster, &request());
    let after: Vec<u64> = plan.brokers.iter().map(|b| b.records_after).collect();
    assert_eq!((after, plan.transfers.len()), (vec![100, 100, 100], 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_most_loaded_owns_the_optimal_and_at_most_a_partition_more(
        brokers in 2_u64..7,
        partitions in proptest::collection::vec((0_u64..7, 0_u64..500), 1..40),
    ) {
        let cluster = everywhere(brokers, &partitions);
        let plan = plan(&cluster, &request());
        check(&cluster, &plan, 0);
        let mut after = cluster;
        carry_out(&mut after, &plan.transfers);
        let mut smallest: BTreeMap<NodeId, u64> = BTreeMap::new();
        for partition in after.partitions.iter().filter(|partition| partition.records > 0) {
            let least = smallest.entry(partition.leader.unwrap()).or_insert(u64::MAX);
            *least = partition.records.min(*least);
        }
        for load in &plan.brokers {
            let allowed = smallest.get(&load.node).copied().unwrap_or(0) + plan.records_optimal / 100;
            prop_assert!(load.records_after <= plan.records_optimal + allowed);
            prop_assert!(load.records_before >= load.records_requested);
        }
    }

    #[test]
    fn equal_partitions_end_as_even_as_counts_can_be(
        brokers in 2_u64..7,
        leaders in proptest::collection::vec(0_u64..7, 1..40),
    ) {
        let partitions: Vec<(u64, u64)> = leaders.into_iter().map(|leader| (leader, 50)).collect();
        let plan = plan(&everywhere(brokers, &partitions), &request());
        let most = plan.brokers.iter().map(|b| b.records_after).max().unwrap();
        prop_assert_eq!(most, (partitions.len() as u64).div_ceil(brokers) * 50);
    }
}
