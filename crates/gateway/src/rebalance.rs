//! What a rebalance request leads to, and the record of a run. Pure; `rebalance_runner` does the asking.
//!
//! Only partitions that their primary does not lead are contacted: a balanced cluster is left alone. Result
//! names are those of Zeebe 8.10 and no others; `reason` says more where they cannot.

use std::time::SystemTime;

use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::{Epoch, NodeId, PartitionId};
use serde::Serialize;

use crate::topology::{PartitionView, Topology};

/// What to do about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Every partition is led by its primary, or has none to be led by.
    Balanced,
    /// Nothing can be done, and why.
    Refused(RefusedBecause),
    /// These partitions are to be handed over.
    Run(Vec<Misplaced>),
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

/// A partition that its primary does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misplaced {
    pub(crate) partition: PartitionId,
    pub(crate) leader: Option<(NodeId, Epoch)>,
    pub(crate) primary: NodeId,
}

/// Decides from the topology alone.
pub(crate) fn decide(topology: &Topology) -> Decision {
    if !topology.is_reachable() {
        return Decision::Refused(RefusedBecause::NoBroker);
    }
    if !topology.priority_election {
        return Decision::Refused(RefusedBecause::PriorityElectionDisabled);
    }
    if topology.partitions.iter().all(|partition| partition.primary.is_none()) {
        return Decision::Refused(RefusedBecause::NoPrimary);
    }
    let misplaced: Vec<Misplaced> = topology.partitions.iter().filter_map(misplaced).collect();
    if misplaced.is_empty() { Decision::Balanced } else { Decision::Run(misplaced) }
}

/// The partition, when it has a primary that does not lead it.
pub(crate) fn misplaced(partition: &PartitionView) -> Option<Misplaced> {
    let primary = partition.primary?;
    let leader = partition.leader.zip(partition.epoch);
    (partition.leader != Some(primary)).then_some(Misplaced { partition: partition.id, leader, primary })
}

/// What became of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum PartitionResult {
    Transferred,
    AlreadyLeader,
    Cancelled,
    LagTooHigh,
    Unreachable,
    NoResponse,
    NotMember,
    TransferInProgress,
    ReplicationTimedOut,
    TimeoutNowExhausted,
    LeaderChanged,
    NoLeader,
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
            Self::TransferInProgress => "TRANSFER_IN_PROGRESS",
            Self::ReplicationTimedOut => "REPLICATION_TIMED_OUT",
            Self::TimeoutNowExhausted => "TIMEOUT_NOW_EXHAUSTED",
            Self::LeaderChanged => "LEADER_CHANGED",
            Self::NoLeader => "NO_LEADER",
        }
    }

    fn is_success(self) -> bool {
        matches!(self, Self::Transferred | Self::AlreadyLeader)
    }
}

/// A leader's answer in the names of the run; the second part says more where the name cannot.
pub(crate) fn result_of(answer: StepDown) -> (PartitionResult, Option<&'static str>) {
    match answer {
        StepDown::Transferred => (PartitionResult::Transferred, None),
        StepDown::AlreadyLeader => (PartitionResult::AlreadyLeader, None),
        StepDown::LagTooHigh => (PartitionResult::LagTooHigh, Some("PRIMARY_LAGGING")),
        StepDown::Unreachable => (PartitionResult::Unreachable, None),
        StepDown::TransferInProgress => (PartitionResult::TransferInProgress, None),
        StepDown::ReplicationTimedOut => (PartitionResult::ReplicationTimedOut, None),
        StepDown::TimeoutNowExhausted => (PartitionResult::TimeoutNowExhausted, None),
        StepDown::NotLeader | StepDown::LeaderChanged => (PartitionResult::LeaderChanged, None),
        StepDown::UnknownPartition | StepDown::NotMember => (PartitionResult::NotMember, None),
        StepDown::PriorityElectionDisabled => {
            (PartitionResult::Cancelled, Some("PRIORITY_ELECTION_DISABLED"))
        }
        StepDown::NoPrimary => (PartitionResult::Cancelled, Some("NO_PRIMARY")),
        StepDown::Unspecified => (PartitionResult::NoResponse, None),
    }
}

/// How far a partition's transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Progress {
    Pending,
    Transferring,
    Completed,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RunResult {
    /// Every partition was transferred or already well led.
    Completed,
    /// At least one was not.
    Failed,
}

/// One partition of a run, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartitionRun {
    pub(crate) partition_id: u32,
    physical_tenant_id: &'static str,
    current_leader: Option<String>,
    desired_leader: String,
    pub(crate) progress: Progress,
    pub(crate) result: Option<PartitionResult>,
    from: Option<String>,
    to: Option<String>,
    gap_ms: Option<f64>,
    reason: Option<&'static str>,
    detail: Option<String>,
}

