//! The sentence about a partition for a person: partition, brokers, numbers, remedy.

use std::collections::BTreeSet;

use evenkeel_protocol::NodeId;

use super::decisions::{Decision, Reason};
use super::plan_request::Policy;
use super::standing::{Freedom, Obstacle, Standing, at_the_top, obstacle};
use super::verdict::Court;

/// What a sentence is made from.
pub(super) struct Explanation<'a, 'b> {
    pub(super) court: &'a Court<'b>,
    pub(super) standing: &'a Standing<'a>,
    pub(super) desired: Option<NodeId>,
    /// Of the desired leader: entries, bytes.
    pub(super) lag: (Option<u64>, Option<u64>),
}

impl Explanation<'_, '_> {
    pub(super) fn sentence(&self, decision: &Decision, reason: Reason) -> String {
        let said = match decision {
            Decision::Move { from, to, .. } => self.moves(*from, *to, reason),
            Decision::Stay => self.stays(reason),
            Decision::Skip => self.skipped(reason),
        };
        format!("partition {}: {said}", self.standing.partition.id)
    }

    fn moves(&self, from: NodeId, to: NodeId, reason: Reason) -> String {
        let lacks = lacks(self.lag);
        let takes_over = format!("broker {to}, which lacks {lacks}, takes over from broker {from}");
        match reason {
            Reason::Misplaced => {
                format!(
                    "broker {to} has the highest priority, lacks {lacks} and takes over from broker {from}"
                )
            }
            Reason::Drained => format!("broker {from} is drained; {takes_over}"),
            Reason::Override => format!("the request names broker {to}; {takes_over}"),
            Reason::Uneven | Reason::Overloaded | Reason::Capped => {
                format!("{}; {takes_over}", self.loads_of(from, to, reason))
            }
            _ => format!("{}; {takes_over}, as the next best", self.obstacles(self.wanted()).0),
        }
    }

    fn loads_of(&self, from: NodeId, to: NodeId, reason: Reason) -> String {
        let court = self.court;
        let led = |node: NodeId| court.brokers.find(node).map_or(0, |broker| court.before.leaders[broker]);
        let owned = |node: NodeId| court.brokers.find(node).map_or(0, |broker| court.before.records[broker]);
        let passed_on = format!("broker {from} passes it on for another that it is given");
        match reason {
            Reason::Uneven if led(from) <= led(to).saturating_add(1) => passed_on,
            Reason::Uneven => {
                format!("broker {from} leads {} partition(s) and broker {to} {}", led(from), led(to))
            }
            Reason::Overloaded if owned(from) <= court.records_optimal => passed_on,
            Reason::Overloaded => format!(
                "broker {from} owns {} records and broker {to} {}, where {} are optimal",
                owned(from),
                owned(to),
                court.records_optimal
            ),
            _ => format!("no broker may lead more than {} partition(s)", self.cap()),
        }
    }

    fn stays(&self, reason: Reason) -> String {
        let court = self.court;
        let Some(leader) = self.standing.leader else { return String::new() };
        let node = court.brokers.at(leader).node;
        let (leaders, records) = (court.after.leaders[leader], court.after.records[leader]);
        let load = match court.request.policy {
            Policy::Records => format!("owns {records} records, where {} are optimal", court.records_optimal),
            _ => format!(
                "leads {leaders} partition(s), where the fewest of any broker are {}",
                court.least_led()
            ),
        };
        match reason {
            Reason::Drained => {
                let primary = court.drained_primary(self.standing).unwrap_or(node);
                format!("its primary, broker {primary}, is drained, and broker {node} is the next best")
            }
            Reason::Capped => format!(
                "broker {node} keeps it, since no better broker may lead more than {} partition(s); raise the cap to \
                 change that",
                self.cap()
            ),
            Reason::EvenAlready => format!("broker {node} keeps it: it {load}"),
            Reason::NoCandidate => format!(
                "broker {node} keeps it: it {load}, but nothing that its replicas allow now makes this more even"
            ),
            _ => format!("broker {node} leads it, as wanted"),
        }
    }

