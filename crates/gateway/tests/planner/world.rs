//! A cluster to plan for: brokers die and return, priorities decide elections, plans are carried out.

use std::cmp::Reverse;

use evenkeel_gateway::planner::{
    BrokerState, ClusterView, Decision, PartitionState, Plan, ReplicaState, Transfer,
};
use evenkeel_protocol::{NodeId, PartitionId, Priority};
use proptest::prelude::*;

/// Lag of a broker that has just returned.
const LAG_AFTER_RETURN: (Option<u64>, Option<u64>) = (Some(1 << 20), Some(64 << 20));

pub fn broker(node: u64) -> BrokerState {
    BrokerState { node: NodeId(node), healthy: true, drained: false }
}

pub fn replica(node: u64, priority: u32) -> ReplicaState {
    ReplicaState {
        node: NodeId(node),
        priority: Priority(priority),
        voter: true,
        reachable: true,
        silent: false,
        lag_entries: Some(0),
        lag_bytes: Some(0),
    }
}

pub fn partition(id: u32, leader: u64, records: u64, replicas: Vec<ReplicaState>) -> PartitionState {
    PartitionState {
        id: PartitionId(id),
        leader: Some(NodeId(leader)),
        term: 1,
        records,
        replicas,
        priority_election: true,
    }
}

/// Partitions on a ring of brokers, each led by its primary; followers' order alternates.
pub fn round_robin(brokers: u64, partitions: u32, replication_factor: u64, records: u64) -> ClusterView {
    let partition = |id: u32| {
        let first = u64::from(id - 1);
        let downwards = (first / brokers) % 2 == 1;
        let replica = |offset: u64| {
            let rank = if downwards && offset > 0 { replication_factor - offset } else { offset };
            replica((first + offset) % brokers, (replication_factor - rank) as u32)
        };
        partition(id, first % brokers, records, (0..replication_factor).map(replica).collect())
    };
    ClusterView {
        brokers: (0..brokers).map(broker).collect(),
        partitions: (1..=partitions).map(partition).collect(),
        paused: false,
    }
}

/// A broker dies: the highest-priority replica that is caught up takes over, if most of a partition's are there.
pub fn die(cluster: &mut ClusterView, node: NodeId) {
    set_healthy(cluster, node, false);
    for partition in &mut cluster.partitions {
        for replica in partition.replicas.iter_mut().filter(|replica| replica.node == node) {
            replica.reachable = false;
        }
        if partition.leader == Some(node) {
            partition.leader = None;
        }
    }
    elect(cluster);
}

/// A broker returns, and lags.
pub fn come_back(cluster: &mut ClusterView, node: NodeId) {
    set_healthy(cluster, node, true);
    for partition in &mut cluster.partitions {
        let led = partition.leader.is_some();
        for replica in partition.replicas.iter_mut().filter(|replica| replica.node == node) {
            replica.reachable = true;
            // Without a leader nothing was written meanwhile.
            (replica.lag_entries, replica.lag_bytes) =
                if led { LAG_AFTER_RETURN } else { (Some(0), Some(0)) };
        }
    }
    elect(cluster);
}

/// A broker has caught up.
pub fn catch_up(cluster: &mut ClusterView, node: NodeId) {
    for partition in &mut cluster.partitions {
        for replica in partition.replicas.iter_mut().filter(|replica| replica.node == node) {
            (replica.lag_entries, replica.lag_bytes) = (Some(0), Some(0));
        }
    }
    elect(cluster);
}

pub fn set_healthy(cluster: &mut ClusterView, node: NodeId, healthy: bool) {
    cluster.brokers.iter_mut().filter(|b| b.node == node).for_each(|b| b.healthy = healthy);
}

pub fn set_drained(cluster: &mut ClusterView, node: NodeId, drained: bool) {
    cluster.brokers.iter_mut().filter(|b| b.node == node).for_each(|b| b.drained = drained);
}

fn elect(cluster: &mut ClusterView) {
    for partition in cluster.partitions.iter_mut().filter(|partition| partition.leader.is_none()) {
        let there = partition.replicas.iter().filter(|replica| replica.reachable);
        if there.clone().count() * 2 <= partition.replicas.len() {
            continue;
        }
        let complete = there.filter(|replica| replica.lag_bytes == Some(0));
        let heir = complete.min_by_key(|replica| (Reverse(replica.priority), replica.node));
        partition.leader = heir.map(|replica| replica.node);
        partition.term += u64::from(partition.leader.is_some());
    }
}

/// Every transfer succeeds.
pub fn carry_out(cluster: &mut ClusterView, transfers: &[Transfer]) {
    for transfer in transfers {
        let partition = cluster.partitions.iter_mut().find(|p| p.id == transfer.partition).unwrap();
        assert_eq!(partition.leader, Some(transfer.from), "partition {}", partition.id);
        partition.leader = Some(transfer.to);
        partition.term += 1;
        for replica in &mut partition.replicas {
            if [transfer.from, transfer.to].contains(&replica.node) {
                (replica.lag_entries, replica.lag_bytes) = (Some(0), Some(0));
            }
        }
    }
}

