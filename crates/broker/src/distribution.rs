//! Which brokers hold a replica of which partition, and with which priority. Pure.
//!
//! Every broker and gateway computes the same table from the same configuration, so nobody has to be asked.
//!
//! **Round-robin.** `n` brokers in a ring, sorted by id. The replicas of partition `p` are the brokers
//! `(p−1+j) mod n` for `j = 0..RF`. `j = 0` is the primary, priority RF. The partitions led by one broker are
//! thus `p, p+n, p+2n, …`; `b = ⌊(p−1)/n⌋` numbers them. What decides who inherits from a dead broker is the
//! order of the others, which alternates with `b` so that inheritance spreads:
//!
//! | `b mod (RF−1)` | order of the followers' ring offsets, highest priority first (RF = 4) |
//! | --- | --- |
//! | 0 | 1, 2, 3: upwards from 1 |
//! | 1 | 3, 2, 1: downwards from RF−1 |
//! | 2 | 2, 3, 1: upwards from 2, wrapping |
//! | 3 … | downwards from RF−2, upwards from 3, and so on |
//!
//! Up to RF = 3 this is plain alternation of upwards and downwards. From RF = 4 on plain alternation would let
//! only the two ring neighbours inherit; the turning start makes each of the RF−1 followers the heir of
//! equally many of the dead broker's partitions, give or take one. That is as even as it can be: nobody else
//! holds a replica.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_protocol::{NodeId, PartitionId, Priority};

/// Most voters of the system group: more would slow its writes and add little safety.
pub const SYSTEM_REPLICAS_MAX: usize = 5;

/// A broker's copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The broker that holds it.
    pub node: NodeId,
    /// Higher leads.
    pub priority: Priority,
}

/// One partition of a fixed distribution, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedPartition {
    /// Which partition.
    pub partition: PartitionId,
    /// Its brokers. Either all carry a priority, or none does: then the partition has no primary, and the
    /// first in the list ranks highest in elections.
    pub nodes: Vec<(NodeId, Option<Priority>)>,
}

/// Why replicas cannot be laid out as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DistributionError {
    /// Nothing to distribute.
    #[error("cluster.partitions = 0: there must be at least one partition; set 1 or more")]
    NoPartitions,
    /// No copy at all.
    #[error("cluster.replication_factor = 0: each partition needs at least one replica; set 1 or more")]
    NoReplicas,
    /// More copies than brokers.
    #[error(
        "cluster.replication_factor = {replication_factor}: the cluster has only {brokers} broker(s); set at \
         most {brokers}, or add brokers to cluster.brokers"
    )]
    TooFewBrokers {
        /// Copies asked for.
        replication_factor: u32,
        /// Brokers there are.
        brokers: usize,
    },
    /// A partition that does not exist.
    #[error(
        "partitioning.fixed: partition_id = {partition} is outside 1..={partitions}; correct it, or raise \
         cluster.partitions"
    )]
    PartitionOutside {
        /// The partition named.
        partition: PartitionId,
        /// How many there are.
        partitions: u32,
    },
    /// The same partition twice.
    #[error("partitioning.fixed: partition_id = {0} appears twice; remove one of the entries")]
    PartitionTwice(PartitionId),
    /// A partition without an entry.
    #[error(
        "partitioning.fixed: partition {0} has no entry; add [[partitioning.fixed]] with partition_id = {0}"
    )]
    PartitionMissing(PartitionId),
    /// A replica on a broker that is not part of the cluster.
    #[error(
        "partition {partition}: node {node} is not in the cluster of {brokers} broker(s); use an id from \
         cluster.brokers in [[partitioning.fixed]]"
    )]
    NodeOutside {
        /// Where it is named.
        partition: PartitionId,
        /// The unknown broker.
        node: NodeId,
        /// Cluster size.
        brokers: usize,
    },
    /// The same broker twice.
    #[error(
        "partition {partition}: node {node} is listed twice; list each broker once in [[partitioning.fixed]]"
    )]
    NodeTwice {
        /// Where it is named.
        partition: PartitionId,
        /// The broker named twice.
        node: NodeId,
    },
    /// Too few or too many copies.
    #[error(
        "partition {partition}: {found} broker(s) given, but cluster.replication_factor = \
         {replication_factor}; list exactly {replication_factor} in [[partitioning.fixed]]"
    )]
    WrongReplicaCount {
        /// The partition.
        partition: PartitionId,
        /// Distinct brokers listed.
        found: usize,
        /// Brokers needed.
        replication_factor: u32,
    },
    /// Two replicas that want leadership equally.
    #[error(
        "partition {partition}: priority {priority} given to both broker {first} and broker {second}; make \
         them different in [[partitioning.fixed]]"
    )]
    PriorityTwice {
        /// The partition.
        partition: PartitionId,
        /// The shared priority.
        priority: Priority,
        /// Who has it.
        first: NodeId,
        /// Who has it, too.
        second: NodeId,
    },
    /// Zero is what "not a replica" would be.
    #[error("partition {partition}: node {node} has priority 0; give it 1 or more in [[partitioning.fixed]]")]
    PriorityZero {
        /// The partition.
        partition: PartitionId,
        /// The broker.
        node: NodeId,
    },
    /// Priorities for some replicas only.
    #[error(
        "partition {partition}: node {node} has no priority while others have one; write \"{node}=PRIORITY\" \
         in [[partitioning.fixed]], or leave all priorities out"
    )]
    PriorityMissing {
        /// The partition.
        partition: PartitionId,
        /// The broker without one.
        node: NodeId,
    },
}

