//! Who led each partition lately, as this gateway saw it. Kept in memory: it begins anew with the gateway.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use evenkeel_protocol::{Epoch, NodeId, PartitionId};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::rebalance_record::timestamp;
use crate::topology::{SeenLeader, SharedTopology, Topology};

/// Of each partition; older ones are forgotten.
const LEADERSHIPS_KEPT_MAX: usize = 50;

/// A leadership, or a time without one, from its beginning on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leadership {
    /// When this gateway saw it, RFC 3339.
    pub(crate) at: String,
    /// `None`: nobody led.
    pub(crate) leader: Option<NodeId>,
    /// Of the leadership; without a leader, of the last one.
    pub(crate) term: Option<u64>,
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaderships(Arc<Mutex<BTreeMap<PartitionId, Seen>>>);

#[derive(Debug, Default)]
struct Seen {
    last: SeenLeader,
    /// Oldest first.
    kept: VecDeque<Leadership>,
}

impl Leaderships {
    /// Takes every view in that is published, until no more are.
    pub(crate) async fn follow(self, mut topology: watch::Receiver<SharedTopology>) {
        while topology.changed().await.is_ok() {
            let view = topology.borrow_and_update().clone();
            self.take(&view, SystemTime::now());
        }
    }

    fn take(&self, view: &Topology, now: SystemTime) {
        let mut all = self.0.lock();
        for partition in &view.partitions {
            let seen = all.entry(partition.id).or_default();
            if seen.last == partition.seen() {
                continue;
            }
            seen.last = partition.seen();
            if seen.kept.len() == LEADERSHIPS_KEPT_MAX {
                seen.kept.pop_front();
            }
            seen.kept.push_back(Leadership {
                at: timestamp(now),
                leader: partition.leader,
                term: partition.epoch.map(|Epoch { term, .. }| term),
            });
        }
    }

    /// Newest first.
    pub(crate) fn of(&self, partition: PartitionId) -> Vec<Leadership> {
        let all = self.0.lock();
        all.get(&partition).map(|seen| seen.kept.iter().rev().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::PartitionView;

    fn led(leader: Option<u64>, term: u64) -> Topology {
        let partition = PartitionView {
            id: PartitionId(1),
            leader: leader.map(NodeId),
            epoch: Some(Epoch { term, node: NodeId(0) }),
            primary: None,
            replicas: Vec::new(),
            records: 0,
            counted: true,
        };
        Topology { partitions_count: 1, partitions: vec![partition], ..Topology::default() }
    }

    fn told(leaderships: &Leaderships) -> Vec<(Option<u64>, Option<u64>)> {
        leaderships.of(PartitionId(1)).iter().map(|l| (l.leader.map(|node| node.0), l.term)).collect()
    }

    #[test]
    fn each_change_of_leadership_is_kept_once_and_the_newest_comes_first() {
        let leaderships = Leaderships::default();
        let now = SystemTime::now();
        for (leader, term) in
            [(Some(0), 1), (Some(0), 1), (None, 1), (Some(2), 3), (Some(2), 3), (Some(2), 4)]
        {
            leaderships.take(&led(leader, term), now);
        }
        let expected = [(Some(2), Some(4)), (Some(2), Some(3)), (None, Some(1)), (Some(0), Some(1))];
        assert_eq!(told(&leaderships), expected);
        assert!(leaderships.of(PartitionId(2)).is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let leaderships = Leaderships::default();
        for term in 1..=LEADERSHIPS_KEPT_MAX as u64 + 3 {
            leaderships.take(&led(Some(0), term), SystemTime::now());
        }
        let told = told(&leaderships);
        assert_eq!(told.len(), LEADERSHIPS_KEPT_MAX);
        assert_eq!(told.last(), Some(&(Some(0), Some(4))));
    }
}
