//! From where a partition goes to what is said about it: decision, reason, alternatives.

use evenkeel_protocol::NodeId;

use super::decisions::{Decision, Hindrance, PartitionDecision, Reason};
use super::explanation::Explanation;
use super::placement::Placement;
use super::plan_request::{PlanRequest, Policy};
use super::records;
use super::standing::{Brokers, Freedom, Obstacle, Standing, obstacle};

/// What each broker leads and owns.
pub(super) struct Loads {
    pub(super) leaders: Vec<u32>,
    pub(super) records: Vec<u64>,
}

impl Loads {
    /// With every partition at its goal.
    pub(super) fn of(standings: &[Standing<'_>], goal: &[Option<usize>], brokers: usize) -> Self {
        let mut loads = Self { leaders: vec![0; brokers], records: vec![0; brokers] };
        for (standing, broker) in standings.iter().zip(goal) {
            if let Some(broker) = *broker {
                loads.leaders[broker] += 1;
                loads.records[broker] = loads.records[broker].saturating_add(standing.partition.records);
            }
        }
        loads
    }
}

/// Everything that decisions are made from.
pub(super) struct Court<'a> {
    pub(super) brokers: &'a Brokers,
    pub(super) request: &'a PlanRequest,
    pub(super) placement: &'a Placement,
    pub(super) before: &'a Loads,
    pub(super) after: &'a Loads,
    pub(super) records_optimal: u64,
    pub(super) paused: bool,
}

