//! The planner's picture of the cluster, drawn from the topology and from what leaders said when asked just now. Pure.

use std::collections::HashMap;

use evenkeel_protocol::internal::v1::BrokerStatus;
use evenkeel_protocol::v1::Role;
use evenkeel_protocol::{Epoch, NodeId, PartitionId, Priority};

use crate::planner::{BrokerState, ClusterView, PartitionState, ReplicaState};
use crate::topology::{BrokerView, PartitionView, Topology};

/// What a leader says of one follower.
#[derive(Clone, Copy, Debug)]
struct Follower {
    lag_entries: Option<u64>,
    lag_bytes: Option<u64>,
    /// The leader is connected to it.
    reachable: bool,
    /// It did not answer the leader's probe.
    silent: bool,
}

/// What a leader says of its partition.
#[derive(Debug)]
struct Led {
    records: u64,
    followers: HashMap<NodeId, Follower>,
}

/// What leaders said just now, by leadership. Statuses are pushed once a second; lag and records change faster.
#[derive(Debug, Default)]
pub(crate) struct LeadersNow {
    by_epoch: HashMap<(PartitionId, Epoch), Led>,
}

impl LeadersNow {
    /// Takes in what a broker says of the partitions that it leads.
    pub(crate) fn take(&mut self, status: &BrokerStatus) {
        for replica in status.replicas.iter().filter(|replica| replica.role() == Role::Leader) {
            let epoch = Epoch { term: replica.term, node: NodeId(status.node_id) };
            let followers = replica.followers.iter().map(|told| {
                let (lag_entries, lag_bytes) = (told.entries, told.bytes);
                (
                    NodeId(told.node_id),
                    Follower { lag_entries, lag_bytes, reachable: !told.unreachable, silent: told.silent },
                )
            });
            let led = Led { records: replica.records, followers: followers.collect() };
            self.by_epoch.insert((PartitionId(replica.partition_id), epoch), led);
        }
    }

    /// The topology with the records that leaders told.
    pub(crate) fn counted(&self, topology: &Topology) -> Topology {
        let mut counted = topology.clone();
        for partition in &mut counted.partitions {
            partition.records = self.of(partition).map_or(partition.records, |led| led.records);
        }
        counted
    }

    fn of(&self, partition: &PartitionView) -> Option<&Led> {
        self.by_epoch.get(&(partition.id, partition.epoch?))
    }
}

/// The cluster as the planner wants it.
pub(crate) fn cluster_view(topology: &Topology, now: &LeadersNow) -> ClusterView {
    let broker = |broker: &BrokerView| BrokerState {
        node: broker.node,
        healthy: broker.reachable,
        drained: broker.draining || broker.drained,
    };
    let partitions = topology.partitions.iter().map(|partition| partition_state(topology, now, partition));
    ClusterView {
        brokers: topology.brokers.iter().map(broker).collect(),
        partitions: partitions.collect(),
        paused: false,
    }
}

fn partition_state(topology: &Topology, now: &LeadersNow, partition: &PartitionView) -> PartitionState {
    let led = now.of(partition);
    let replica = |node: &NodeId| {
        let broker = topology.broker(*node)?;
        let at = broker.replicas.binary_search_by_key(&partition.id, |replica| replica.partition).ok()?;
        let replica = broker.replicas.get(at)?;
        let told = led.and_then(|led| led.followers.get(node).copied()).unwrap_or(Follower {
            lag_entries: replica.lag_entries,
            lag_bytes: replica.lag_bytes,
            reachable: true,
            silent: false,
        });
        Some(ReplicaState {
            node: *node,
            priority: Priority(replica.priority),
            // Membership is fixed: every replica of the distribution votes.
            voter: true,
            // By this gateway, and by the leader that would hand over to it.
            reachable: broker.reachable && told.reachable,
            silent: told.silent,
            lag_entries: told.lag_entries,
            lag_bytes: told.lag_bytes,
        })
    };
    PartitionState {
        id: partition.id,
        leader: partition.leader,
        term: partition.epoch.map_or(0, |epoch| epoch.term),
        records: led.map_or(partition.records, |led| led.records),
        replicas: partition.replicas.iter().filter_map(replica).collect(),
        priority_election: topology.priority_election,
    }
}
