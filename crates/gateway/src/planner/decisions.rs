//! What a plan says.

use evenkeel_protocol::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};

/// What to do with every partition, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// One for each partition, in order of partition.
    pub decisions: Vec<PartitionDecision>,
    /// The moves among them, in the order in which to do them.
    pub transfers: Vec<Transfer>,
    /// Before and after, for each broker, in order of node.
    pub brokers: Vec<BrokerLoad>,
    /// Records per broker when evenly owned: the total that brokers own over those that may own, rounded up.
    pub records_optimal: u64,
    /// Names this plan, 16 hexadecimal digits: the same topology and request give the same, whatever the lag as
    /// long as nobody crosses the threshold. See `fingerprint`.
    pub fingerprint: String,
}

impl Plan {
    /// Whether nothing is to be moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transfers.is_empty()
    }
}

/// What to do with one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDecision {
    /// Which.
    pub partition: PartitionId,
    /// Who leads now.
    pub current: Option<NodeId>,
    /// Who should lead: the target of a move, the leader that stays, or for a skipped partition whom the request
    /// wants and cannot have now. `None` when nobody in particular.
    pub desired: Option<NodeId>,
    /// Log entries that the desired leader lacks; 0 for the current leader.
    pub lag_entries: Option<u64>,
    /// Bytes that the desired leader lacks; 0 for the current leader.
    pub lag_bytes: Option<u64>,
    /// What to do.
    pub decision: Decision,
    /// Why, for a program.
    pub reason: Reason,
    /// With [`Reason::NoCandidate`], what keeps the nearest of the others from taking over.
    pub hindrance: Option<Hindrance>,
    /// Why, in a sentence for a person: partition, brokers, numbers, and the remedy when there is one.
    pub detail: String,
}

/// What keeps a replica from taking over; the later ones pass more easily.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Hindrance {
    /// It is away, or drained.
    Unavailable,
    /// It has no vote, or has not answered its leader.
    NotReplicating,
    /// It lacks too much.
    Lagging,
}

/// What to do with a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Decision {
    /// Hand it over.
    Move {
        /// Who leads now.
        from: NodeId,
        /// Who shall lead.
        to: NodeId,
        /// Whom to take when `to` fails, best first; each would still be an improvement.
        alternatives: Vec<NodeId>,
    },
    /// Its leader is the one that the request wants.
    Stay,
    /// Left as it is, though it may not be what the request wants.
    Skip,
}

/// Why a partition is moved, stays or is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The wanted leader leads.
    AlreadyLeader,
    /// Its primary does not lead it.
    Misplaced,
    /// A broker leads more partitions than another one: it gives this one, or passes it on in a chain.
    Uneven,
    /// A broker owns more records than the optimal count: it gives this one, or gets it passed on or in exchange.
    Overloaded,
    /// Leaders, or records, are already as even as asked for.
    EvenAlready,
    /// The primary lacks too much.
    PrimaryLagging,
    /// The primary or its broker does not answer.
    PrimaryUnreachable,
    /// The broker asked for lacks too much.
    TargetLagging,
    /// The broker asked for does not answer.
    TargetUnreachable,
    /// The wanted leader has not answered the present one yet, so how much it lacks is unknown.
    NotReplicating,
    /// The wanted leader has no vote yet.
    NotVoter,
    /// The broker asked for holds no replica.
    NotMember,
    /// Several replicas share the highest priority.
    NoPrimary,
    /// Nobody leads it, or the leader does not answer.
    NoLeader,
    /// It should leave its broker, but no other replica can take it, or none would make things more even.
    NoCandidate,
    /// Priorities do not decide who leads it.
    PriorityElectionDisabled,
    /// A drained broker gives it away, or cannot be given it.
    Drained,
    /// Ownership is paused.
    Paused,
    /// The cap of leaders per broker stands in the way.
    Capped,
    /// Not among the partitions asked for.
    Filtered,
    /// The request names its leader.
    Override,
    /// The run's total write-freeze time is spent. Given by runs, never by a plan.
    BudgetSpent,
}

impl Reason {
    /// The name, as the API shows it and metrics label it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AlreadyLeader => "ALREADY_LEADER",
            Self::Misplaced => "MISPLACED",
            Self::Uneven => "UNEVEN",
            Self::Overloaded => "OVERLOADED",
            Self::EvenAlready => "EVEN_ALREADY",
            Self::PrimaryLagging => "PRIMARY_LAGGING",
            Self::PrimaryUnreachable => "PRIMARY_UNREACHABLE",
            Self::TargetLagging => "TARGET_LAGGING",
            Self::TargetUnreachable => "TARGET_UNREACHABLE",
            Self::NotReplicating => "NOT_REPLICATING",
            Self::NotVoter => "NOT_VOTER",
            Self::NotMember => "NOT_MEMBER",
            Self::NoPrimary => "NO_PRIMARY",
            Self::NoLeader => "NO_LEADER",
            Self::NoCandidate => "NO_CANDIDATE",
            Self::PriorityElectionDisabled => "PRIORITY_ELECTION_DISABLED",
            Self::Drained => "DRAINED",
            Self::Paused => "PAUSED",
            Self::Capped => "CAPPED",
            Self::Filtered => "FILTERED",
            Self::Override => "OVERRIDE",
            Self::BudgetSpent => "BUDGET_SPENT",
        }
    }
}

/// One move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Which partition.
    pub partition: PartitionId,
    /// Who leads it.
    pub from: NodeId,
    /// Who shall.
    pub to: NodeId,
}

/// What one broker leads and owns, before and after the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerLoad {
    /// Who.
    pub node: NodeId,
    /// Partitions that it leads now.
    pub leaders_before: u32,
    /// Partitions that it leads when every move succeeds.
    pub leaders_after: u32,
    /// Records that it owns now.
    pub records_before: u64,
    /// Records that it owns when every move succeeds.
    pub records_after: u64,
    /// Records of the partitions that are earmarked to leave it.
    pub records_requested: u64,
}
