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

use std::time::{Duration, Instant};

use evenkeel_protocol::NodeId;

/// Longest time that one transfer holds writes back, whatever the target does.
pub const FREEZE_MS_MAX: u64 = 100;
/// A target that was told to stand and has not by then will not: the request was lost, or came too late for it.
pub const STAND_MS_MAX: u64 = 1_000;
/// The gate closes only once the target is this close: what is left arrives while the gate drains.
pub const CLOSE_ENTRIES_MAX: u64 = 64;

/// How long each part may take, and how far behind a target may be at the start.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub probe: Duration,
    pub catch_up: Duration,
    pub freeze: Duration,
    pub leader_wait: Duration,
    pub lag_entries_max: u64,
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
    pub lag_bytes: u64,
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
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Probe,
    CloseGate,
    AskToStand,
    OpenGate,
    /// The target may still win: answer no more reads from the lease.
    VoidLease,
}

/// How a transfer ended. Names follow Zeebe 8.10's results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Transferred,
    LagTooHigh { entries: u64, bytes: u64 },
    Unreachable(String),
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

/// One attempt. Scripts of how it goes are in `testdata/transfer`.
#[derive(Debug)]
pub struct Transfer {
    pub me: NodeId,
    pub target: NodeId,
    /// Term of the leadership that is handed over.
    pub term: u64,
    limits: Limits,
    phase: Phase,
    deadline: Instant,
    /// Gate closed at; the budget counts from here.
    frozen_at: Option<Instant>,
    /// Since when the gate is open again.
    watching_since: Option<Instant>,
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
            deadline: now + limits.probe,
            frozen_at: None,
            watching_since: None,
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

    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match (self.phase, event) {
            (Phase::Probing, Event::ProbeReady) => {
                self.enter(Phase::CatchingUp, now + self.limits.catch_up);
                vec![]
            }
            (Phase::Probing, Event::ProbeFailed(reason)) => self.finish(Outcome::Unreachable(reason)),
            (Phase::Freezing, Event::Frozen) => {
                self.phase = Phase::Draining;
                vec![]
            }
            (Phase::Electing, Event::StandRejected(reason)) => {
                // It will not stand, so nothing is to be waited for.
                self.finish(Outcome::TimeoutNowExhausted(reason))
            }
            (_, Event::Seen(view)) => self.seen(view, now),
            _ => vec![],
        }
    }

    fn seen(&mut self, view: View, now: Instant) -> Vec<Effect> {
        if let Some(effects) = self.leadership_over(view) {
            return effects;
        }
        let still_mine = view.term == self.term && view.leader == Some(self.me);
        let late = now >= self.deadline;
        match self.phase {
            Phase::Probing if late => {
                let ms = self.limits.probe.as_millis();
                self.finish(Outcome::Unreachable(format!("no answer to the probe within {ms} ms")))
            }
            Phase::CatchingUp => {
                let lag = self.lag(view);
                if lag > self.limits.lag_entries_max || view.lag_bytes > self.limits.lag_bytes_max {
                    self.finish(Outcome::LagTooHigh { entries: lag, bytes: view.lag_bytes })
                } else if lag <= CLOSE_ENTRIES_MAX {
                    self.frozen_at = Some(now);
                    self.enter(Phase::Freezing, now + self.limits.freeze);
                    vec![Effect::CloseGate]
                } else if late {
                    self.finish(Outcome::ReplicationTimedOut)
                } else {
                    vec![]
                }
            }
            Phase::Draining if still_mine && self.lag(view) == 0 => {
                self.phase = Phase::Electing;
                vec![Effect::AskToStand]
            }
            Phase::Freezing | Phase::Draining if late => self.finish(Outcome::ReplicationTimedOut),
            Phase::Electing if late => {
                self.frozen_at = None;
                self.watching_since = Some(now);
                let stands = Duration::from_millis(STAND_MS_MAX);
                self.enter(Phase::Watching, now + stands.min(self.limits.leader_wait));
                vec![Effect::VoidLease, Effect::OpenGate]
            }
            Phase::Watching if late => {
                let lead_by = self.watching_since.unwrap_or(now) + self.limits.leader_wait;
                if now < lead_by && !still_mine {
                    // It stands: who wins may take longer.
                    self.deadline = lead_by;
                    return vec![];
                }
                let ms = now.saturating_duration_since(self.watching_since.unwrap_or(now)).as_millis();
                self.finish(Outcome::TimeoutNowExhausted(format!("it did not lead within {ms} ms")))
            }
            _ => vec![],
        }
    }

    /// The end that matters: somebody leads in a newer epoch.
    fn leadership_over(&mut self, view: View) -> Option<Vec<Effect>> {
        if self.phase == Phase::Done || view.term <= self.term {
            return None;
        }
        let asked = matches!(self.phase, Phase::Electing | Phase::Watching);
        match view.leader {
            Some(leader) if leader == self.target && asked => Some(self.finish(Outcome::Transferred)),
            Some(leader) => Some(self.finish(Outcome::LeaderChanged(Some(leader)))),
            // Voting is under way; when we asked for it, wait for its result.
            None if asked => None,
            None => Some(self.finish(Outcome::LeaderChanged(None))),
        }
    }

    fn lag(&self, view: View) -> u64 {
        view.last_index.saturating_sub(view.target_matched.unwrap_or(0))
    }

    fn enter(&mut self, phase: Phase, deadline: Instant) {
        self.phase = phase;
        self.deadline = deadline;
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.phase = Phase::Done;
        self.outcome = Some(outcome);
        if self.frozen_at.take().is_some() { vec![Effect::OpenGate] } else { vec![] }
    }
}
