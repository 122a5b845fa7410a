//! How every replica of every group is, from what brokers say of themselves. Pure.
//!
//! Whoever asks takes the statuses of the brokers that answered; all others are away. A group's leader is the replica
//! that claims leadership in the highest epoch, and what the others lack is what that leader says.

use std::collections::{BTreeMap, BTreeSet};

use crate::internal::v1::{BrokerStatus, FollowerLag, ReplicaStatus};
use crate::restart_risk::{GroupStanding, Standing};
use crate::v1::Role;
use crate::{Epoch, LagVerdict, NodeId, PartitionId, judge_lag};

/// The groups that the statuses tell of, in order. A replica that lacks more than `lag_bytes_max` has not caught up.
#[must_use]
pub fn group_standings(statuses: &[BrokerStatus], lag_bytes_max: u64) -> Vec<GroupStanding> {
    let by_node: BTreeMap<NodeId, Broker<'_>> =
        statuses.iter().map(|status| (NodeId(status.node_id), Broker::new(status))).collect();
    let mut groups: BTreeMap<u32, Group<'_>> = BTreeMap::new();
    for (node, broker) in &by_node {
        for (id, replica) in &broker.replicas {
            let group = groups.entry(*id).or_default();
            group.members.extend(replica.replicas.iter().map(|member| NodeId(member.node_id)));
            let epoch = Epoch { term: replica.term, node: *node };
            let newest = group.leader.as_ref().is_none_or(|(known, _)| *known < epoch);
            if replica.role() == Role::Leader && newest {
                group.leader = Some((epoch, *replica));
            }
        }
    }
    let standing_of = |id: u32, group: &Group<'_>, node: NodeId| match by_node.get(&node) {
        None => Standing::Away,
        Some(broker) if broker.stopping => Standing::Stopping,
        Some(broker) => match broker.replicas.get(&id) {
            Some(replica) if replica.role() != Role::Inactive => {
                Standing::Working(lag_of(group.leader.as_ref(), node, lag_bytes_max))
            }
            _ => Standing::Inactive,
        },
    };
    groups
        .iter()
        .map(|(id, group)| GroupStanding {
            id: PartitionId(*id),
            leader: group.leader.as_ref().map(|(epoch, _)| epoch.node),
            replicas: group.members.iter().map(|node| (*node, standing_of(*id, group, *node))).collect(),
        })
        .collect()
}

struct Broker<'a> {
    stopping: bool,
    replicas: BTreeMap<u32, &'a ReplicaStatus>,
}

impl<'a> Broker<'a> {
    fn new(status: &'a BrokerStatus) -> Self {
        let replicas = status.replicas.iter().map(|replica| (replica.partition_id, replica));
        Self { stopping: status.draining, replicas: replicas.collect() }
    }
}

#[derive(Default)]
struct Group<'a> {
    members: BTreeSet<NodeId>,
    leader: Option<(Epoch, &'a ReplicaStatus)>,
}

fn lag_of(leader: Option<&(Epoch, &ReplicaStatus)>, node: NodeId, lag_bytes_max: u64) -> LagVerdict {
    let Some((epoch, leading)) = leader else { return LagVerdict::NotReplicating };
    if epoch.node == node {
        return LagVerdict::WithinLimit;
    }
    // A leader without a connection to it knows only what it lacked before.
    let told = leading.followers.iter().find(|lag| lag.node_id == node.0 && !lag.unreachable);
    told.map_or(LagVerdict::NotReplicating, |FollowerLag { entries, bytes, .. }| {
        judge_lag(*entries, *bytes, lag_bytes_max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internal::v1::ReplicaPriority;

    const LAG_BYTES_MAX: u64 = 100;

    /// A broker with a replica of partition 1, which brokers 0 to 2 hold.
    fn broker(node: u64, role: Role, term: u64, followers: &[(u64, Option<u64>, bool)]) -> BrokerStatus {
        let lag = |&(node_id, bytes, unreachable): &(u64, Option<u64>, bool)| FollowerLag {
            node_id,
            entries: bytes,
            bytes,
            unreachable,
            silent: false,
        };
        let replicas = (0..3).map(|node_id| ReplicaPriority { node_id, priority: 1 }).collect();
        let replica = ReplicaStatus {
            partition_id: 1,
            role: role.into(),
            term,
            followers: followers.iter().map(lag).collect(),
            replicas,
            ..ReplicaStatus::default()
        };
        BrokerStatus { node_id: node, replicas: vec![replica], ..BrokerStatus::default() }
    }

    fn standings(statuses: &[BrokerStatus]) -> (Option<u64>, Vec<Standing>) {
        let groups = group_standings(statuses, LAG_BYTES_MAX);
        assert_eq!(groups.len(), 1);
        let group = &groups[0];
        (group.leader.map(|node| node.0), group.replicas.iter().map(|(_, standing)| *standing).collect())
    }

    const UP_TO_DATE: Standing = Standing::Working(LagVerdict::WithinLimit);

    #[test]
    fn the_newest_leader_tells_what_each_replica_lacks_and_who_does_not_answer_is_away() {
        let follower = |node| broker(node, Role::Follower, 5, &[]);
        let leads = |followers: &[_]| broker(0, Role::Leader, 5, followers);
        let late = Standing::Working(LagVerdict::TooHigh);
        let unknown = Standing::Working(LagVerdict::NotReplicating);
        let both = [(1, Some(0), false), (2, Some(LAG_BYTES_MAX), false)];
        let table = [
            (vec![leads(&both), follower(1), follower(2)], Some(0), [UP_TO_DATE; 3]),
            (vec![leads(&both), follower(1)], Some(0), [UP_TO_DATE, UP_TO_DATE, Standing::Away]),
            (
                vec![
                    leads(&[(1, Some(LAG_BYTES_MAX + 1), false), (2, Some(0), true)]),
                    follower(1),
                    follower(2),
                ],
                Some(0),
                [UP_TO_DATE, late, unknown],
            ),
            (vec![follower(0), follower(1), follower(2)], None, [unknown; 3]),
            // The deposed leader has not noticed yet.
            (
                vec![leads(&both), broker(1, Role::Leader, 6, &[(0, Some(0), false)]), follower(2)],
                Some(1),
                [UP_TO_DATE, UP_TO_DATE, unknown],
            ),
            (
                vec![leads(&both), broker(1, Role::Inactive, 5, &[]), follower(2)],
                Some(0),
                [UP_TO_DATE, Standing::Inactive, UP_TO_DATE],
            ),
            (
                vec![leads(&both), BrokerStatus { draining: true, ..follower(1) }, follower(2)],
                Some(0),
                [UP_TO_DATE, Standing::Stopping, UP_TO_DATE],
            ),
        ];
        for (statuses, leader, expected) in table {
            assert_eq!(standings(&statuses), (leader, expected.to_vec()), "{statuses:?}");
        }
    }

    #[test]
    fn nobody_answering_tells_of_nothing() {
        assert_eq!(group_standings(&[], LAG_BYTES_MAX), []);
    }
}