/// What every plan keeps to, besides its policy.
pub fn check(cluster: &ClusterView, plan: &Plan, lag_bytes_max: u64) {
    let moves: Vec<Transfer> = plan
        .decisions
        .iter()
        .filter_map(|decision| match &decision.decision {
            Decision::Move { from, to, alternatives } => {
                assert_eq!((decision.current, decision.desired), (Some(*from), Some(*to)));
                assert_ne!(from, to);
                assert!(!alternatives.contains(from) && !alternatives.contains(to));
                let partition = cluster.partitions.iter().find(|p| p.id == decision.partition).unwrap();
                for node in alternatives.iter().chain([to]) {
                    let replica = partition.replicas.iter().find(|r| r.node == *node).unwrap();
                    let broker = cluster.brokers.iter().find(|b| b.node == *node).unwrap();
                    assert!(replica.voter && replica.reachable && broker.healthy && !broker.drained);
                    assert!(
                        replica.lag_bytes.map_or(replica.lag_entries == Some(0), |lag| lag <= lag_bytes_max)
                    );
                }
                Some(Transfer { partition: decision.partition, from: *from, to: *to })
            }
            _ => None,
        })
        .collect();
    let mut transfers = plan.transfers.clone();
    transfers.sort_by_key(|transfer| transfer.partition);
    assert_eq!(transfers, moves);
    let mut after = cluster.clone();
    carry_out(&mut after, &plan.transfers);
    for load in &plan.brokers {
        let led = |view: &ClusterView| {
            let led: Vec<u64> =
                view.partitions.iter().filter(|p| p.leader == Some(load.node)).map(|p| p.records).collect();
            (led.len() as u32, led.iter().sum::<u64>())
        };
        assert_eq!(led(cluster), (load.leaders_before, load.records_before));
        assert_eq!(led(&after), (load.leaders_after, load.records_after));
        assert!(load.records_requested <= load.records_before);
    }
    for decision in &plan.decisions {
        let prefix = format!("partition {}: ", decision.partition);
        assert!(decision.detail.starts_with(&prefix) && decision.detail.len() > prefix.len());
        assert!(!decision.detail.contains('\n'));
    }
}

/// Clusters in any state. Leaders are voters and lack nothing; all else may be the matter.
pub fn clusters(
    brokers: std::ops::Range<usize>,
    partitions: std::ops::Range<usize>,
) -> impl Strategy<Value = ClusterView> {
    let broker = (prop::bool::weighted(0.85), prop::bool::weighted(0.15))
        .prop_map(|(healthy, drained)| BrokerState { node: NodeId(0), healthy, drained });
    proptest::collection::vec(broker, brokers).prop_flat_map(move |mut brokers| {
        for (node, broker) in brokers.iter_mut().enumerate() {
            broker.node = NodeId(node as u64);
        }
        let partitions = proptest::collection::vec(any_partition(brokers.len() as u64), partitions.clone());
        (Just(brokers), partitions).prop_map(|(brokers, mut partitions)| {
            for (i, partition) in partitions.iter_mut().enumerate() {
                partition.id = PartitionId(i as u32 + 1);
            }
            ClusterView { brokers, partitions, paused: false }
        })
    })
}

fn any_partition(brokers: u64) -> impl Strategy<Value = PartitionState> {
    let nodes = Just((0..brokers).collect::<Vec<u64>>()).prop_shuffle();
    let replicas = (nodes, proptest::collection::vec(any_replica(), 1..4)).prop_map(|(nodes, replicas)| {
        let placed = nodes.into_iter().zip(replicas);
        placed.map(|(node, replica)| ReplicaState { node: NodeId(node), ..replica }).collect::<Vec<_>>()
    });
    let leader = proptest::option::weighted(0.95, 0_usize..4);
    (replicas, leader, 0_u64..300, prop::bool::weighted(0.95)).prop_map(
        |(mut replicas, leader, records, priority_election)| {
            let at = leader.map(|at| at % replicas.len());
            if let Some(at) = at {
                let of_leader = replica(replicas[at].node.0, replicas[at].priority.0);
                replicas[at] = of_leader;
            }
            let leader = at.map(|at| replicas[at].node);
            PartitionState { id: PartitionId(0), leader, term: 3, records, replicas, priority_election }
        },
    )
}

fn any_replica() -> impl Strategy<Value = ReplicaState> {
    let lag = prop_oneof![4 => Just(Some(0)), 1 => Just(None), 2 => (0_u64..16 << 20).prop_map(Some)];
    (prop::bool::weighted(0.9), prop::bool::weighted(0.9), lag, 1_u32..6).prop_map(
        |(voter, reachable, lag, priority)| ReplicaState {
            voter,
            reachable,
            lag_entries: lag.map(|bytes| bytes / 100),
            lag_bytes: lag,
            ..replica(0, priority)
        },
    )
}
