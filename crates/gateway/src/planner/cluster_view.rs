//! What a plan is made from: the cluster as its leaders report it.

use evenkeel_protocol::{NodeId, PartitionId, Priority};

/// The cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Every broker of the configuration, in any order, each once.
    pub brokers: Vec<BrokerState>,
    /// Every partition, in any order, each once.
    pub partitions: Vec<PartitionState>,
    /// Ownership is paused: nothing is moved.
    pub paused: bool,
}

/// One broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerState {
    /// Who.
    pub node: NodeId,
    /// Answers and works.
    pub healthy: bool,
    /// Gives every leadership away and receives none.
    pub drained: bool,
}

/// One partition, as its leader reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Which.
    pub id: PartitionId,
    /// Who leads, when someone does.
    pub leader: Option<NodeId>,
    /// Term of that leadership.
    pub term: u64,
    /// Records that it holds.
    pub records: u64,
    /// Its replicas, in any order.
    pub replicas: Vec<ReplicaState>,
    /// Whether priorities decide who leads it.
    pub priority_election: bool,
}

/// One replica, as its partition's leader sees it. What is said of the leader's own lag does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// The broker that holds it.
    pub node: NodeId,
    /// Higher leads.
    pub priority: Priority,
    /// Counts in elections; a learner cannot lead.
    pub voter: bool,
    /// Connected to the leader.
    pub reachable: bool,
    /// Did not answer a probe, if there was one: it hangs.
    pub silent: bool,
    /// Log entries that it lacks; `None` while unknown.
    pub lag_entries: Option<u64>,
    /// Bytes that it lacks; `None` while unknown.
    pub lag_bytes: Option<u64>,
}
