//! What a restart of one broker would cost now. Pure: brokers and gateways draw the groups from what they know, and
//! both judge by this, so that a broker's `/actuator/restart-risk` and its gateway's agree.
//!
//! A broker that restarts is away for a while and comes back with its disk. Meanwhile each of its groups has to do with
//! the other replicas. So a restart is safe when, in every group, *the others that work* make a majority by themselves, or
//! nothing could be read or written, and when *those of them that have caught up* make one too, or what was acknowledged
//! would be on fewer running brokers than a majority, and writes would wait for the others to catch up. A group that the
//! broker leads pauses for a failover in any case; that is no reason against a restart.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{LagVerdict, NodeId, PartitionId, SYSTEM_GROUP};

/// Partitions that a sentence names before it says how many more there are.
const PARTITIONS_NAMED_MAX: usize = 8;

/// How one replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its broker does not answer.
    Away,
    /// Its broker is stopping.
    Stopping,
    /// Its broker answers, but it takes no part: it stopped, or it is being rebuilt and does not count yet.
    Inactive,
    /// It takes part, and lacks so much. A leader lacks nothing.
    Working(LagVerdict),
}

impl Standing {
    fn works(self) -> bool {
        matches!(self, Self::Working(_))
    }

    fn has_caught_up(self) -> bool {
        self == Self::Working(LagVerdict::WithinLimit)
    }
}

/// One group, as far as it is known: a partition, or the system group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStanding {
    /// Which.
    pub id: PartitionId,
    /// Who leads, when somebody does.
    pub leader: Option<NodeId>,
    /// Its whole replica set.
    pub replicas: Vec<(NodeId, Standing)>,
}

/// Why a group is against a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RiskReason {
    /// There is no other replica.
    OnlyReplica,
    /// The other replicas that work are no majority.
    NoMajority,
    /// Nobody leads, so nobody knows what each replica lacks.
    NoLeader,
    /// The other replicas that have caught up are no majority.
    OthersLag,
}

/// What a restart would do to one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupRisk {
    /// 0 is the system group.
    pub partition_id: PartitionId,
    /// The broker leads it.
    pub leads: bool,
    /// It would wait for a failover, or for the transfer that an orderly stop makes of it.
    pub pauses: bool,
    /// It could not be written, nor read but stale, until the broker is back.
    pub loses_availability: bool,
    /// What was acknowledged would be on fewer running brokers than a majority.
    pub loses_durability: bool,
    /// The broker's own replica takes part and has caught up.
    pub recovered: bool,
    /// Replicas that a majority takes.
    pub majority: usize,
    /// Replicas elsewhere that work.
    pub working_elsewhere: usize,
    /// Replicas elsewhere that work and have caught up.
    pub caught_up_elsewhere: usize,
    /// Absent when the group has nothing against it.
    pub reason: Option<RiskReason>,
    /// What it has against it, and what to do about that.
    pub detail: Option<String>,
}

/// What a restart of a broker would cost now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartRisk {
    /// Of which broker.
    pub node_id: NodeId,
    /// No group has anything against it.
    pub safe: bool,
    /// Each of its replicas takes part and has caught up: after a restart, the next broker may follow if it is safe.
    pub recovered: bool,
    /// One sentence for a person.
    pub verdict: String,
    /// Every group that the broker has a replica of, in order.
    pub partitions: Vec<GroupRisk>,
}

/// Judges a restart of `node`, which is no part of groups that do not name it.
#[must_use]
pub fn restart_risk(node: NodeId, groups: &[GroupStanding]) -> RestartRisk {
    let partitions: Vec<GroupRisk> = groups.iter().filter_map(|group| group_risk(node, group)).collect();
    RestartRisk {
        node_id: node,
        safe: partitions.iter().all(|group| group.reason.is_none()),
        recovered: partitions.iter().all(|group| group.recovered),
        verdict: verdict(node, &partitions),
        partitions,
    }
}