/// The replicas of every partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Index 0 is partition 1. Each partition's replicas from highest to lowest priority.
    replicas: Vec<Vec<Replica>>,
}

impl Distribution {
    /// Lays `partitions` out over `nodes` as the module describes. `nodes` may come in any order.
    ///
    /// # Errors
    /// When there are no partitions or fewer brokers than replicas.
    pub fn round_robin(
        nodes: &[NodeId],
        partitions: u32,
        replication_factor: u32,
    ) -> Result<Self, DistributionError> {
        let ring: Vec<NodeId> = nodes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        check_sizes(ring.len(), partitions, replication_factor)?;
        let n = ring.len();
        let replicas = (0..partitions as usize)
            .map(|index| {
                let offsets =
                    std::iter::once(0).chain(follower_offsets(index / n, replication_factor as usize));
                let priorities = (1..=replication_factor).rev();
                offsets
                    .zip(priorities)
                    .map(|(offset, priority)| Replica {
                        node: ring[(index + offset) % n],
                        priority: Priority(priority),
                    })
                    .collect()
            })
            .collect();
        Ok(Self { replicas })
    }

    /// Takes the replicas as configured. `priorities_differ` demands that no priority is given twice in a
    /// partition: needed whenever priorities decide elections.
    ///
    /// # Errors
    /// When a partition is missing, named twice or outside, or its replicas are not
    /// `replication_factor` distinct brokers of `nodes` with proper priorities.
    pub fn fixed(
        nodes: &[NodeId],
        partitions: u32,
        replication_factor: u32,
        fixed: &[FixedPartition],
        priorities_differ: bool,
    ) -> Result<Self, DistributionError> {
        let nodes: BTreeSet<NodeId> = nodes.iter().copied().collect();
        check_sizes(nodes.len(), partitions, replication_factor)?;
        let mut by_partition = BTreeMap::new();
        for entry in fixed {
            let partition = entry.partition;
            if !(1..=partitions).contains(&partition.0) {
                return Err(DistributionError::PartitionOutside { partition, partitions });
            }
            let replicas = fixed_replicas(entry, &nodes, replication_factor, priorities_differ)?;
            if by_partition.insert(partition, replicas).is_some() {
                return Err(DistributionError::PartitionTwice(partition));
            }
        }
        let replicas = (1..=partitions)
            .map(PartitionId)
            .map(|p| by_partition.remove(&p).ok_or(DistributionError::PartitionMissing(p)))
            .collect::<Result<_, _>>()?;
        Ok(Self { replicas })
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions_count(&self) -> u32 {
        self.replicas.len() as u32
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + '_ {
        (1..=self.partitions_count()).map(PartitionId)
    }

    /// A partition's replicas, highest priority first; empty when there is no such partition.
    #[must_use]
    pub fn replicas(&self, partition: PartitionId) -> &[Replica] {
        let index = (partition.0 as usize).checked_sub(1);
        index.and_then(|i| self.replicas.get(i)).map_or(&[], Vec::as_slice)
    }

    /// The replica with the single highest priority; `None` when the highest priority is shared.
    #[must_use]
    pub fn primary(&self, partition: PartitionId) -> Option<NodeId> {
        match self.replicas(partition) {
            [first, second, ..] if first.priority == second.priority => None,
            [first, ..] => Some(first.node),
            [] => None,
        }
    }

    /// The partitions that `node` holds a replica of, in order.
    pub fn partitions_of(&self, node: NodeId) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions().filter(move |p| self.rank_of(*p, node).is_some())
    }

