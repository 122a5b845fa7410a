//! Ten thousand partitions.

use std::time::Instant;

use evenkeel_gateway::planner::{ClusterView, PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX, plan};
use evenkeel_protocol::NodeId;

use crate::world::{carry_out, check, partition, replica, round_robin};

/// Replicas all over the place, leaders on half the brokers only.
fn scattered(brokers: u64, partitions: u32) -> ClusterView {
    let mut cluster = round_robin(brokers, partitions, 3, 0);
    for (i, state) in cluster.partitions.iter_mut().enumerate() {
        let i = i as u64;
        let first = i * 7 % brokers;
        let second = (first + 1 + i * 13 % (brokers - 2)) % brokers;
        let third = (0..brokers)
            .find(|node| ![first, second].contains(node) && (node + i).is_multiple_of(5))
            .unwrap();
        let mut nodes = [first, second, third];
        nodes.sort_unstable();
        let replicas = nodes.iter().zip([1, 3, 2]).map(|(node, priority)| replica(*node, priority)).collect();
        *state = partition(state.id.0, nodes[0], 500 + i * 37 % 1000, replicas);
    }
    cluster
}

#[test]
fn ten_thousand_partitions_on_fifty_brokers_plan_under_every_policy() {
    let returned = {
        let mut cluster = round_robin(50, 10_000, 3, 1000);
        for partition in cluster.partitions.iter_mut().filter(|p| p.leader == Some(NodeId(7))) {
            partition.leader = partition.replicas.iter().find(|r| r.priority.0 == 2).map(|r| r.node);
        }
        cluster
    };
    for (name, cluster) in [("one returned", returned), ("scattered", scattered(50, 10_000))] {
        for policy in [Policy::Primary, Policy::EvenCount, Policy::Records] {
            let request = PlanRequest { policy, ..PlanRequest::default() };
            let started = Instant::now();
            let plan = plan(&cluster, &request);
            println!("{name}, {policy:?}: {} moves in {:?}", plan.transfers.len(), started.elapsed());
            assert!(!plan.is_empty());
            let leaders: Vec<u32> = plan.brokers.iter().map(|broker| broker.leaders_after).collect();
            if policy == Policy::EvenCount {
                assert_eq!((leaders.iter().min(), leaders.iter().max()), (Some(&200), Some(&200)));
            }
        }
    }
}

#[test]
fn a_large_plan_keeps_its_promises() {
    let cluster = scattered(20, 600);
    for policy in [Policy::Primary, Policy::EvenCount, Policy::Records] {
        let request = PlanRequest { policy, leaders_per_broker_max: Some(40), ..PlanRequest::default() };
        let first = plan(&cluster, &request);
        check(&cluster, &first, REPLICATION_LAG_BYTES_MAX);
        assert!(first.brokers.iter().all(|broker| broker.leaders_after <= 40));
        let mut after = cluster.clone();
        carry_out(&mut after, &first.transfers);
        assert!(plan(&after, &request).is_empty());
    }
}
