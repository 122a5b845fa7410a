//! The planner's picture of the cluster, drawn from the topology and from what leaders said when asked just now. Pure.

use std::collections::HashMap;

use evenkeel_protocol::internal::v1::BrokerStatus;
use evenkeel_protocol::v1::Role;
use evenkeel_protocol::{Epoch, NodeId, PartitionId, Priority};

use crate::planner::{BrokerState, ClusterView, PartitionState, ReplicaState};
use crate::topology::{BrokerView, PartitionView, Topology};

/// What a follower lacks, in entries and bytes.
type Lag = (Option<u64>, Option<u64>);

/// What leaders said of their followers, by leadership. Statuses are pushed once a second; lag changes faster.
#[derive(Debug, Default)]
pub(crate) struct LatestLags {
    by_epoch: HashMap<(PartitionId, Epoch), HashMap<NodeId, Lag>>,
}

impl LatestLags {
    /// Takes in what a broker says of the partitions that it leads.
    pub(crate) fn take(&mut self, status: &BrokerStatus) {
        for replica in status.replicas.iter().filter(|replica| replica.role() == Role::Leader) {
            let epoch = Epoch { term: replica.term, node: NodeId(status.node_id) };
            let lags = replica.followers.iter().map(|lag| (NodeId(lag.node_id), (lag.entries, lag.bytes)));
            self.by_epoch.insert((PartitionId(replica.partition_id), epoch), lags.collect());
        }
    }

    fn of(&self, partition: &PartitionView, node: NodeId) -> Option<Lag> {
        self.by_epoch.get(&(partition.id, partition.epoch?))?.get(&node).copied()
    }
}

/// The cluster as the planner wants it.
pub(crate) fn cluster_view(topology: &Topology, latest: &LatestLags) -> ClusterView {
    let broker = |broker: &BrokerView| BrokerState {
        node: broker.node,
        healthy: broker.reachable,
        drained: broker.draining || broker.drained,
    };
    let partitions = topology.partitions.iter().map(|partition| partition_state(topology, latest, partition));
    ClusterView {
        brokers: topology.brokers.iter().map(broker).collect(),
        partitions: partitions.collect(),
        paused: false,
    }
}

fn partition_state(topology: &Topology, latest: &LatestLags, partition: &PartitionView) -> PartitionState {
    let replica = |node: &NodeId| {
        let broker = topology.broker(*node)?;
        let at = broker.replicas.binary_search_by_key(&partition.id, |replica| replica.partition).ok()?;
        let replica = broker.replicas.get(at)?;
        let (lag_entries, lag_bytes) =
            latest.of(partition, *node).unwrap_or((replica.lag_entries, replica.lag_bytes));
        Some(ReplicaState {
            node: *node,
            priority: Priority(replica.priority),
            // Membership is fixed: every replica of the distribution votes.
            voter: true,
            reachable: broker.reachable,
            lag_entries,
            lag_bytes,
        })
    };
    PartitionState {
        id: partition.id,
        leader: partition.leader,
        term: partition.epoch.map_or(0, |epoch| epoch.term),
        records: partition.records,
        replicas: partition.replicas.iter().filter_map(replica).collect(),
        priority_election: topology.priority_election,
    }
}