impl Court<'_> {
    /// What to do with the `i`th partition.
    pub(super) fn decide(&self, i: usize, standing: &Standing<'_>) -> PartitionDecision {
        let (decision, desired, reason) = self.verdict(i, standing);
        let (decision, reason) = match decision {
            Decision::Move { .. } if self.paused => (Decision::Skip, Reason::Paused),
            decided => (decided, reason),
        };
        let partition = standing.partition;
        let replica = partition.replicas.iter().find(|replica| Some(replica.node) == desired);
        let (lag_entries, lag_bytes) = match desired {
            Some(node) if Some(node) == partition.leader => (Some(0), Some(0)),
            _ => replica.map_or((None, None), |replica| (replica.lag_entries, replica.lag_bytes)),
        };
        let explanation = Explanation { court: self, standing, desired, lag: (lag_entries, lag_bytes) };
        let detail = explanation.sentence(&decision, reason);
        PartitionDecision {
            partition: partition.id,
            current: partition.leader,
            desired,
            lag_entries,
            lag_bytes,
            decision,
            reason,
            hindrance: self.hindrance(standing, reason),
            detail,
        }
    }

    fn hindrance(&self, standing: &Standing<'_>, reason: Reason) -> Option<Hindrance> {
        let partition = standing.partition;
        let others = partition.replicas.iter().filter(|replica| Some(replica.node) != partition.leader);
        let obstacles = others
            .filter(|_| reason == Reason::NoCandidate)
            .filter_map(|replica| obstacle(replica, self.brokers, self.request.replication_lag_bytes_max));
        let hindrances = obstacles.map(|obstacle| match obstacle {
            Obstacle::Unreachable | Obstacle::Drained => Hindrance::Unavailable,
            Obstacle::Learner | Obstacle::NotReplicating => Hindrance::NotReplicating,
            Obstacle::Lag => Hindrance::Lagging,
        });
        hindrances.max()
    }

    fn verdict(&self, i: usize, standing: &Standing<'_>) -> (Decision, Option<NodeId>, Reason) {
        let node = |broker: usize| self.brokers.at(broker).node;
        if let Freedom::Fixed(reason) = standing.freedom {
            return (Decision::Skip, self.out_of_reach(standing, reason), reason);
        }
        if let Some(target) = self.placement.held_back[i] {
            return (Decision::Skip, Some(node(target)), Reason::Capped);
        }
        let (Some(from), Some(to)) = (standing.leader, self.placement.goal[i]) else {
            return (Decision::Skip, None, Reason::NoLeader);
        };
        if from == to {
            return self.stay(standing, from);
        }
        let alternatives = self.alternatives(standing, from, to).into_iter().map(node).collect();
        let reason = self.reason_to_move(standing, from, to);
        (Decision::Move { from: node(from), to: node(to), alternatives }, Some(node(to)), reason)
    }

    /// Whom the request wants for a partition that is left alone.
    fn out_of_reach(&self, standing: &Standing<'_>, reason: Reason) -> Option<NodeId> {
        match reason {
            Reason::Filtered | Reason::NoPrimary | Reason::PriorityElectionDisabled => None,
            _ if standing.named.is_some() => standing.named,
            _ if self.request.policy == Policy::Primary => standing.wanted(self.brokers).map(|r| r.node),
            _ => None,
        }
    }

    fn stay(&self, standing: &Standing<'_>, leader: usize) -> (Decision, Option<NodeId>, Reason) {
        let node = self.brokers.at(leader).node;
        let stay = |reason| (Decision::Stay, Some(node), reason);
        if matches!(standing.freedom, Freedom::Named(_)) {
            return stay(Reason::AlreadyLeader);
        }
        match self.request.policy {
            Policy::Primary => match self.wanted_obstacle(standing) {
                Some((wanted, reason)) if wanted != node => (Decision::Skip, Some(wanted), reason),
                _ if standing.wanted(self.brokers).is_some_and(|r| r.node != node) => stay(Reason::Capped),
                _ if self.drained_primary(standing).is_some() => stay(Reason::Drained),
                _ => stay(Reason::AlreadyLeader),
            },
            Policy::EvenCount => {
                let least = self.least_led();
                let even = self.after.leaders[leader] <= least.saturating_add(1);
                stay(if even { Reason::EvenAlready } else { Reason::NoCandidate })
            }
            Policy::Records => {
                let most = self.records_optimal.saturating_add(records::tolerance(self.records_optimal));
                let even = self.after.records[leader] <= most;
                stay(if even { Reason::EvenAlready } else { Reason::NoCandidate })
            }
        }
    }

    /// Fewest leaders, after the plan, of a broker that may lead.
    pub(super) fn least_led(&self) -> u32 {
        let brokers = self.brokers.iter().zip(&self.after.leaders);
        let may_lead = brokers.filter(|(broker, _)| broker.healthy && !broker.drained);
        may_lead.map(|(_, leaders)| *leaders).min().unwrap_or(0)
    }

    /// The primary, when its broker is drained.
    pub(super) fn drained_primary(&self, standing: &Standing<'_>) -> Option<NodeId> {
        let primary = standing.partition.replicas.iter().max_by_key(|replica| replica.priority)?;
        self.brokers.drained(primary.node).then_some(primary.node)
    }

    /// The replica that priorities want and why it cannot lead, when it cannot and does not.
    fn wanted_obstacle(&self, standing: &Standing<'_>) -> Option<(NodeId, Reason)> {
        let wanted = standing.wanted(self.brokers)?;
        if Some(wanted.node) == standing.partition.leader {
            return None;
        }
        let obstacle = obstacle(wanted, self.brokers, self.request.replication_lag_bytes_max)?;
        let reason = match obstacle {
            Obstacle::Unreachable => Reason::PrimaryUnreachable,
            Obstacle::Drained => Reason::Drained,
            Obstacle::Learner => Reason::NotVoter,
            Obstacle::NotReplicating => Reason::NotReplicating,
            Obstacle::Lag => Reason::PrimaryLagging,
        };
        Some((wanted.node, reason))
    }

    fn reason_to_move(&self, standing: &Standing<'_>, from: usize, to: usize) -> Reason {
        if matches!(standing.freedom, Freedom::Named(_)) {
            return Reason::Override;
        }
        if standing.must_leave {
            return Reason::Drained;
        }
        match self.request.policy {
            Policy::Primary => match self.wanted_obstacle(standing) {
                Some((_, reason)) => reason,
                None if standing.wanted(self.brokers).is_some_and(|r| r.node == self.brokers.at(to).node) => {
                    Reason::Misplaced
                }
                None => Reason::Capped,
            },
            Policy::EvenCount => Reason::Uneven,
            Policy::Records if self.over_cap(from) => Reason::Capped,
            Policy::Records => Reason::Overloaded,
        }
    }

    fn over_cap(&self, broker: usize) -> bool {
        self.request.leaders_per_broker_max.is_some_and(|cap| self.before.leaders[broker] > cap)
    }

    /// Who else would improve things, best first.
    fn alternatives(&self, standing: &Standing<'_>, from: usize, to: usize) -> Vec<usize> {
        if matches!(standing.freedom, Freedom::Named(_)) {
            return Vec::new();
        }
        let has_room = |broker: usize| {
            self.request.leaders_per_broker_max.is_none_or(|cap| self.after.leaders[broker] < cap)
        };
        let better = match self.request.policy {
            Policy::Primary if !standing.must_leave => &standing.successors[..standing.leader_rank],
            _ => &standing.successors[..],
        };
        let load = |broker: usize| match self.request.policy {
            Policy::Primary => 0,
            Policy::EvenCount => u64::from(self.after.leaders[broker]),
            Policy::Records => self.after.records[broker],
        };
        let improves = |broker: usize| {
            standing.must_leave
                || has_room(broker) && (self.request.policy == Policy::Primary || load(broker) < load(from))
        };
        let mut others: Vec<usize> =
            better.iter().copied().filter(|broker| *broker != to && improves(*broker)).collect();
        // Stable: among equals the order of priorities stays.
        others.sort_by_key(|broker| (!has_room(*broker), load(*broker)));
        others
    }
}
