//! Decides what a request does after a setback: ask another broker, or wait and try again. Pure.
//!
//! Redirects follow a broker's hint at once, but only a few times between waits: during a failed transfer two
//! leaders may point at each other. Waits double up to a cap; whoever waits is woken earlier when the topology
//! changes.

use std::time::Duration;

use evenkeel_protocol::NodeId;

use crate::topology::PartitionView;

/// Hints followed without a wait in between.
const REDIRECTS_MAX: u32 = 2;
const WAIT_MIN_MS: u64 = 2;
const WAIT_MAX_MS: u64 = 250;

/// Why an attempt did not bring an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setback {
    /// Nobody is known to lead the partition.
    NoLeader,
    /// The broker does not lead it (now); it may know who does, in which term.
    NotLeader { hint: Option<NodeId>, term: u64 },
    /// The broker has too much to do; nothing was written.
    Overloaded,
    /// The broker's disk is full; nothing was written, and another broker may come to lead.
    DiskFull,
    /// The broker stops, or no longer has the partition; nothing was written.
    Stopped,
    /// Not connected, or the connection's queue is full; nothing was sent.
    NotSent,
    /// The connection broke with the request on it.
    Disconnected,
    /// The broker says that the write may or may not take effect.
    UnknownOutcome,
    /// No answer, and meanwhile another broker leads.
    NoAnswer,
}

impl Setback {
    /// Whether the request may have taken effect all the same.
    pub(crate) fn leaves_outcome_unknown(self) -> bool {
        matches!(self, Self::Disconnected | Self::UnknownOutcome | Self::NoAnswer)
    }

    /// Label of the replay metric.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NoLeader => "no_leader",
            Self::NotLeader { .. } => "not_leader",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
            Self::Stopped => "stopped",
            Self::NotSent => "not_sent",
            Self::Disconnected => "disconnected",
            Self::UnknownOutcome => "unknown_outcome",
            Self::NoAnswer => "no_answer",
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask again at once; [`Replay::target`] tells whom.
    Ask,
    /// Wait for a change of the partition's leader, at most this long.
    Wait(Duration),
}

/// One request's memory of its setbacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    redirects: u32,
    waits: u32,
    hint: Option<(u64, NodeId)>,
    outcome_unknown: bool,
}

impl Replay {
    /// Whom to ask: the published leader, unless a broker has named a newer one.
    pub(crate) fn target(&self, partition: &PartitionView) -> Option<NodeId> {
        let known_term = partition.epoch.map_or(0, |epoch| epoch.term);
        match self.hint {
            Some((term, node)) if term > known_term || partition.leader.is_none() => Some(node),
            _ => partition.leader,
        }
    }

    /// Whether an earlier attempt may have taken effect.
    pub(crate) fn outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// What to do after `setback` at `asked`; `random` in 0..1 spreads the waits.
    pub(crate) fn after(&mut self, setback: Setback, asked: Option<NodeId>, random: f64) -> Next {
        self.outcome_unknown |= setback.leaves_outcome_unknown();
        // A hint that led nowhere must not be followed again.
        if self.hint.is_some_and(|(_, node)| Some(node) == asked) {
            self.hint = None;
        }
        if let Setback::NotLeader { hint: Some(node), term } = setback
            && Some(node) != asked
        {
            self.hint = Some((term, node));
            if self.redirects < REDIRECTS_MAX {
                self.redirects += 1;
                return Next::Ask;
            }
        }
        self.redirects = 0;
        let full = (WAIT_MIN_MS << self.waits.min(16)).min(WAIT_MAX_MS);
        self.waits = self.waits.saturating_add(1);
        Next::Wait(Duration::from_millis(full).mul_f64(0.5 + random / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_protocol::{Epoch, PartitionId};

    fn partition(leader: Option<u64>, term: u64) -> PartitionView {
        PartitionView {
            id: PartitionId(1),
            leader: leader.map(NodeId),
            epoch: leader.map(|node| Epoch { term, node: NodeId(node) }),
            primary: None,
            replicas: Vec::new(),
            records: 0,
            counted: true,
        }
    }

    fn not_leader(hint: Option<u64>, term: u64) -> Setback {
        Setback::NotLeader { hint: hint.map(NodeId), term }
    }

    #[test]
    fn leaders_that_point_at_each_other_are_asked_a_few_times_and_then_waited_for() {
        let mut replay = Replay::default();
        let steps: Vec<Next> = (0..4)
            .map(|i| replay.after(not_leader(Some((i + 1) % 2), 5), Some(NodeId(i % 2)), 1.0))
            .collect();
        let first_wait = Next::Wait(Duration::from_millis(2));
        assert_eq!(steps, [Next::Ask, Next::Ask, first_wait, Next::Ask]);
    }

    #[test]
    fn a_newer_hint_beats_the_published_leader_until_it_fails() {
        let mut replay = Replay::default();
        let published = partition(Some(0), 5);
        assert_eq!(replay.target(&published), Some(NodeId(0)));
        replay.after(not_leader(Some(2), 6), Some(NodeId(0)), 1.0);
        assert_eq!(replay.target(&published), Some(NodeId(2)));
        assert_eq!(replay.target(&partition(Some(1), 6)), Some(NodeId(1)), "published in the same term wins");
        replay.after(not_leader(None, 6), Some(NodeId(2)), 1.0);
        assert_eq!(replay.target(&published), Some(NodeId(0)));
    }

    #[test]
    fn a_hint_at_the_broker_itself_is_no_redirect() {
        let mut replay = Replay::default();
        assert!(matches!(replay.after(not_leader(Some(0), 5), Some(NodeId(0)), 1.0), Next::Wait(_)));
    }

    #[test]
    fn waits_double_to_a_cap() {
        let mut replay = Replay::default();
        let waits: Vec<Next> = (0..9).map(|_| replay.after(Setback::NoLeader, None, 1.0)).collect();
        let expected = [2, 4, 8, 16, 32, 64, 128, 250, 250].map(|ms| Next::Wait(Duration::from_millis(ms)));
        assert_eq!(waits, expected);
    }

    #[test]
    fn only_what_may_have_taken_effect_is_unknown() {
        let table = [
            (Setback::NoLeader, false),
            (not_leader(None, 1), false),
            (Setback::Overloaded, false),
            (Setback::DiskFull, false),
            (Setback::Stopped, false),
            (Setback::NotSent, false),
            (Setback::Disconnected, true),
            (Setback::UnknownOutcome, true),
            (Setback::NoAnswer, true),
        ];
        for (setback, unknown) in table {
            let mut replay = Replay::default();
            replay.after(setback, Some(NodeId(0)), 0.0);
            assert_eq!(replay.outcome_unknown(), unknown, "{setback:?}");
            replay.after(Setback::NoLeader, None, 0.0);
            assert_eq!(replay.outcome_unknown(), unknown, "a later setback does not make it known");
        }
    }
}
