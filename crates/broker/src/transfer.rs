//! Handing one partition's leadership to one chosen replica: the decisions, without I/O.
//!
//! ```text
//! Probing ─► CatchingUp ─► Freezing ─► Draining ─► Electing ─► Watching ─► done
//!  still serving writes    └──── writes wait, at most FREEZE_MS_MAX ───┘   serving again
//! ```
//!
//! openraft has a transfer of its own, but it stops the leader's writes and heartbeats for good: when the target
//! does not win, the partition is without leader until the lease runs out (0.7–1.7 s in our measurements). Here
//! the leader closes its own gate, waits until the target has every entry, and sends the target the request to
//! stand itself; if the target does not lead in time the gate opens and the old leader goes on. The target's
//! election is openraft's: votes of a leadership transfer set the lease aside.
//!
//! A step-down may try several targets. They share the time that the gate may be closed ([`Attempts`]), so bad
//! targets cost a partition [`FREEZE_MS_MAX`] of writes however many there are.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use evenkeel_protocol::{LagVerdict, NodeId, judge_lag};

/// Longest time that one step-down holds writes back, whatever its targets do.
pub const FREEZE_MS_MAX: u64 = 100;
/// Of that, kept for the election: with less left, the target is not asked to stand, since it might win just after
/// the gate has opened.
pub const STAND_MS_MIN: u64 = 20;
/// A target that was told to stand and has not by then will not: the request was lost, or came too late for it.
pub const STAND_MS_MAX: u64 = 1_000;
/// With less of the freeze left, no further target is tried.
pub const ATTEMPT_MS_MIN: u64 = 2 * STAND_MS_MIN;
/// The gate closes only once the target is this close: what is left arrives while the gate drains.
pub const CLOSE_ENTRIES_MAX: u64 = 64;

/// How long each part may take, and how far behind a target may be at the start.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub probe: Duration,
    pub catch_up: Duration,
    /// From the closing of the gate until it opens.
    pub freeze: Duration,
    pub leader_wait: Duration,
    pub lag_bytes_max: u64,
}

/// What the leader's broker knows at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Newest term seen.
    pub term: u64,
    /// Who leads in it, as far as known.
    pub leader: Option<NodeId>,
    pub last_index: u64,
    /// Last entry known to be on the target's disk.
    pub target_matched: Option<u64>,
    /// What it lacks; `None` when the log does not hold all of it any more.
    pub lag_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something about the partition changed, or time passed.
    Seen(View),
    ProbeReady,
    ProbeFailed(String),
    /// The gate is closed and everything proposed is answered.
    Frozen,
    /// The target took the request to stand, or would not.
    StandAccepted,
    StandRejected(String),
    /// This broker's replica takes part no more.
    ReplicaStopped,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Probe,
    CloseGate,
    /// End what this broker does only as leader: the target is about to begin it.
    Unload,
    AskToStand,
    OpenGate,
    /// The target may still win: answer no more reads from the lease.
    VoidLease,
    /// Lead on, with all that belongs to it.
    Load,
}

/// How a transfer ended. Names follow Zeebe 8.10's results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Transferred,
    /// The target has never answered this leader.
    NotReplicating,
    LagTooHigh {
        entries: u64,
        bytes: Option<u64>,
    },
    Unreachable(String),
    /// Writes that were proposed before did not get their answers in time.
    PauseFailed,
    ReplicationTimedOut,
    TimeoutNowExhausted(String),
    LeaderChanged(Option<NodeId>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Probing,
    CatchingUp,
    Freezing,
    Draining,
    Electing,
    /// The gate is open again, the target may still win.
    Watching,
    Done,
}

/// Where the time of a transfer went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Until the target answered, or was given up.
    pub probe: Duration,
    /// Until the target was close enough; writes were served.
    pub catch_up: Duration,
    /// Closing the gate and draining: until the target had every entry.
    pub freeze: Duration,
    /// From the request to stand until somebody led, or nobody was waited for any more.
    pub election: Duration,
}

/// What a transfer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub phases: Phases,
    /// How long writes were held back.
    pub gate_closed: Duration,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.phases.probe += other.phases.probe;
        self.phases.catch_up += other.phases.catch_up;
        self.phases.freeze += other.phases.freeze;
        self.phases.election += other.phases.election;
        self.gate_closed += other.gate_closed;
    }
}

