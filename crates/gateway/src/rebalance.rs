//! What a rebalance request leads to, and what becomes of each partition. Pure; `rebalance_runner` does the asking.
//!
//! Only partitions that are not led as wanted take part in a run: a balanced cluster is left alone. Result names are
//! those of Zeebe 8.10 and no others; `reason` says more where they cannot.

use evenkeel_protocol::internal::v1::TransferPhases;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};

use crate::planner::{
    ClusterView, Decision as Verdict, Hindrance, PartitionDecision, Plan, Policy, Reason, plan,
};
use crate::rebalance_request::RunSettings;
use crate::topology::Topology;

/// What to do about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Every partition is led as wanted, as far as anybody in particular is wanted.
    Balanced,
    /// Nothing can be done, and why.
    Refused(RefusedBecause),
    /// What is to become of these partitions, in the order in which to do it.
    Run(Vec<PlannedPartition>),
}

/// Why a rebalance cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RefusedBecause {
    #[error("no broker can be reached; check cluster.brokers and that the brokers run")]
    NoBroker,
    #[error("priority election is switched off; set raft.priority_election = true on the brokers")]
    PriorityElectionDisabled,
    #[error("no partition has a single primary; give each a replica with the single highest priority")]
    NoPrimary,
}

/// What a run is to do with one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedPartition {
    pub(crate) partition: PartitionId,
    /// Who led when the plan was made, in which term.
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    /// Who should lead.
    pub(crate) desired: Option<NodeId>,
    /// To whom to hand over, best first; empty when there is nothing to be done.
    pub(crate) candidates: Vec<NodeId>,
    pub(crate) lag_entries: Option<u64>,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// Known without asking its leader.
    pub(crate) result: Option<PartitionResult>,
}

/// Why nothing can be done with this cluster, if so.
pub(crate) fn refused(topology: &Topology, policy: Policy) -> Option<RefusedBecause> {
    if !topology.is_reachable() {
        return Some(RefusedBecause::NoBroker);
    }
    if policy != Policy::Primary {
        return None;
    }
    if !topology.priority_election {
        return Some(RefusedBecause::PriorityElectionDisabled);
    }
    let no_primary = topology.partitions.iter().all(|partition| partition.primary.is_none());
    no_primary.then_some(RefusedBecause::NoPrimary)
}

/// Decides from the topology, `view` being the planner's picture of it; the plan comes along when there is one.
pub(crate) fn decide(
    topology: &Topology,
    view: &ClusterView,
    settings: &RunSettings,
) -> (Decision, Option<Plan>) {
    if let Some(because) = refused(topology, settings.policy) {
        return (Decision::Refused(because), None);
    }
    let plan = plan(view, &settings.plan_request());
    if !plan.decisions.iter().any(concerns_a_run) {
        return (Decision::Balanced, Some(plan));
    }
    // Partitions that were asked for by name are told about however they are.
    let named =
        |decided: &PartitionDecision| settings.partitions.is_some() && decided.reason != Reason::Filtered;
    let taking_part = |decided: &PartitionDecision| concerns_a_run(decided) || named(decided);
    let partitions = in_order(&plan).filter(|d| taking_part(d)).map(|d| planned(topology, d)).collect();
    (Decision::Run(partitions), Some(plan))
}

/// Whether a run has something to do or to say about the partition.
fn concerns_a_run(decided: &PartitionDecision) -> bool {
    match decided.decision {
        Verdict::Move { .. } => true,
        Verdict::Stay => false,
        // Where nobody in particular is wanted, whoever leads will do.
        Verdict::Skip => {
            !matches!(decided.reason, Reason::Filtered | Reason::NoPrimary | Reason::PriorityElectionDisabled)
        }
    }
}

/// Every decision of a plan: first the transfers in their order, then the others in order of partition.
fn in_order(plan: &Plan) -> impl Iterator<Item = &PartitionDecision> {
    let decision = |id: PartitionId| {
        let at = plan.decisions.binary_search_by_key(&id, |decision| decision.partition).ok()?;
        plan.decisions.get(at)
    };
    let moves = plan.transfers.iter().filter_map(move |transfer| decision(transfer.partition));
    moves.chain(plan.decisions.iter().filter(|d| !matches!(d.decision, Verdict::Move { .. })))
}