    /// The priority of `node` in `partition`; `None` when it holds no replica.
    #[must_use]
    pub fn priority(&self, partition: PartitionId, node: NodeId) -> Option<Priority> {
        self.replicas(partition).iter().find(|r| r.node == node).map(|r| r.priority)
    }

    /// Who holds the system group, group 0: the first brokers by id, an odd number of them, at most
    /// [`SYSTEM_REPLICAS_MAX`]; the lower the id, the higher the priority.
    #[must_use]
    pub fn system_group(nodes: &[NodeId]) -> Vec<Replica> {
        let nodes: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let most = nodes.len().min(SYSTEM_REPLICAS_MAX);
        // An even one more would make every majority larger and save no failure.
        let count = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
        let priorities = (1..=count as u32).rev();
        nodes.into_iter().zip(priorities).map(|(node, p)| Replica { node, priority: Priority(p) }).collect()
    }

    /// How many replicas come before `node` in elections; 0 is the highest priority. Equal priorities rank in
    /// the order of the configuration, so ranks never collide.
    #[must_use]
    pub fn rank_of(&self, partition: PartitionId, node: NodeId) -> Option<u32> {
        self.replicas(partition).iter().position(|r| r.node == node).map(|rank| rank as u32)
    }
}

fn check_sizes(brokers: usize, partitions: u32, replication_factor: u32) -> Result<(), DistributionError> {
    if partitions == 0 {
        return Err(DistributionError::NoPartitions);
    }
    if replication_factor == 0 {
        return Err(DistributionError::NoReplicas);
    }
    if replication_factor as usize > brokers {
        return Err(DistributionError::TooFewBrokers { replication_factor, brokers });
    }
    Ok(())
}

/// Ring offsets 1..RF of the followers, highest priority first, of a broker's `block`-th led partition.
fn follower_offsets(block: usize, replication_factor: usize) -> impl Iterator<Item = usize> {
    let followers = replication_factor - 1;
    let turn = if followers == 0 { 0 } else { block % followers };
    let upwards = turn.is_multiple_of(2);
    let start = if upwards { turn / 2 } else { followers - turn.div_ceil(2) };
    (0..followers).map(move |i| {
        let step = if upwards { start + i } else { start + followers - i };
        1 + step % followers
    })
}

