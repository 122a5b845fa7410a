//! A run as it is stored, and as the API shows it. Pure.
//!
//! Stored are a head, the plan in chunks that never change, and a journal: what happened to partitions, in records
//! that are only added. So a run of 10,000 partitions never rewrites more than a few of them. [`Run`] is what all of
//! that together says.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use evenkeel_protocol::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};

use crate::planner::Reason;
use crate::rebalance::{Outcome, PartitionResult, Phases, PlannedPartition, RunResult};
use crate::rebalance_request::RunSettings;
use crate::topology::{PartitionView, Topology};

/// The run that is under way in the cluster, and who carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveRun {
    pub(crate) id: u64,
    /// The gateway; empty when the last one has stopped in order.
    pub(crate) owner: String,
    /// Grows as long as the owner lives.
    pub(crate) beat: u64,
    pub(crate) cancel_requested: bool,
}

/// What is said of a run as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunHead {
    pub(crate) id: u64,
    /// RFC 3339.
    pub(crate) started_at: String,
    pub(crate) settings: RunSettings,
    /// Of the plan.
    pub(crate) fingerprint: String,
    pub(crate) cancel_requested: bool,
    pub(crate) finished_at: Option<String>,
    pub(crate) result: Option<RunResult>,
    /// Partitions by result; empty until the run has ended.
    pub(crate) results: BTreeMap<String, u64>,
}

/// One entry of a run's journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Transition {
    /// Its leader is about to be asked.
    Begun(PartitionId),
    /// It is done with.
    Ended(PartitionId, Outcome),
}

/// A stored run, put together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) head: RunHead,
    /// In the order in which it is done.
    pub(crate) plan: Vec<PlannedPartition>,
    pub(crate) states: HashMap<PartitionId, PartitionRunState>,
}

/// How far a partition is. Those not begun have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartitionRunState {
    Begun,
    Ended(Outcome),
}

impl Run {
    /// From what is stored, the journal in its order.
    pub(crate) fn assemble(
        head: RunHead,
        plan: Vec<PlannedPartition>,
        journal: impl IntoIterator<Item = Transition>,
    ) -> Self {
        let decided = plan.iter().filter_map(|planned| {
            Some((planned.partition, PartitionRunState::Ended(outcome_of_plan(planned)?)))
        });
        let states = decided.collect();
        let mut run = Self { head, plan, states };
        for transition in journal {
            run.take(transition);
        }
        run
    }

    /// Takes an entry of the journal in; the partition that it is about.
    pub(crate) fn take(&mut self, transition: Transition) -> PartitionId {
        match transition {
            Transition::Begun(partition) => {
                self.states.entry(partition).or_insert(PartitionRunState::Begun);
                partition
            }
            Transition::Ended(partition, outcome) => {
                self.states.insert(partition, PartitionRunState::Ended(outcome));
                partition
            }
        }
    }

    /// What became of the partition, once it is done with.
    pub(crate) fn outcome(&self, partition: PartitionId) -> Option<&Outcome> {
        match self.states.get(&partition) {
            Some(PartitionRunState::Ended(outcome)) => Some(outcome),
            Some(PartitionRunState::Begun) | None => None,
        }
    }

    /// Whether its leader was, or may have been, asked.
    pub(crate) fn is_begun(&self, partition: PartitionId) -> bool {
        self.states.get(&partition) == Some(&PartitionRunState::Begun)
    }

    /// How long writes were held back by all transfers so far.
    pub(crate) fn frozen(&self) -> Duration {
        let frozen = self.plan.iter().filter_map(|planned| self.outcome(planned.partition)?.frozen_us);
        Duration::from_micros(frozen.sum())
    }
}

/// The outcome of a partition about which the plan left nothing open.
pub(crate) fn outcome_of_plan(planned: &PlannedPartition) -> Option<Outcome> {
    Some(Outcome {
        result: planned.result?,
        reason: Some(planned.reason),
        detail: planned.detail.clone(),
        from: planned.leader,
        to: None,
        leader: None,
        frozen_us: None,
        phases: None,
    })
}

/// RFC 3339, as everything with a time in it is shown and stored.
pub(crate) fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Zeebe 8.10 names the tenant of every partition; we have one.
const PHYSICAL_TENANT: &str = "default";

/// One run, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunJson {
    rebalance_id: u64,
    started_at: String,
    dry_run: bool,
    cancel_requested: bool,
    partitions: Vec<PartitionRunJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<RunResult>,
    policy: crate::planner::Policy,
    /// Fingerprint of the plan.
    plan: String,
}

/// One partition of a run, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartitionRunJson {
    partition_id: u32,
    physical_tenant_id: &'static str,
    current_leader: Option<String>,
    desired_leader: String,
    progress: Progress,
    result: Option<PartitionResult>,
    lag_entries: Option<u64>,
    lag_bytes: Option<u64>,
    from: Option<String>,
    to: Option<String>,
    gap_ms: Option<f64>,
    phases: Option<PhasesJson>,
    reason: Option<Reason>,
    detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhasesJson {
    probe_ms: f64,
    catch_up_ms: f64,
    freeze_ms: f64,
    election_ms: f64,
}

impl From<Phases> for PhasesJson {
    fn from(phases: Phases) -> Self {
        Self {
            probe_ms: millis(phases.probe_us),
            catch_up_ms: millis(phases.catch_up_us),
            freeze_ms: millis(phases.freeze_us),
            election_ms: millis(phases.election_us),
        }
    }
}

fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Progress {
    Pending,
    Transferring,
    Completed,
}

fn text(node: NodeId) -> String {
    node.to_string()
}

impl RunJson {
    /// A stored run.
    pub(crate) fn of(run: &Run) -> Self {
        let mut partitions: Vec<PartitionRunJson> = run
            .plan
            .iter()
            .map(|planned| partition_json(planned, run.states.get(&planned.partition)))
            .collect();
        partitions.sort_by_key(|partition| partition.partition_id);
        let head = &run.head;
        Self {
            rebalance_id: head.id,
            started_at: head.started_at.clone(),
            dry_run: false,
            cancel_requested: head.cancel_requested,
            partitions,
            finished_at: head.finished_at.clone(),
            result: head.result,
            policy: head.settings.policy,
            plan: head.fingerprint.clone(),
        }
    }

    /// A run that is not going to be: id 0, nothing begun.
    pub(crate) fn dry(
        settings: &RunSettings,
        fingerprint: &str,
        plan: Vec<PlannedPartition>,
        now: SystemTime,
    ) -> Self {
        let head = RunHead {
            id: 0,
            started_at: timestamp(now),
            settings: settings.clone(),
            fingerprint: fingerprint.to_owned(),
            cancel_requested: false,
            finished_at: None,
            result: None,
            results: BTreeMap::new(),
        };
        Self { dry_run: true, ..Self::of(&Run::assemble(head, plan, [])) }
    }
}

/// How far the partition is, if it takes part in the run.
pub(crate) fn partition_of_run(run: &Run, partition: PartitionId) -> Option<PartitionRunJson> {
    let planned = run.plan.iter().find(|planned| planned.partition == partition)?;
    Some(partition_json(planned, run.states.get(&partition)))
}

fn partition_json(planned: &PlannedPartition, state: Option<&PartitionRunState>) -> PartitionRunJson {
    let outcome = match state {
        Some(PartitionRunState::Ended(outcome)) => Some(outcome),
        Some(PartitionRunState::Begun) | None => None,
    };
    // Also one who has come to lead without being asked.
    let leads_now = outcome.filter(|outcome| outcome.result.is_success()).and_then(|outcome| outcome.to);
    let known = leads_now.or(outcome.and_then(|outcome| outcome.leader));
    let current = match outcome.map(|outcome| outcome.result) {
        // Whoever led when the plan was made does not any more.
        Some(PartitionResult::LeaderChanged | PartitionResult::NoLeader) => known,
        _ => known.or(planned.leader),
    };
    let wanted = planned.desired.or(planned.leader);
    PartitionRunJson {
        partition_id: planned.partition.0,
        physical_tenant_id: PHYSICAL_TENANT,
        current_leader: current.map(text),
        desired_leader: wanted.map_or_else(String::new, text),
        progress: match state {
            None => Progress::Pending,
            Some(PartitionRunState::Begun) => Progress::Transferring,
            Some(PartitionRunState::Ended(_)) => Progress::Completed,
        },
        result: outcome.map(|outcome| outcome.result),
        lag_entries: planned.lag_entries,
        lag_bytes: planned.lag_bytes,
        from: outcome.map_or(planned.leader, |outcome| outcome.from).map(text),
        to: outcome.map_or(planned.candidates.first().copied(), |outcome| outcome.to).map(text),
        gap_ms: outcome.and_then(|outcome| outcome.frozen_us).map(millis),
        phases: outcome.and_then(|outcome| outcome.phases).map(PhasesJson::from),
        reason: outcome.and_then(|outcome| outcome.reason).or(Some(planned.reason)),
        detail: outcome
            .map_or_else(|| Some(planned.detail.clone()), |outcome| Some(outcome.detail.clone()))
            .filter(|detail| !detail.is_empty()),
    }
}

/// `GET /cluster/v2/rebalance`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BalanceJson {
    state: &'static str,
    partitions: Vec<PartitionBalance>,
    running_rebalance: Option<RunJson>,
    last_completed_rebalance: Option<RunJson>,
    /// What a run would do; only in the answer to a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) planned_rebalance: Option<RunJson>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PartitionBalance {
    partition_id: u32,
    physical_tenant_id: &'static str,
    current_leader: Option<String>,
    desired_leader: String,
    state: &'static str,
}

/// Whether the partition is led by its primary; without a single one whoever leads will do.
pub(crate) fn is_balanced(partition: &PartitionView) -> bool {
    partition.leader.is_some() && partition.primary.is_none_or(|primary| partition.leader == Some(primary))
}

/// How balanced the cluster is, and what is being done about it.
pub(crate) fn balance(topology: &Topology, running: Option<&Run>, last: Option<&Run>) -> BalanceJson {
    let transferring = |partition: PartitionId| running.is_some_and(|run| run.is_begun(partition));
    let partitions: Vec<PartitionBalance> = topology
        .partitions
        .iter()
        .map(|partition| PartitionBalance {
            partition_id: partition.id.0,
            physical_tenant_id: PHYSICAL_TENANT,
            current_leader: partition.leader.map(text),
            desired_leader: partition.primary.or(partition.leader).map_or_else(String::new, text),
            state: if transferring(partition.id) {
                "TRANSFERRING"
            } else if is_balanced(partition) {
                "BALANCED"
            } else {
                "UNBALANCED"
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
    BalanceJson {
        state,
        partitions,
        running_rebalance: running.map(RunJson::of),
        last_completed_rebalance: last.map(RunJson::of),
        planned_rebalance: None,
    }
}
