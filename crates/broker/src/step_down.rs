//! To whom a leader should hand its partition over, if to anybody. Pure.
//!
//! [`choose`] answers a rebalance: only replicas with a higher priority than the leader come into question, so a
//! balanced partition stays as it is, and when the primary lags or is away the next one below it is taken.
//! [`successor`] answers a shutdown: the leader goes in any case, so the best of all others is taken.

use std::fmt::Write as _;

use evenkeel_protocol::{LagVerdict, NodeId, PartitionId, Priority, judge_lag};

/// What a leader knows about one replica of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// The broker that holds it.
    pub node: NodeId,
    /// From the distribution.
    pub priority: Priority,
    /// Counts in elections; a learner cannot lead.
    pub voter: bool,
    /// Answers.
    pub reachable: bool,
    /// Log entries that it lacks; `None` while it has not answered this leader yet.
    pub lag_entries: Option<u64>,
    /// Bytes that it lacks; `None` while unknown, and when the log does not hold all of them any more.
    pub lag_bytes: Option<u64>,
}

/// The rules that a hand-over follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether priorities decide who leads.
    pub priority_election: bool,
    /// Most bytes that a new leader may lack before it catches up.
    pub lag_bytes_max: u64,
}

/// What a leader should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Lead on: nobody has a higher priority.
    Stay,
    /// Hand over to one of these, best first. Never empty.
    Candidates(Vec<NodeId>),
    /// Lead on, because nobody who should lead can.
    Refuse {
        /// For the caller to branch on.
        reason: Reason,
        /// A sentence for a person: partition, brokers, what is wrong with each, remedy.
        detail: String,
    },
}

/// Why nobody can take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The best reachable replica lacks too much.
    LagTooHigh,
    /// It has no vote, or has not answered this leader yet.
    NotReplicating,
    /// No better replica answers.
    Unreachable,
    /// Several replicas share the highest priority.
    NoPrimary,
    /// Priorities do not decide here.
    PriorityElectionDisabled,
}

/// To whom `me`, the leader of `partition`, should hand over when leaders are to be rebalanced.
#[must_use]
pub fn choose(partition: PartitionId, me: NodeId, replicas: &[ReplicaView], policy: &Policy) -> Choice {
    if !policy.priority_election {
        let detail = format!(
            "partition {partition}: priority election is switched off on broker {me}; set \
             raft.priority_election = true to rebalance"
        );
        return Choice::Refuse { reason: Reason::PriorityElectionDisabled, detail };
    }
    let mine = replicas.iter().find(|r| r.node == me).map(|r| r.priority);
    let highest = replicas.iter().map(|r| r.priority).max();
    let at_the_top: Vec<NodeId> =
        replicas.iter().filter(|r| Some(r.priority) == highest).map(|r| r.node).collect();
    if at_the_top.len() > 1 {
        let nodes: Vec<String> = at_the_top.iter().map(ToString::to_string).collect();
        let detail = format!(
            "partition {partition}: brokers {} share the highest priority, so it has no primary; give one of \
             them the highest in [[partitioning.fixed]]",
            nodes.join(" and ")
        );
        return Choice::Refuse { reason: Reason::NoPrimary, detail };
    }
    // A leader outside the replica set has no priority: everybody's is higher.
    let better: Vec<&ReplicaView> = replicas.iter().filter(|r| Some(r.priority) > mine).collect();
    if better.is_empty() {
        return Choice::Stay;
    }
    candidates(partition, &better, policy)
}

/// To whom `me`, the leader of `partition`, should hand over before it stops. With priority election off, the
/// replica that lacks least comes first.
#[must_use]
pub fn successor(partition: PartitionId, me: NodeId, replicas: &[ReplicaView], policy: &Policy) -> Choice {
    let others: Vec<&ReplicaView> = replicas.iter().filter(|r| r.node != me).collect();
    if others.is_empty() {
        let detail = format!(
            "partition {partition}: broker {me} holds the only replica; raise cluster.replication_factor to \
             keep the partition available while a broker is stopped"
        );
        return Choice::Refuse { reason: Reason::Unreachable, detail };
    }
    candidates(partition, &others, policy)
}

/// To whom the leader should hand over when somebody else has made the plan: those of `planned` that can take over, in
/// that order.
#[must_use]
pub fn among(
    partition: PartitionId,
    planned: &[NodeId],
    replicas: &[ReplicaView],
    policy: &Policy,
) -> Choice {
    let find = |node: &NodeId| replicas.iter().find(|r| r.node == *node);
    let ordered: Vec<&ReplicaView> = planned.iter().filter_map(find).collect();
    fit(partition, &ordered, policy)
}

/// Why a replica cannot take over now.
enum Obstacle {
    Unreachable,
    Unknown,
    Learner,
    Lag { entries: Option<u64>, bytes: Option<u64> },
}

fn candidates(partition: PartitionId, wanted: &[&ReplicaView], policy: &Policy) -> Choice {
    let mut ordered = wanted.to_vec();
    ordered.sort_by_key(|r| {
        let priority = if policy.priority_election { r.priority } else { Priority(0) };
        (std::cmp::Reverse(priority), r.lag_entries.unwrap_or(u64::MAX), r.node)
    });
    fit(partition, &ordered, policy)
}

