//! When to rebalance without being asked. Pure: rates, plans and the clock come in as arguments; `automatic_runner` asks.
//!
//! A round starts a run only if the cluster is idle, every desired leader is caught up, and no partition is moved that
//! was moved a moment ago. Whatever keeps it from that has a name, for the log and the metric.
//!
//! ```text
//! busy ─── below the limit ───► settling ─── for a whole window ───► idle
//!   ▲                              │ at the limit                       │
//!   └──────────────────────────────┘◄──── at twice the limit ───────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use evenkeel_protocol::{NodeId, PartitionId};

use crate::planner::{Decision, PartitionDecision, Plan, Reason};

/// Rates are taken over at least this much time: brokers tell their totals once a second.
const RATE_OVER_MIN: Duration = Duration::from_secs(2);
/// An idle cluster is busy again only at this many times the limit, so that it does not change its mind all the time.
const BUSY_FACTOR: f64 = 2.0;
/// A desired leader that lacks more entries than this is not caught up.
const CAUGHT_UP_ENTRIES_MAX: u64 = 64;

/// Bytes replicated per second by all leaders, from the totals that brokers tell.
#[derive(Debug, Default)]
pub(crate) struct AppendRate {
    last: Option<(Instant, BTreeMap<NodeId, u64>)>,
}

impl AppendRate {
    /// Takes every broker's total in; a rate, when enough time has passed since the last one.
    pub(crate) fn observe(&mut self, totals: BTreeMap<NodeId, u64>, now: Instant) -> Option<f64> {
        let Some((at, before)) = &self.last else {
            self.last = Some((now, totals));
            return None;
        };
        let over = now.saturating_duration_since(*at);
        if over < RATE_OVER_MIN {
            return None;
        }
        // A broker that was restarted counts anew.
        let grown = totals.iter().map(|(node, total)| match before.get(node) {
            Some(before) => total.checked_sub(*before).unwrap_or(*total),
            None => 0,
        });
        let bytes: u64 = grown.sum();
        self.last = Some((now, totals));
        Some(bytes as f64 / over.as_secs_f64())
    }
}

/// How much the cluster has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activity {
    /// Nobody knows yet.
    Unknown,
    Busy {
        bytes_per_s: f64,
    },
    /// Little, but not for long enough.
    Settling {
        lacks: Duration,
    },
    Idle,
}

/// Tells idle from busy, with hysteresis.
#[derive(Debug)]
pub(crate) struct IdleGate {
    limit_bytes_per_s: f64,
    window: Duration,
    below_since: Option<Instant>,
    activity: Activity,
}

impl IdleGate {
    pub(crate) fn new(limit_bytes_per_s: f64, window: Duration) -> Self {
        Self { limit_bytes_per_s, window, below_since: None, activity: Activity::Unknown }
    }

    /// As of the last rate that was taken in.
    pub(crate) fn activity(&self) -> Activity {
        self.activity
    }

    /// Takes a rate in. Idle takes at least two of them, so that one never counts for the time after it.
    pub(crate) fn observe(&mut self, bytes_per_s: f64, now: Instant) {
        let idle = self.activity == Activity::Idle;
        let factor = if idle { BUSY_FACTOR } else { 1.0 };
        self.activity = if bytes_per_s >= self.limit_bytes_per_s * factor {
            self.below_since = None;
            Activity::Busy { bytes_per_s }
        } else if idle {
            Activity::Idle
        } else {
            let since = *self.below_since.get_or_insert(now);
            match self.window.saturating_sub(now.saturating_duration_since(since)) {
                Duration::ZERO => Activity::Idle,
                lacks => Activity::Settling { lacks },
            }
        };
    }
}

/// What a round comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Round {
    /// These are to be moved.
    Start(BTreeSet<PartitionId>),
    /// Not now.
    Skip(Skipped),
}

/// Why a round starts nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Skipped {
    #[error("every partition is led as wanted")]
    Balanced,
    #[error("how much is written is not known yet")]
    ActivityUnknown,
    #[error("the cluster is busy: its leaders replicate {} KiB/s", (bytes_per_s / 1024.0).ceil())]
    Busy { bytes_per_s: f64 },
    #[error("the cluster has been idle for too short a time; {} s are lacking", lacks.as_secs_f64().ceil())]
    Settling { lacks: Duration },
    #[error("partition {partition}: its desired leader is not caught up")]
    Lagging { partition: PartitionId },
    #[error("partition {partition} has no leader")]
    Leaderless { partition: PartitionId },
    #[error("what is to be moved was moved a moment ago: {partitions} partition(s) cool down")]
    CoolingDown { partitions: usize },
    #[error("ownership is paused")]
    Paused,
    #[error("rebalance {id} is under way")]
    Active { id: u64 },
    #[error("{0}")]
    Refused(String),
    #[error("the system group does not answer: {0}")]
    SystemGroupAway(String),
}

impl Skipped {
    /// As metrics label it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::ActivityUnknown => "activity_unknown",
            Self::Busy { .. } => "busy",
            Self::Settling { .. } => "settling",
            Self::Lagging { .. } => "lagging",
            Self::Leaderless { .. } => "leaderless",
            Self::CoolingDown { .. } => "cooling_down",
            Self::Paused => "paused",
            Self::Active { .. } => "active",
            Self::Refused(_) => "refused",
            Self::SystemGroupAway(_) => "system_group_away",
        }
    }
}

/// Decides about a round; `cooling` were moved a moment ago.
pub(crate) fn decide(plan: &Plan, activity: Activity, cooling: &BTreeSet<PartitionId>) -> Round {
    let skip = |skipped| Round::Skip(skipped);
    let moves = || plan.decisions.iter().filter(|decided| matches!(decided.decision, Decision::Move { .. }));
    let behind = |decided: &&PartitionDecision| match decided.decision {
        Decision::Move { .. } => decided.lag_entries.is_none_or(|lag| lag > CAUGHT_UP_ENTRIES_MAX),
        Decision::Skip => {
            matches!(decided.reason, Reason::PrimaryLagging | Reason::TargetLagging | Reason::NotReplicating)
        }
        Decision::Stay => false,
    };
    if let Some(decided) = plan.decisions.iter().find(behind) {
        return skip(Skipped::Lagging { partition: decided.partition });
    }
    if let Some(decided) = plan.decisions.iter().find(|decided| decided.reason == Reason::NoLeader) {
        return skip(Skipped::Leaderless { partition: decided.partition });
    }
    if moves().next().is_none() {
        return skip(Skipped::Balanced);
    }
    match activity {
        Activity::Idle => {}
        Activity::Unknown => return skip(Skipped::ActivityUnknown),
        Activity::Busy { bytes_per_s } => return skip(Skipped::Busy { bytes_per_s }),
        Activity::Settling { lacks } => return skip(Skipped::Settling { lacks }),
    }
    let (waiting, ready): (BTreeSet<PartitionId>, BTreeSet<PartitionId>) =
        moves().map(|decided| decided.partition).partition(|partition| cooling.contains(partition));
    if ready.is_empty() {
        return skip(Skipped::CoolingDown { partitions: waiting.len() });
    }
    Round::Start(ready)
}

#[cfg(test)]
#[path = "automatic_tests.rs"]
mod tests;