/// Every partition of a plan, as a dry run shows it.
pub(crate) fn all_planned(topology: &Topology, plan: &Plan) -> Vec<PlannedPartition> {
    in_order(plan).map(|decided| planned(topology, decided)).collect()
}

fn planned(topology: &Topology, decided: &PartitionDecision) -> PlannedPartition {
    let seen = topology.partition(decided.partition);
    let candidates = match &decided.decision {
        Verdict::Move { to, alternatives, .. } => {
            std::iter::once(*to).chain(alternatives.iter().copied()).collect()
        }
        Verdict::Stay | Verdict::Skip => Vec::new(),
    };
    let wanted = decided.desired.or_else(|| seen.and_then(|partition| partition.primary)).or(decided.current);
    PlannedPartition {
        partition: decided.partition,
        leader: decided.current,
        term: seen.and_then(|partition| partition.epoch).map_or(0, |epoch| epoch.term),
        desired: wanted,
        result: candidates.is_empty().then(|| untouched(decided)),
        candidates,
        lag_entries: decided.lag_entries,
        lag_bytes: decided.lag_bytes,
        reason: decided.reason,
        detail: decided.detail.clone(),
    }
}

/// What is to be said about a partition that is left as it is.
fn untouched(decided: &PartitionDecision) -> PartitionResult {
    if decided.decision == Verdict::Stay {
        return PartitionResult::AlreadyLeader;
    }
    match decided.reason {
        Reason::PrimaryLagging | Reason::TargetLagging => PartitionResult::LagTooHigh,
        Reason::NoLeader => PartitionResult::NoLeader,
        Reason::NotVoter | Reason::NotReplicating => PartitionResult::NotReplicating,
        Reason::NotMember => PartitionResult::NotMember,
        Reason::PrimaryUnreachable | Reason::TargetUnreachable => PartitionResult::Unreachable,
        Reason::NoCandidate => match decided.hindrance {
            Some(Hindrance::Lagging) => PartitionResult::LagTooHigh,
            Some(Hindrance::NotReplicating) => PartitionResult::NotReplicating,
            Some(Hindrance::Unavailable) | None => PartitionResult::Unreachable,
        },
        Reason::NoPrimary
        | Reason::PriorityElectionDisabled
        | Reason::Paused
        // Only a broker that the request names is skipped for being drained.
        | Reason::Drained
        | Reason::Capped
        | Reason::Filtered
        | Reason::BudgetSpent => PartitionResult::Cancelled,
        // The best of those that can lead does.
        Reason::AlreadyLeader
        | Reason::Misplaced
        | Reason::Uneven
        | Reason::Overloaded
        | Reason::EvenAlready
        | Reason::Override => PartitionResult::AlreadyLeader,
    }
}

/// What became of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum PartitionResult {
    Transferred,
    AlreadyLeader,
    Cancelled,
    LagTooHigh,
    Unreachable,
    NoResponse,
    NotMember,
    NotReplicating,
    TransferInProgress,
    ReplicationTimedOut,
    TimeoutNowExhausted,
    LeaderChanged,
    LeaderInitializing,
    NoLeader,
    PauseFailed,
}

impl PartitionResult {
    /// The name, as metrics label it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Transferred => "TRANSFERRED",
            Self::AlreadyLeader => "ALREADY_LEADER",
            Self::Cancelled => "CANCELLED",
            Self::LagTooHigh => "LAG_TOO_HIGH",
            Self::Unreachable => "UNREACHABLE",
            Self::NoResponse => "NO_RESPONSE",
            Self::NotMember => "NOT_MEMBER",
            Self::NotReplicating => "NOT_REPLICATING",
            Self::TransferInProgress => "TRANSFER_IN_PROGRESS",
            Self::ReplicationTimedOut => "REPLICATION_TIMED_OUT",
            Self::TimeoutNowExhausted => "TIMEOUT_NOW_EXHAUSTED",
            Self::LeaderChanged => "LEADER_CHANGED",
            Self::LeaderInitializing => "LEADER_INITIALIZING",
            Self::NoLeader => "NO_LEADER",
            Self::PauseFailed => "PAUSE_FAILED",
        }
    }

    /// Whether the partition is led as wanted.
    pub(crate) fn is_success(self) -> bool {
        matches!(self, Self::Transferred | Self::AlreadyLeader)
    }

    /// Whether asking again soon may end better.
    pub(crate) fn is_worth_a_retry(self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::NoResponse
                | Self::NotReplicating
                | Self::TransferInProgress
                | Self::ReplicationTimedOut
                | Self::TimeoutNowExhausted
                | Self::LeaderChanged
                | Self::LeaderInitializing
                | Self::PauseFailed
        )
    }
}

