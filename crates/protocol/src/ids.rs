//! Identifiers with one meaning each.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

newtype!(
    /// A broker's number in the cluster, 0..cluster size.
    NodeId(u64)
);
newtype!(
    /// A partition, 1..=partitions. Group 0 is the system group and never a partition of records.
    PartitionId(u32)
);
newtype!(
    /// How much a replica is wanted as leader: higher leads. Only the order within a partition counts.
    Priority(u32)
);
newtype!(
    /// Raft log index of a write; grows within a partition.
    Position(u64)
);

/// The group that keeps the cluster's own state: ownership, rebalance runs. Its id is no partition's.
pub const SYSTEM_GROUP: PartitionId = PartitionId(0);

/// A leadership, and its fencing token. Both parts are needed: two nodes may lead in one term, at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raft term.
    pub term: u64,
    /// Who leads.
    pub node: NodeId,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.node)
    }
}