    fn skipped(&self, reason: Reason) -> String {
        let partition = self.standing.partition;
        let desired = self.desired.map_or_else(|| "none".to_owned(), |node| node.to_string());
        match (reason, partition.leader) {
            (Reason::Paused, _) => {
                format!("ownership is paused, so broker {desired} does not get it; resume ownership to go on")
            }
            (Reason::Filtered, _) => "not among the partitions asked for".to_owned(),
            (Reason::NoLeader, Some(leader)) => {
                format!("broker {leader} leads it but does not answer; start it, or wait for an election")
            }
            (Reason::NoLeader, None) => format!(
                "nobody leads it; wait for its election, for which most of the brokers {} must run",
                list(partition.replicas.iter().map(|replica| replica.node))
            ),
            (Reason::PriorityElectionDisabled, _) => {
                "priority election is switched off; set raft.priority_election = true to rebalance".to_owned()
            }
            (Reason::NoPrimary, _) => match at_the_top(partition)[..] {
                [] => "it has no replicas that anybody reports; start its brokers".to_owned(),
                ref top => format!(
                    "brokers {} share the highest priority, so it has no primary; give one of them the highest in \
                     [[partitioning.fixed]]",
                    list(top.iter().copied())
                ),
            },
            (Reason::NotMember, _) => format!(
                "broker {desired} holds no replica of it; name one of {}",
                list(partition.replicas.iter().map(|replica| replica.node))
            ),
            (Reason::Capped, _) => format!(
                "broker {desired} should lead it, but may not lead more than {} partition(s); raise the cap",
                self.cap()
            ),
            (Reason::Drained, _) => {
                format!("broker {desired} is drained and is given nothing; undrain it or name another broker")
            }
            (Reason::NoCandidate, _) => {
                let leader = partition.leader;
                let others = partition.replicas.iter().map(|r| r.node).filter(|node| Some(*node) != leader);
                let others: Vec<NodeId> = others.collect();
                let leader = leader.map_or_else(String::new, |node| node.to_string());
                if others.is_empty() {
                    return format!(
                        "broker {leader} is drained but holds the only replica; raise cluster.replication_factor"
                    );
                }
                format!("broker {leader} is drained but nobody can take over: {}", self.remedied(others))
            }
            _ => self.remedied(self.desired),
        }
    }

    fn cap(&self) -> u32 {
        self.court.request.leaders_per_broker_max.unwrap_or(u32::MAX)
    }

    fn wanted(&self) -> Option<NodeId> {
        match self.standing.freedom {
            Freedom::Free => self.standing.wanted(self.court.brokers).map(|replica| replica.node),
            _ => self.desired,
        }
    }

    /// What stands in the way of each, and what to do about it.
    fn remedied(&self, nodes: impl IntoIterator<Item = NodeId>) -> String {
        let (obstacles, helps) = self.obstacles(nodes);
        let remedy = match helps {
            Helps::LessLag => {
                "wait until atomix_non_replicated_entries falls, or raise replicationLagThreshold"
            }
            Helps::Time => "wait until it takes entries from the leader, then ask again",
            Helps::Repair => "start it or restore its connection, then ask again",
        };
        format!("{obstacles}; {remedy}")
    }

    /// What stands in the way of each, and what helps best.
    fn obstacles(&self, nodes: impl IntoIterator<Item = NodeId>) -> (String, Helps) {
        let lag_bytes_max = self.court.request.replication_lag_bytes_max;
        let mut said = Vec::new();
        let mut helps = Helps::Repair;
        for node in nodes.into_iter().collect::<BTreeSet<_>>() {
            let Some(replica) = self.standing.partition.replicas.iter().find(|r| r.node == node) else {
                continue;
            };
            let lag = (replica.lag_entries, replica.lag_bytes);
            let (what, best) = match obstacle(replica, self.court.brokers, lag_bytes_max) {
                None => continue,
                Some(Obstacle::Unreachable) => ("does not answer".to_owned(), Helps::Repair),
                Some(Obstacle::Drained) => ("is drained".to_owned(), Helps::Repair),
                Some(Obstacle::Learner) => ("is still being added and has no vote".to_owned(), Helps::Time),
                Some(Obstacle::NotReplicating) => {
                    ("has not answered this leader yet".to_owned(), Helps::Time)
                }
                Some(Obstacle::Lag) => {
                    (format!("lacks {} (at most {lag_bytes_max})", lacks(lag)), Helps::LessLag)
                }
            };
            helps = helps.max(best);
            said.push(format!("broker {node} (priority {}) {what}", replica.priority));
        }
        (said.join(", "), helps)
    }
}

/// What makes a replica able to lead; the later ones are easier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Helps {
    Repair,
    Time,
    LessLag,
}

fn lacks(lag: (Option<u64>, Option<u64>)) -> String {
    match lag {
        (Some(0), None | Some(0)) => "nothing".to_owned(),
        (Some(entries), Some(bytes)) => format!("{entries} entries, {bytes} bytes"),
        (Some(entries), None) => format!("{entries} entries, of unknown size"),
        (None, Some(bytes)) => format!("{bytes} bytes"),
        (None, None) => "an unknown amount".to_owned(),
    }
}

fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    nodes.join(", ")
}
