//! What may be done with each partition: who can take it over, and whether it may be touched at all.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use evenkeel_protocol::{LagVerdict, NodeId, Priority, judge_lag};

use super::cluster_view::{BrokerState, ClusterView, PartitionState, ReplicaState};
use super::decisions::Reason;
use super::plan_request::{PlanRequest, Policy};

/// The brokers in order of node; everything in a plan refers to them by index.
pub(super) struct Brokers {
    states: Vec<BrokerState>,
    index: BTreeMap<NodeId, usize>,
}

impl Brokers {
    pub(super) fn new(cluster: &ClusterView) -> Self {
        let by_node: BTreeMap<NodeId, BrokerState> = cluster.brokers.iter().map(|b| (b.node, *b)).collect();
        let index = by_node.keys().enumerate().map(|(i, node)| (*node, i)).collect();
        Self { states: by_node.into_values().collect(), index }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn at(&self, broker: usize) -> BrokerState {
        self.states[broker]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &BrokerState> {
        self.states.iter()
    }

    pub(super) fn find(&self, node: NodeId) -> Option<usize> {
        self.index.get(&node).copied()
    }

    pub(super) fn healthy(&self, node: NodeId) -> bool {
        self.find(node).is_some_and(|i| self.states[i].healthy)
    }

    pub(super) fn drained(&self, node: NodeId) -> bool {
        self.find(node).is_some_and(|i| self.states[i].drained)
    }
}

/// Why a replica cannot take over now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    Unreachable,
    Drained,
    Learner,
    NotReplicating,
    Lag,
}

pub(super) fn obstacle(replica: &ReplicaState, brokers: &Brokers, lag_bytes_max: u64) -> Option<Obstacle> {
    if brokers.drained(replica.node) {
        return Some(Obstacle::Drained);
    }
    if !replica.reachable || !brokers.healthy(replica.node) {
        return Some(Obstacle::Unreachable);
    }
    if !replica.voter {
        return Some(Obstacle::Learner);
    }
    match judge_lag(replica.lag_entries, replica.lag_bytes, lag_bytes_max) {
        // Last, as leaders do it: what lags is not probed.
        LagVerdict::WithinLimit => replica.silent.then_some(Obstacle::Unreachable),
        LagVerdict::TooHigh => Some(Obstacle::Lag),
        LagVerdict::NotReplicating => Some(Obstacle::NotReplicating),
    }
}

/// What may be done with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freedom {
    /// Nothing, because of this.
    Fixed(Reason),
    /// It goes to this broker.
    Named(usize),
    /// The policy decides.
    Free,
}

/// A partition as the policies see it.
pub(super) struct Standing<'a> {
    pub(super) partition: &'a PartitionState,
    pub(super) freedom: Freedom,
    /// The leader's broker, when it is known.
    pub(super) leader: Option<usize>,
    /// The leader's broker is drained.
    pub(super) must_leave: bool,
    /// Who can take over, highest priority first.
    pub(super) successors: Vec<usize>,
    /// How many of them have a higher priority than the leader.
    pub(super) leader_rank: usize,
    /// Whom an override asks for.
    pub(super) named: Option<NodeId>,
}

impl<'a> Standing<'a> {
    pub(super) fn new(partition: &'a PartitionState, brokers: &Brokers, request: &PlanRequest) -> Self {
        let mut able: Vec<&ReplicaState> = partition
            .replicas
            .iter()
            .filter(|replica| Some(replica.node) != partition.leader)
            .filter(|replica| obstacle(replica, brokers, request.replication_lag_bytes_max).is_none())
            .collect();
        able.sort_by_key(|replica| rank(replica));
        let leader = partition.replicas.iter().find(|replica| Some(replica.node) == partition.leader);
        let leader_rank =
            leader.map_or(able.len(), |leader| able.partition_point(|r| rank(r) < rank(leader)));
        let mut standing = Self {
            partition,
            freedom: Freedom::Free,
            leader: partition.leader.and_then(|node| brokers.find(node)),
            must_leave: partition.leader.is_some_and(|node| brokers.drained(node)),
            successors: able.iter().filter_map(|replica| brokers.find(replica.node)).collect(),
            leader_rank,
            named: request.targets.get(&partition.id).copied(),
        };
        standing.freedom = standing.freedom(brokers, request);
        standing
    }