/// The attempts of one step-down, and what they may still cost.
#[derive(Debug)]
pub struct Attempts {
    limits: Limits,
    spent: Spent,
}

impl Attempts {
    pub fn new(limits: Limits) -> Self {
        Self { limits, spent: Spent::default() }
    }

    /// The limits of the next attempt; `None` when writes have been held back for too long to try another target.
    pub fn next_limits(&self) -> Option<Limits> {
        let freeze = self.limits.freeze.saturating_sub(self.spent.gate_closed);
        (freeze >= Duration::from_millis(ATTEMPT_MS_MIN)).then_some(Limits { freeze, ..self.limits })
    }

    pub fn add(&mut self, spent: Spent) {
        self.spent += spent;
    }

    /// By all attempts so far.
    pub fn spent(&self) -> Spent {
        self.spent
    }
}

/// One attempt. Scripts of how it goes are in `testdata/transfer`.
#[derive(Debug)]
pub struct Transfer {
    pub me: NodeId,
    pub target: NodeId,
    /// Term of the leadership that is handed over.
    pub term: u64,
    limits: Limits,
    phase: Phase,
    phase_since: Instant,
    deadline: Instant,
    /// Gate closed at; the budget counts from here.
    frozen_at: Option<Instant>,
    /// The target was asked to stand, so leader-side services have ended here.
    unloaded: bool,
    spent: Spent,
    outcome: Option<Outcome>,
}

impl Transfer {
    pub fn new(me: NodeId, target: NodeId, term: u64, limits: Limits, now: Instant) -> (Self, Vec<Effect>) {
        let transfer = Self {
            me,
            target,
            term,
            limits,
            phase: Phase::Probing,
            phase_since: now,
            deadline: now + limits.probe,
            frozen_at: None,
            unloaded: false,
            spent: Spent::default(),
            outcome: None,
        };
        (transfer, vec![Effect::Probe])
    }