/// A leader's answer in the names of the run; the second part says more where the name cannot.
pub(crate) fn result_of(answer: StepDown) -> (PartitionResult, Option<Reason>) {
    match answer {
        StepDown::Transferred => (PartitionResult::Transferred, None),
        StepDown::AlreadyLeader => (PartitionResult::AlreadyLeader, None),
        StepDown::LagTooHigh => (PartitionResult::LagTooHigh, Some(Reason::PrimaryLagging)),
        StepDown::Unreachable => (PartitionResult::Unreachable, None),
        StepDown::TransferInProgress => (PartitionResult::TransferInProgress, None),
        StepDown::ReplicationTimedOut => (PartitionResult::ReplicationTimedOut, None),
        StepDown::TimeoutNowExhausted => (PartitionResult::TimeoutNowExhausted, None),
        StepDown::NotLeader | StepDown::LeaderChanged => (PartitionResult::LeaderChanged, None),
        StepDown::LeaderInitializing => (PartitionResult::LeaderInitializing, None),
        StepDown::PauseFailed => (PartitionResult::PauseFailed, None),
        StepDown::NotReplicating => (PartitionResult::NotReplicating, None),
        StepDown::UnknownPartition | StepDown::NotMember => (PartitionResult::NotMember, None),
        StepDown::PriorityElectionDisabled => {
            (PartitionResult::Cancelled, Some(Reason::PriorityElectionDisabled))
        }
        StepDown::NoPrimary => (PartitionResult::Cancelled, Some(Reason::NoPrimary)),
        StepDown::Unspecified => (PartitionResult::NoResponse, None),
    }
}

/// What became of one partition, in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) result: PartitionResult,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: String,
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
    /// Who led when it was done with, as the topology showed it. `None` also when nobody looked.
    #[serde(default)]
    pub(crate) leader: Option<NodeId>,
    /// How long old leaders held writes back.
    pub(crate) frozen_us: Option<u64>,
    /// Where the time of all its transfers went. Runs stored by earlier versions do not tell.
    #[serde(default)]
    pub(crate) phases: Option<Phases>,
}

/// Time spent in each phase of transfers, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Phases {
    /// Until targets answered.
    pub(crate) probe_us: u64,
    /// Until they were close enough; writes were served meanwhile.
    pub(crate) catch_up_us: u64,
    /// Writes were held back until targets had every entry.
    pub(crate) freeze_us: u64,
    /// Targets stood for election.
    pub(crate) election_us: u64,
}

impl From<TransferPhases> for Phases {
    fn from(phases: TransferPhases) -> Self {
        let TransferPhases { probe_us, catch_up_us, freeze_us, election_us } = phases;
        Self { probe_us, catch_up_us, freeze_us, election_us }
    }
}

impl std::ops::Add for Phases {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            probe_us: self.probe_us.saturating_add(other.probe_us),
            catch_up_us: self.catch_up_us.saturating_add(other.catch_up_us),
            freeze_us: self.freeze_us.saturating_add(other.freeze_us),
            election_us: self.election_us.saturating_add(other.election_us),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RunResult {
    /// Every partition was transferred or already well led.
    Completed,
    /// It was stopped before its end.
    Cancelled,
    /// At least one partition is not led as wanted.
    Failed,
}

impl RunResult {
    /// From the outcomes of all partitions.
    pub(crate) fn of(outcomes: &[&Outcome], cancel_requested: bool) -> Self {
        let stopped = |outcome: &&Outcome| {
            outcome.result == PartitionResult::Cancelled
                && (cancel_requested || outcome.reason == Some(Reason::BudgetSpent))
        };
        if outcomes.iter().any(stopped) {
            Self::Cancelled
        } else if outcomes.iter().all(|outcome| outcome.result.is_success()) {
            Self::Completed
        } else {
            Self::Failed
        }
    }

    /// As metrics and the log name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
#[path = "rebalance_tests.rs"]
mod tests;
