//! A look inside a running broker, for whoever runs it within its own process: a simulation checks its invariants so.

use evenkeel_protocol::{Epoch, PartitionId};
use evenkeel_raft_storage::PartitionReader;

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
    pub appended: u64,
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
    let metrics = replica.raft_metrics();
    Observed {
        partition: replica.partition,
        term: metrics.current_term,
        leads: replica.leads(),
        stopped: metrics.running_state.err().map(|fatal| fatal.to_string()),
        purged: metrics.purged.map_or(0, |id| id.index),
        snapshot: metrics.snapshot.map_or(0, |id| id.index),
        applied: metrics.last_applied.map_or(0, |id| id.index),
        committed: metrics.local_committed.map_or(0, |id| id.index),
        appended: metrics.last_log_index.unwrap_or(0),
        reader: replica.reader.clone(),
    }
}