fn fit(partition: PartitionId, ordered: &[&ReplicaView], policy: &Policy) -> Choice {
    let fit: Vec<NodeId> = ordered.iter().filter(|r| obstacle(r, policy).is_none()).map(|r| r.node).collect();
    if fit.is_empty() { refuse(partition, ordered, policy) } else { Choice::Candidates(fit) }
}

fn obstacle(replica: &ReplicaView, policy: &Policy) -> Option<Obstacle> {
    if !replica.reachable {
        return Some(Obstacle::Unreachable);
    }
    if !replica.voter {
        return Some(Obstacle::Learner);
    }
    let (entries, bytes) = (replica.lag_entries, replica.lag_bytes);
    match judge_lag(entries, bytes, policy.lag_bytes_max) {
        LagVerdict::WithinLimit => None,
        LagVerdict::TooHigh => Some(Obstacle::Lag { entries, bytes }),
        LagVerdict::NotReplicating => Some(Obstacle::Unknown),
    }
}

fn refuse(partition: PartitionId, ordered: &[&ReplicaView], policy: &Policy) -> Choice {
    let mut lagging = false;
    let mut not_replicating = false;
    let mut detail = format!("partition {partition}: ");
    for (i, replica) in ordered.iter().enumerate() {
        let separator = if i == 0 { "" } else { "; " };
        let _ = write!(detail, "{separator}broker {} (priority {}) ", replica.node, replica.priority);
        let _ = match obstacle(replica, policy) {
            Some(Obstacle::Lag { entries, bytes }) => {
                lagging = true;
                let number =
                    |known: Option<u64>| known.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
                let (entries, bytes) = (number(entries), number(bytes));
                write!(detail, "lacks {entries} entries, {bytes} bytes (at most {})", policy.lag_bytes_max)
            }
            Some(Obstacle::Learner) => {
                not_replicating = true;
                write!(detail, "is still being added and has no vote")
            }
            Some(Obstacle::Unknown) => {
                not_replicating = true;
                write!(detail, "has not answered this leader yet")
            }
            Some(Obstacle::Unreachable) | None => write!(detail, "does not answer"),
        };
    }
    let (reason, remedy) = if lagging {
        let remedy = "wait until atomix_non_replicated_entries falls, or raise the limit: replicationLagThreshold of a \
                      rebalance, transfer.lag_bytes_max of a broker that stops";
        (Reason::LagTooHigh, remedy)
    } else if not_replicating {
        (Reason::NotReplicating, "wait until it takes entries from the leader, then ask again")
    } else {
        (Reason::Unreachable, "start it or restore its connection, then ask again")
    };
    let _ = write!(detail, "; {remedy}");
    Choice::Refuse { reason, detail }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy { priority_election: true, lag_bytes_max: 1 << 20 };

    fn replicas() -> impl Strategy<Value = Vec<ReplicaView>> {
        let one = (any::<bool>(), any::<bool>(), proptest::option::of(0u64..2000), 0u64..(2 << 20));
        proptest::collection::vec(one, 1..6).prop_map(|views| {
            let view =
                |(i, (voter, reachable, lag_entries, lag_bytes)): (usize, (bool, bool, Option<u64>, u64))| {
                    ReplicaView {
                        node: NodeId(i as u64),
                        priority: Priority(i as u32 + 1),
                        voter,
                        reachable,
                        lag_entries,
                        lag_bytes: Some(lag_bytes),
                    }
                };
            views.into_iter().enumerate().map(view).collect()
        })
    }

    proptest! {
        #[test]
        fn candidates_are_better_than_the_leader_fit_and_ordered(views in replicas(), me in 0usize..6) {
            let me = &views[me % views.len()];
            match choose(PartitionId(1), me.node, &views, &POLICY) {
                Choice::Stay => prop_assert_eq!(me.priority, views.last().unwrap().priority),
                Choice::Candidates(nodes) => {
                    prop_assert!(nodes.windows(2).all(|pair| pair[0] > pair[1]));
                    for node in nodes {
                        let view = &views[node.0 as usize];
                        prop_assert!(view.priority > me.priority && view.voter && view.reachable);
                        let judged = judge_lag(view.lag_entries, view.lag_bytes, POLICY.lag_bytes_max);
                        prop_assert_eq!(judged, LagVerdict::WithinLimit);
                    }
                }
                Choice::Refuse { detail, .. } => {
                    prop_assert!(detail.starts_with("partition 1: broker "));
                    prop_assert!(!detail.contains('\n'));
                }
            }
        }

        #[test]
        fn a_successor_is_never_the_leader_itself(views in replicas(), me in 0usize..6) {
            let me = views[me % views.len()].node;
            if let Choice::Candidates(nodes) = successor(PartitionId(1), me, &views, &POLICY) {
                prop_assert!(!nodes.is_empty() && !nodes.contains(&me));
            }
        }
    }
}
