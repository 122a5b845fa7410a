//! A look inside a running broker, for whoever runs it within its own process: a simulation checks its invariants so.

use evenkeel_protocol::{Epoch, NodeId, PartitionId};
use evenkeel_raft_storage::PartitionReader;
use evenkeel_raft_storage::types::raft::LogId;
use openraft::async_runtime::WatchReceiver;

use crate::replica::Replica;
use crate::replicas::Replicas;

/// Cheap handle.
#[derive(Clone)]
pub struct Observer(Replicas);

/// One replica as it is at this moment. Log positions are indexes, 0 for none.
#[derive(Clone)]
pub struct Observed {
    pub partition: PartitionId,
    pub term: u64,
    /// In which epoch it believes to lead.
    pub leads: Option<Epoch>,
    /// Why it takes part no more.
    pub stopped: Option<String>,
    pub purged: u64,
    pub snapshot: u64,
    pub applied: u64,
    pub committed: u64,
    /// Under which leader the entry at `committed` was proposed.
    pub committed_of: Option<Epoch>,
    /// Index of the last entry that a crash would leave, and under which leader it was proposed. May be below `committed`: a
    /// majority has that, whether or not this replica belongs to it.
    pub flushed: Option<(Epoch, u64)>,
    pub appended: u64,
    /// Under which leader the entry at `applied` was proposed: all replicas must say the same of one index.
    pub applied_of: Option<Epoch>,
    pub reader: PartitionReader,
}

impl Observer {
    pub(crate) fn new(replicas: Replicas) -> Self {
        Self(replicas)
    }

    /// All replicas, by partition.
    pub fn replicas(&self) -> impl Iterator<Item = Observed> {
        self.0.iter().map(|replica| observe(replica))
    }
}

fn observe(replica: &Replica) -> Observed {
    let leads = replica.leads();
    let metrics = replica.raft.metrics();
    // Without a copy: a simulation looks at every replica a thousand times a second.
    let metrics = metrics.borrow_watched();
    let epoch_of = |id: &LogId| {
        let leader = id.committed_leader_id();
        Epoch { term: leader.term, node: NodeId(leader.node_id) }
    };
    Observed {
        partition: replica.partition,
        term: metrics.current_term,
        leads,
        stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        purged: metrics.purged.as_ref().map_or(0, |id| id.index),
        snapshot: metrics.snapshot.as_ref().map_or(0, |id| id.index),
        applied: metrics.last_applied.as_ref().map_or(0, |id| id.index),
        committed: metrics.local_committed.as_ref().map_or(0, |id| id.index),
        committed_of: metrics.local_committed.as_ref().map(epoch_of),
        flushed: replica.log.durable().map(|id| (epoch_of(&id), id.index)),
        appended: metrics.last_log_index.unwrap_or(0),
        applied_of: metrics.last_applied.as_ref().map(epoch_of),
        reader: replica.reader.clone(),
    }
}