/// What became of one partition, in full.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) result: PartitionResult,
    pub(crate) reason: Option<&'static str>,
    pub(crate) detail: String,
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
    /// How long the old leader held writes back.
    pub(crate) frozen_us: Option<u64>,
}

/// One run, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    pub(crate) rebalance_id: u64,
    started_at: String,
    dry_run: bool,
    cancel_requested: bool,
    pub(crate) partitions: Vec<PartitionRun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<RunResult>,
}

/// Zeebe 8.10 names the tenant of every partition; we have one.
const PHYSICAL_TENANT: &str = "default";

impl Run {
    /// A run that has not asked anyone yet.
    pub(crate) fn new(rebalance_id: u64, misplaced: &[Misplaced], now: SystemTime) -> Self {
        let partitions = misplaced.iter().map(|partition| PartitionRun {
            partition_id: partition.partition.0,
            physical_tenant_id: PHYSICAL_TENANT,
            current_leader: partition.leader.map(|(node, _)| node.to_string()),
            desired_leader: partition.primary.to_string(),
            progress: Progress::Pending,
            result: None,
            from: None,
            to: None,
            gap_ms: None,
            reason: None,
            detail: None,
        });
        Self {
            rebalance_id,
            started_at: timestamp(now),
            dry_run: false,
            cancel_requested: false,
            partitions: partitions.collect(),
            finished_at: None,
            result: None,
        }
    }

    /// The partition's leader is being asked.
    pub(crate) fn begin(&mut self, partition: PartitionId) {
        if let Some(entry) = self.entry(partition) {
            entry.progress = Progress::Transferring;
        }
    }

    /// The partition is done with.
    pub(crate) fn end(&mut self, partition: PartitionId, outcome: Outcome) {
        let Some(entry) = self.entry(partition) else { return };
        entry.progress = Progress::Completed;
        entry.result = Some(outcome.result);
        entry.reason = outcome.reason;
        entry.detail = Some(outcome.detail).filter(|detail| !detail.is_empty());
        entry.from = outcome.from.map(|node| node.to_string());
        entry.to = outcome.to.map(|node| node.to_string());
        entry.gap_ms = outcome.frozen_us.map(|us| us as f64 / 1000.0);
        if let (PartitionResult::Transferred, Some(to)) = (outcome.result, outcome.to) {
            entry.current_leader = Some(to.to_string());
        }
    }

    /// Every partition is done with.
    pub(crate) fn finish(&mut self, now: SystemTime) -> RunResult {
        let success = self.partitions.iter().all(|p| p.result.is_some_and(PartitionResult::is_success));
        let result = if success { RunResult::Completed } else { RunResult::Failed };
        self.finished_at = Some(timestamp(now));
        self.result = Some(result);
        result
    }

    fn entry(&mut self, partition: PartitionId) -> Option<&mut PartitionRun> {
        // In order of partition, as the topology is.
        let at = self.partitions.binary_search_by_key(&partition.0, |entry| entry.partition_id).ok()?;
        self.partitions.get_mut(at)
    }
}

fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// `GET /cluster/v2/rebalance`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceJson {
    pub(crate) state: &'static str,
    partitions: Vec<PartitionBalance>,
    running_rebalance: Option<Run>,
    last_completed_rebalance: Option<Run>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PartitionBalance {
    partition_id: u32,
    physical_tenant_id: &'static str,
    current_leader: Option<String>,
    desired_leader: Option<String>,
    state: &'static str,
}

/// How balanced the cluster is, and what is being done about it.
pub(crate) fn balance(topology: &Topology, running: Option<Run>, last: Option<Run>) -> BalanceJson {
    let transferring = |partition: PartitionId| {
        running.as_ref().is_some_and(|run| {
            run.partitions
                .iter()
                .any(|entry| entry.partition_id == partition.0 && entry.progress == Progress::Transferring)
        })
    };
    let partitions: Vec<PartitionBalance> = topology
        .partitions
        .iter()
        .map(|partition| PartitionBalance {
            partition_id: partition.id.0,
            physical_tenant_id: PHYSICAL_TENANT,
            current_leader: partition.leader.map(|node| node.to_string()),
            // Without a single primary the leader that there is will do.
            desired_leader: partition.primary.or(partition.leader).map(|node| node.to_string()),
            state: if transferring(partition.id) {
                "TRANSFERRING"
            } else if partition.leader.is_none() || misplaced(partition).is_some() {
                "UNBALANCED"
            } else {
                "BALANCED"
            },
        })
        .collect();
    let state = if running.is_some() {
        "BALANCING"
    } else if partitions.iter().all(|partition| partition.state == "BALANCED") {
        "BALANCED"
    } else {
        "UNBALANCED"
    };
    BalanceJson { state, partitions, running_rebalance: running, last_completed_rebalance: last }
}

#[cfg(test)]
#[path = "rebalance_tests.rs"]
mod tests;