fn group_risk(node: NodeId, group: &GroupStanding) -> Option<GroupRisk> {
    let (_, own) = group.replicas.iter().find(|(replica, _)| *replica == node)?;
    let others: Vec<(NodeId, Standing)> =
        group.replicas.iter().filter(|(replica, _)| *replica != node).copied().collect();
    let majority = group.replicas.len() / 2 + 1;
    let working_elsewhere = others.iter().filter(|(_, standing)| standing.works()).count();
    let caught_up_elsewhere = others.iter().filter(|(_, standing)| standing.has_caught_up()).count();
    let reason = if others.is_empty() {
        Some(RiskReason::OnlyReplica)
    } else if working_elsewhere < majority {
        Some(RiskReason::NoMajority)
    } else if group.leader.is_none() {
        Some(RiskReason::NoLeader)
    } else if caught_up_elsewhere < majority {
        Some(RiskReason::OthersLag)
    } else {
        None
    };
    let leads = group.leader == Some(node);
    Some(GroupRisk {
        partition_id: group.id,
        leads,
        pauses: leads,
        loses_availability: matches!(
            reason,
            Some(RiskReason::OnlyReplica | RiskReason::NoMajority | RiskReason::NoLeader)
        ),
        loses_durability: reason.is_some() && caught_up_elsewhere < majority,
        recovered: group.leader.is_some() && own.has_caught_up(),
        majority,
        working_elsewhere,
        caught_up_elsewhere,
        reason,
        detail: reason.map(|reason| detail(reason, node, &others, group.replicas.len())),
    })
}

fn detail(reason: RiskReason, node: NodeId, others: &[(NodeId, Standing)], replicas: usize) -> String {
    let nodes = |wanted: fn(Standing) -> bool| -> Vec<String> {
        let found = others.iter().filter(|(_, standing)| wanted(*standing));
        found.map(|(node, _)| node.to_string()).collect()
    };
    match reason {
        RiskReason::OnlyReplica => {
            format!("broker {node} has the only replica; only a replication factor of 3 or more avoids that")
        }
        RiskReason::NoMajority if replicas == 2 => {
            "both of its two replicas make the majority; only a replication factor of 3 or more avoids that"
                .to_owned()
        }
        RiskReason::NoMajority => {
            let away = nodes(|standing| matches!(standing, Standing::Away | Standing::Stopping));
            let inactive = nodes(|standing| standing == Standing::Inactive);
            let mut remedies = Vec::new();
            if !away.is_empty() {
                remedies.push(format!("start broker {} first", away.join(", ")));
            }
            if !inactive.is_empty() {
                remedies.push(format!(
                    "wait until the replica on broker {} takes part, or see that broker's log",
                    inactive.join(", ")
                ));
            }
            format!("no majority of its {replicas} replicas would be left: {}", remedies.join(" and "))
        }
        RiskReason::NoLeader => "nobody leads it: wait for its election, it takes half a second".to_owned(),
        RiskReason::OthersLag => {
            let lagging = nodes(|standing| standing.works() && !standing.has_caught_up());
            let first = match lagging.is_empty() {
                true => format!("start broker {} first", nodes(|standing| !standing.works()).join(", ")),
                false => format!("wait until broker {} has caught up", lagging.join(", ")),
            };
            format!("too few of its other replicas hold what was acknowledged: {first}")
        }
    }
}

fn verdict(node: NodeId, partitions: &[GroupRisk]) -> String {
    if partitions.is_empty() {
        return format!("broker {node} is safe to restart: it has no replica");
    }
    let against: Vec<&GroupRisk> = partitions.iter().filter(|group| group.reason.is_some()).collect();
    if against.is_empty() {
        let pausing: Vec<&GroupRisk> = partitions.iter().filter(|group| group.pauses).collect();
        let pauses = match pausing.len() {
            0 => "it leads nothing".to_owned(),
            count => format!(
                "{count} that it leads ({}) {} for a failover",
                named(&pausing),
                if count == 1 { "pauses" } else { "pause" }
            ),
        };
        return format!(
            "broker {node} is safe to restart: all {} groups keep a majority that has caught up; {pauses}",
            partitions.len()
        );
    }
    let details: BTreeSet<&str> = against.iter().filter_map(|group| group.detail.as_deref()).collect();
    let losing = |loses: fn(&GroupRisk) -> bool| against.iter().filter(|group| loses(group)).count();
    format!(
        "broker {node} is not safe to restart: {} of {} groups ({}) would lose availability {}, durability {}; {}",
        against.len(),
        partitions.len(),
        named(&against),
        losing(|group| group.loses_availability),
        losing(|group| group.loses_durability),
        details.into_iter().collect::<Vec<_>>().join("; ")
    )
}

fn named(groups: &[&GroupRisk]) -> String {
    let name = |group: &&GroupRisk| match group.partition_id {
        SYSTEM_GROUP => "the system group".to_owned(),
        id => id.to_string(),
    };
    let mut names: Vec<String> = groups.iter().take(PARTITIONS_NAMED_MAX).map(name).collect();
    if groups.len() > PARTITIONS_NAMED_MAX {
        names.push(format!("{} more", groups.len() - PARTITIONS_NAMED_MAX));
    }
    names.join(", ")
}

#[cfg(test)]
#[path = "restart_risk_tests.rs"]
mod tests;
