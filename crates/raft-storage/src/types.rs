//! What a Raft group of Evenkeel consists of, as openraft sees it.

use std::fmt;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::Outcome;

/// Number of a Raft group on a broker: a partition's id, or 0 for the system group.
pub type GroupId = u32;

/// An encoded [`evenkeel_protocol::internal::v1::Command`].
///
/// Opaque to the log and to replication: encoded once by whoever proposes it, shared by log, peers and apply,
/// decoded only when applied.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    /// The Raft group of one partition.
    pub TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = openraft::EmptyNode,
);

/// openraft's types, filled in.
pub mod raft {
    use super::TypeConfig;

    pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
    pub type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
    pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
    pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
    pub type Payload = openraft::type_config::alias::EntryPayloadOf<TypeConfig>;
    pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
    pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
}