fn fixed_replicas(
    entry: &FixedPartition,
    nodes: &BTreeSet<NodeId>,
    replication_factor: u32,
    priorities_differ: bool,
) -> Result<Vec<Replica>, DistributionError> {
    let partition = entry.partition;
    let any_priority = entry.nodes.iter().any(|(_, priority)| priority.is_some());
    let mut replicas: Vec<Replica> = Vec::with_capacity(entry.nodes.len());
    for &(node, priority) in &entry.nodes {
        if !nodes.contains(&node) {
            return Err(DistributionError::NodeOutside { partition, node, brokers: nodes.len() });
        }
        if replicas.iter().any(|r| r.node == node) {
            return Err(DistributionError::NodeTwice { partition, node });
        }
        let priority = match priority {
            Some(Priority(0)) => return Err(DistributionError::PriorityZero { partition, node }),
            Some(priority) => priority,
            None if any_priority => return Err(DistributionError::PriorityMissing { partition, node }),
            None => Priority(1),
        };
        let same = replicas.iter().find(|r| r.priority == priority);
        if let (Some(first), true, true) = (same, any_priority, priorities_differ) {
            return Err(DistributionError::PriorityTwice {
                partition,
                priority,
                first: first.node,
                second: node,
            });
        }
        replicas.push(Replica { node, priority });
    }
    if replicas.len() != replication_factor as usize {
        let found = replicas.len();
        return Err(DistributionError::WrongReplicaCount { partition, found, replication_factor });
    }
    // Stable, so that equals keep the order of the configuration.
    replicas.sort_by_key(|r| std::cmp::Reverse(r.priority));
    Ok(replicas)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(n: u64) -> Vec<NodeId> {
        (0..n).map(NodeId).collect()
    }

    fn table(distribution: &Distribution) -> String {
        let line = |p: PartitionId| {
            let replicas = distribution.replicas(p).iter();
            let replicas: Vec<String> = replicas.map(|r| format!("{}:{}", r.node, r.priority)).collect();
            format!("p{p} {}", replicas.join(" "))
        };
        distribution.partitions().map(line).collect::<Vec<_>>().join("\n")
    }

    fn round_robin(n: u64, partitions: u32, replication_factor: u32) -> Distribution {
        Distribution::round_robin(&nodes(n), partitions, replication_factor).unwrap()
    }

    #[test]
    fn the_system_group_has_an_odd_number_of_voters_up_to_five() {
        let counts: Vec<usize> = (1..=7).map(|n| Distribution::system_group(&nodes(n)).len()).collect();
        assert_eq!(counts, [1, 1, 3, 3, 5, 5, 5]);
        let first = Distribution::system_group(&nodes(3))[0];
        assert_eq!((first.node, first.priority), (NodeId(0), Priority(3)));
    }

    #[test]
    fn three_brokers_three_replicas_match_the_agreed_table() {
        let golden = "p1 0:3 1:2 2:1\np2 1:3 2:2 0:1\np3 2:3 0:2 1:1\np4 0:3 2:2 1:1\np5 1:3 0:2 2:1\n\
                      p6 2:3 1:2 0:1\np7 0:3 1:2 2:1";
        assert_eq!(table(&round_robin(3, 7, 3)), golden);
    }

    #[test]
    fn five_brokers_three_replicas_match_the_agreed_table() {
        let golden = "p1 0:3 1:2 2:1\np2 1:3 2:2 3:1\np3 2:3 3:2 4:1\np4 3:3 4:2 0:1\np5 4:3 0:2 1:1\n\
                      p6 0:3 2:2 1:1\np7 1:3 3:2 2:1\np8 2:3 4:2 3:1\np9 3:3 0:2 4:1\np10 4:3 1:2 0:1\n\
                      p11 0:3 1:2 2:1";
        assert_eq!(table(&round_robin(5, 11, 3)), golden);
    }

    #[test]
    fn with_four_replicas_each_follower_comes_first_in_turn() {
        let golden = "p1 0:4 1:3 2:2 3:1\np2 1:4 2:3 3:2 0:1\np3 2:4 3:3 0:2 1:1\np4 3:4 0:3 1:2 2:1\n\
                      p5 0:4 3:3 2:2 1:1\np6 1:4 0:3 3:2 2:1\np7 2:4 1:3 0:2 3:1\np8 3:4 2:3 1:2 0:1\n\
                      p9 0:4 2:3 3:2 1:1\np10 1:4 3:3 0:2 2:1\np11 2:4 0:3 1:2 3:1\np12 3:4 1:3 2:2 0:1\n\
                      p13 0:4 1:3 2:2 3:1";
        assert_eq!(table(&round_robin(4, 13, 4)), golden);
    }

    #[test]
    fn two_replicas_and_one_replica_need_no_turning() {
        assert_eq!(table(&round_robin(3, 4, 2)), "p1 0:2 1:1\np2 1:2 2:1\np3 2:2 0:1\np4 0:2 1:1");
        assert_eq!(table(&round_robin(2, 3, 1)), "p1 0:1\np2 1:1\np3 0:1");
    }

    #[test]
    fn the_order_in_which_brokers_are_listed_does_not_matter() {
        let mixed = Distribution::round_robin(&[NodeId(2), NodeId(0), NodeId(1)], 7, 3).unwrap();
        assert_eq!(mixed, round_robin(3, 7, 3));
    }

    #[test]
    fn accessors_answer_for_replicas_and_for_strangers() {
        let d = round_robin(5, 5, 3);
        assert_eq!(d.primary(PartitionId(4)), Some(NodeId(3)));
        assert_eq!(d.priority(PartitionId(4), NodeId(4)), Some(Priority(2)));
        assert_eq!(d.rank_of(PartitionId(4), NodeId(0)), Some(2));
        assert_eq!(
            (d.rank_of(PartitionId(4), NodeId(1)), d.priority(PartitionId(4), NodeId(1))),
            (None, None)
        );
        assert_eq!(d.partitions_of(NodeId(0)).collect::<Vec<_>>(), [1, 4, 5].map(PartitionId));
        for outside in [0, 6] {
            assert!(d.replicas(PartitionId(outside)).is_empty());
            assert_eq!(d.primary(PartitionId(outside)), None);
        }
    }

    /// Partition and its nodes with their priorities.
    type Entries<'a> = &'a [(u32, &'a [(u64, Option<u32>)])];

    fn fixed(entries: Entries<'_>) -> Vec<FixedPartition> {
        let entry = |(p, nodes): &(u32, &[(u64, Option<u32>)])| FixedPartition {
            partition: PartitionId(*p),
            nodes: nodes.iter().map(|(n, priority)| (NodeId(*n), priority.map(Priority))).collect(),
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn a_fixed_distribution_keeps_sparse_priorities_and_ranks_by_them() {
        let entries = fixed(&[(1, &[(0, Some(1)), (1, Some(100)), (2, Some(7))])]);
        let d = Distribution::fixed(&nodes(3), 1, 3, &entries, true).unwrap();
        assert_eq!(table(&d), "p1 1:100 2:7 0:1");
        assert_eq!(d.primary(PartitionId(1)), Some(NodeId(1)));
    }

    #[test]
    fn without_priorities_there_is_no_primary_and_the_list_order_ranks() {
        let entries = fixed(&[(1, &[(2, None), (0, None), (1, None)])]);
        let d = Distribution::fixed(&nodes(3), 1, 3, &entries, true).unwrap();
        assert_eq!(d.primary(PartitionId(1)), None);
        let ranks = [0, 1, 2].map(|n| d.rank_of(PartitionId(1), NodeId(n)).unwrap());
        assert_eq!(ranks, [1, 2, 0]);
    }

    #[test]
    fn equal_priorities_are_allowed_only_when_priorities_do_not_decide() {
        let entries = fixed(&[(1, &[(0, Some(3)), (2, Some(3)), (1, Some(1))])]);
        let refused = Distribution::fixed(&nodes(3), 1, 3, &entries, true).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "partition 1: priority 3 given to both broker 0 and broker 2; make them different in \
             [[partitioning.fixed]]"
        );
        let allowed = Distribution::fixed(&nodes(3), 1, 3, &entries, false).unwrap();
        assert_eq!(allowed.primary(PartitionId(1)), None);
    }

    #[test]
    fn faulty_fixed_distributions_are_refused_with_place_value_and_remedy() {
        let good: &[(u64, Option<u32>)] = &[(0, Some(2)), (1, Some(1))];
        let cases: [(Entries<'_>, &str); 8] = [
            (&[(1, good)], "partitioning.fixed: partition 2 has no entry; add"),
            (&[(1, good), (1, good)], "partition_id = 1 appears twice; remove"),
            (&[(1, good), (3, good)], "partition_id = 3 is outside 1..=2; correct"),
            (&[(1, &[(0, Some(2)), (0, Some(1))])], "partition 1: node 0 is listed twice; list"),
            (&[(1, &[(0, Some(2)), (7, Some(1))])], "partition 1: node 7 is not in the cluster of 3"),
            (&[(1, &[(0, Some(2))])], "partition 1: 1 broker(s) given, but cluster.replication_factor = 2;"),
            (&[(1, &[(0, Some(2)), (1, None)])], "partition 1: node 1 has no priority while others have"),
            (&[(1, &[(0, Some(0)), (1, Some(1))])], "partition 1: node 0 has priority 0; give it 1 or more"),
        ];
        for (entries, message) in cases {
            let refused =
                Distribution::fixed(&nodes(3), 2, 2, &fixed(entries), true).unwrap_err().to_string();
            assert!(refused.contains(message), "{refused}");
            assert!(!refused.contains('\n') && !refused.contains("  "), "{refused:?}");
        }
    }

    #[test]
    fn more_replicas_than_brokers_are_refused() {
        let refused = Distribution::round_robin(&nodes(2), 4, 3).unwrap_err();
        assert_eq!(refused, DistributionError::TooFewBrokers { replication_factor: 3, brokers: 2 });
    }

    /// How many partitions each broker leads when each goes to its highest-ranked replica on a live broker.
    fn leaderships(d: &Distribution, n: u64, dead: Option<NodeId>) -> Vec<usize> {
        let mut counts = vec![0; n as usize];
        for p in d.partitions() {
            if let Some(leader) = d.replicas(p).iter().find(|r| Some(r.node) != dead) {
                counts[leader.node.0 as usize] += 1;
            }
        }
        counts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn every_partition_has_distinct_brokers_with_priorities_rf_down_to_1(
            n in 1u64..=16, partitions in 1u32..=200, rf in 1u32..=16,
        ) {
            let rf = rf.min(n as u32);
            let d = round_robin(n, partitions, rf);
            for p in d.partitions() {
                let replicas = d.replicas(p);
                let distinct: BTreeSet<_> = replicas.iter().map(|r| r.node).collect();
                prop_assert_eq!(distinct.len(), rf as usize);
                prop_assert!(replicas.iter().map(|r| r.priority.0).eq((1..=rf).rev()));
            }
        }

        #[test]
        fn leaders_differ_by_at_most_one_between_brokers(
            n in 1u64..=16, partitions in 1u32..=200, rf in 1u32..=16,
        ) {
            let counts = leaderships(&round_robin(n, partitions, rf.min(n as u32)), n, None);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
        }

        /// What a dead broker led can only go to brokers that share those partitions with it: its RF−1
        /// successors in the ring. As even as replicas allow means: among those, the numbers inherited differ
        /// by at most one, and nobody else's leaderships change.
        #[test]
        fn a_dead_brokers_leaderships_spread_evenly_over_those_that_hold_replicas(
            n in 2u64..=16, partitions in 1u32..=200, rf in 2u32..=16, dead in 0u64..16,
        ) {
            let (rf, dead) = (rf.min(n as u32), dead % n);
            let d = round_robin(n, partitions, rf);
            let before = leaderships(&d, n, None);
            let after = leaderships(&d, n, Some(NodeId(dead)));
            let inherited = |broker: u64| after[broker as usize] - before[broker as usize];
            let heirs: Vec<usize> = (1..u64::from(rf)).map(|j| inherited((dead + j) % n)).collect();
            prop_assert!(heirs.iter().max().unwrap() - heirs.iter().min().unwrap() <= 1, "{:?}", heirs);
            prop_assert_eq!(heirs.iter().sum::<usize>(), before[dead as usize]);
            for stranger in u64::from(rf)..n {
                prop_assert_eq!(inherited((dead + stranger) % n), 0);
            }
        }

        #[test]
        fn up_to_three_replicas_the_others_alternate_between_ring_order_and_its_reverse(
            n in 1u64..=16, partitions in 1u32..=200, rf in 1u32..=3,
        ) {
            let rf = rf.min(n as u32);
            let d = round_robin(n, partitions, rf);
            for p in d.partitions() {
                let index = u64::from(p.0 - 1);
                for j in 1..u64::from(rf) {
                    let node = NodeId((index + j) % n);
                    let expected = if (index / n).is_multiple_of(2) { u64::from(rf) - j } else { j };
                    prop_assert_eq!(d.priority(p, node), Some(Priority(expected as u32)));
                }
            }
        }
    }
}