    /// When [`Transfer::on`] wants to be called with [`Event::Seen`] at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Up to the last phase that is over; everything once there is an outcome.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match (self.phase, event) {
            (Phase::Done, _) => vec![],
            (_, Event::ReplicaStopped) => self.finish(Outcome::LeaderChanged(None), now),
            #[cfg(feature = "known-bugs")]
            (Phase::Probing, Event::ProbeReady)
                if evenkeel_raft_storage::known_bugs::KnownBug::ClaimTransfer.is_awake() =>
            {
                self.enter(Phase::Electing, now + self.limits.freeze, now);
                vec![Effect::AskToStand]
            }
            #[cfg(feature = "known-bugs")]
            (Phase::Electing, Event::StandAccepted)
                if evenkeel_raft_storage::known_bugs::KnownBug::ClaimTransfer.is_awake() =>
            {
                self.finish(Outcome::Transferred, now)
            }
            (Phase::Probing, Event::ProbeReady) => {
                self.enter(Phase::CatchingUp, now + self.limits.catch_up, now);
                vec![]
            }
            (Phase::Probing, Event::ProbeFailed(reason)) => self.finish(Outcome::Unreachable(reason), now),
            (Phase::Freezing, Event::Frozen) => {
                self.enter(Phase::Draining, self.deadline, now);
                vec![]
            }
            (Phase::Electing, Event::StandRejected(reason)) => {
                // It will not stand, so nothing is to be waited for.
                self.finish(Outcome::TimeoutNowExhausted(reason), now)
            }
            (_, Event::Seen(view)) => self.seen(view, now),
            _ => vec![],
        }
    }

    fn seen(&mut self, view: View, now: Instant) -> Vec<Effect> {
        if let Some(effects) = self.leadership_over(view, now) {
            return effects;
        }
        let still_mine = view.term == self.term && view.leader == Some(self.me);
        let late = now >= self.deadline;
        match self.phase {
            Phase::Probing if late => {
                let ms = self.limits.probe.as_millis();
                self.finish(Outcome::Unreachable(format!("no answer to the probe within {ms} ms")), now)
            }
            Phase::CatchingUp => self.catching_up(view, late, now),
            Phase::Freezing if late => self.finish(Outcome::PauseFailed, now),
            Phase::Draining if late => self.finish(Outcome::ReplicationTimedOut, now),
            Phase::Draining if still_mine && lag(view) == Some(0) => {
                let frozen_at = self.frozen_at.unwrap_or(now);
                self.enter(Phase::Electing, frozen_at + self.limits.freeze, now);
                self.unloaded = true;
                vec![Effect::Unload, Effect::AskToStand]
            }
            Phase::Electing if late => {
                let stands = Duration::from_millis(STAND_MS_MAX);
                self.enter(Phase::Watching, now + stands.min(self.limits.leader_wait), now);
                let mut effects = vec![Effect::VoidLease];
                effects.extend(self.lead_on(now));
                effects
            }
            Phase::Watching if late => {
                let lead_by = self.phase_since + self.limits.leader_wait;
                if now < lead_by && !still_mine {
                    // It stands: who wins may take longer.
                    self.deadline = lead_by;
                    return vec![];
                }
                let ms = now.saturating_duration_since(self.phase_since).as_millis();
                let reason = format!("it did not lead within {ms} ms");
                self.finish(Outcome::TimeoutNowExhausted(reason), now)
            }
            _ => vec![],
        }
    }

    fn catching_up(&mut self, view: View, late: bool, now: Instant) -> Vec<Effect> {
        let Some(lag) = lag(view) else {
            return self.finish(Outcome::NotReplicating, now);
        };
        if judge_lag(Some(lag), view.lag_bytes, self.limits.lag_bytes_max) == LagVerdict::TooHigh {
            self.finish(Outcome::LagTooHigh { entries: lag, bytes: view.lag_bytes }, now)
        } else if lag <= CLOSE_ENTRIES_MAX {
            self.frozen_at = Some(now);
            let drain = self.limits.freeze.saturating_sub(Duration::from_millis(STAND_MS_MIN));
            self.enter(Phase::Freezing, now + drain, now);
            vec![Effect::CloseGate]
        } else if late {
            self.finish(Outcome::ReplicationTimedOut, now)
        } else {
            vec![]
        }
    }

    /// The end that matters: somebody leads in a newer epoch.
    fn leadership_over(&mut self, view: View, now: Instant) -> Option<Vec<Effect>> {
        if self.phase == Phase::Done || view.term <= self.term {
            return None;
        }
        let asked = matches!(self.phase, Phase::Electing | Phase::Watching);
        match view.leader {
            Some(leader) if leader == self.target && asked => Some(self.finish(Outcome::Transferred, now)),
            Some(leader) => Some(self.finish(Outcome::LeaderChanged(Some(leader)), now)),
            // Voting is under way; when we asked for it, wait for its result.
            None if asked => None,
            None => Some(self.finish(Outcome::LeaderChanged(None), now)),
        }
    }

    fn enter(&mut self, phase: Phase, deadline: Instant, now: Instant) {
        let phases = &mut self.spent.phases;
        let spent = match self.phase {
            Phase::Probing => Some(&mut phases.probe),
            Phase::CatchingUp => Some(&mut phases.catch_up),
            Phase::Freezing | Phase::Draining => Some(&mut phases.freeze),
            Phase::Electing | Phase::Watching => Some(&mut phases.election),
            Phase::Done => None,
        };
        if let Some(spent) = spent {
            *spent += now.saturating_duration_since(self.phase_since);
        }
        self.phase = phase;
        self.phase_since = now;
        self.deadline = deadline;
    }

    fn finish(&mut self, outcome: Outcome, now: Instant) -> Vec<Effect> {
        self.enter(Phase::Done, self.deadline, now);
        self.outcome = Some(outcome);
        self.lead_on(now)
    }

    /// Opens the gate and takes up again what was put down, if so. Who leads no longer has nothing to take up.
    fn lead_on(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(closed_at) = self.frozen_at.take() {
            self.spent.gate_closed += now.saturating_duration_since(closed_at);
            effects.push(Effect::OpenGate);
        }
        let over = matches!(self.outcome, Some(Outcome::Transferred | Outcome::LeaderChanged(_)));
        if std::mem::take(&mut self.unloaded) && !over {
            effects.push(Effect::Load);
        }
        effects
    }
}

/// Entries that the target lacks; `None` while it has not answered this leader.
fn lag(view: View) -> Option<u64> {
    Some(view.last_index.saturating_sub(view.target_matched?))
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
