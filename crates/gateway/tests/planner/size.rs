//! Ten thousand partitions.

use std::time::Instant;

use evenkeel_gateway::planner::{ClusterView, PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX, plan};
use evenkeel_protocol::NodeId;
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::world::{carry_out, check, partition, replica, round_robin};

/// Replicas all over the place, leaders mostly on half the brokers.
fn scattered(brokers: u64, partitions: u32) -> ClusterView {
    let mut random = StdRng::seed_from_u64(7);
    let mut cluster = round_robin(brokers, partitions, 3, 0);
    for state in &mut cluster.partitions {
        let mut nodes: Vec<u64> = (0..brokers).choose_multiple(&mut random, 3);
        nodes.sort_unstable();
        let leader = nodes[0];
        nodes.shuffle(&mut random);
        let replicas = nodes.into_iter().zip(1..).map(|(node, priority)| replica(node, priority)).collect();
        *state = partition(state.id.0, leader, random.random_range(0..2000), replicas);
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