    fn freedom(&self, brokers: &Brokers, request: &PlanRequest) -> Freedom {
        let partition = self.partition;
        if request.partitions.as_ref().is_some_and(|wanted| !wanted.contains(&partition.id)) {
            return Freedom::Fixed(Reason::Filtered);
        }
        // A leader that does not answer cannot be asked to hand over.
        if !partition.leader.is_some_and(|leader| brokers.healthy(leader)) {
            return Freedom::Fixed(Reason::NoLeader);
        }
        if let Some(named) = self.named {
            match self.named(named, brokers, request) {
                // It must go in any case: better to somebody else than not at all.
                Freedom::Fixed(_) if self.must_leave && !self.successors.is_empty() => {}
                decided => return decided,
            }
        }
        if self.must_leave {
            return if self.successors.is_empty() {
                Freedom::Fixed(Reason::NoCandidate)
            } else {
                Freedom::Free
            };
        }
        match request.policy {
            Policy::Primary if !partition.priority_election => {
                Freedom::Fixed(Reason::PriorityElectionDisabled)
            }
            Policy::Primary if at_the_top(partition).len() != 1 => Freedom::Fixed(Reason::NoPrimary),
            _ => Freedom::Free,
        }
    }

    fn named(&self, node: NodeId, brokers: &Brokers, request: &PlanRequest) -> Freedom {
        let replica = self.partition.replicas.iter().find(|replica| replica.node == node);
        let (Some(replica), Some(broker)) = (replica, brokers.find(node)) else {
            return Freedom::Fixed(Reason::NotMember);
        };
        let obstacle = if self.leader == Some(broker) {
            brokers.drained(node).then_some(Obstacle::Drained)
        } else {
            obstacle(replica, brokers, request.replication_lag_bytes_max)
        };
        match obstacle {
            None => Freedom::Named(broker),
            Some(Obstacle::Unreachable) => Freedom::Fixed(Reason::TargetUnreachable),
            Some(Obstacle::Drained) => Freedom::Fixed(Reason::Drained),
            Some(Obstacle::Learner) => Freedom::Fixed(Reason::NotVoter),
            Some(Obstacle::NotReplicating) => Freedom::Fixed(Reason::NotReplicating),
            Some(Obstacle::Lag) => Freedom::Fixed(Reason::TargetLagging),
        }
    }

    /// The replica that priorities want, whatever stands in its way; a drained broker's is not wanted.
    pub(super) fn wanted(&self, brokers: &Brokers) -> Option<&'a ReplicaState> {
        let candidates = self.partition.replicas.iter().filter(|replica| !brokers.drained(replica.node));
        candidates.min_by_key(|replica| rank(replica))
    }

    /// Those who may lead when the policy decides: the successors, and the leader unless it must leave, highest
    /// priority first. A leader without a replica comes last. Never empty for a free partition.
    pub(super) fn seats(&self) -> Vec<usize> {
        let mut seats = self.successors.clone();
        if let Some(leader) = self.leader.filter(|_| !self.must_leave) {
            seats.insert(self.leader_rank, leader);
        }
        seats
    }
}

/// Sorts replicas by priority, highest first.
fn rank(replica: &ReplicaState) -> (Reverse<Priority>, NodeId) {
    (Reverse(replica.priority), replica.node)
}

/// The replicas that share the highest priority.
pub(super) fn at_the_top(partition: &PartitionState) -> Vec<NodeId> {
    let highest = partition.replicas.iter().map(|replica| replica.priority).max();
    let top = partition.replicas.iter().filter(|replica| Some(replica.priority) == highest);
    top.map(|replica| replica.node).collect()
}
