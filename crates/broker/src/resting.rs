//! When a leader with nothing to say falls silent, after CockroachDB's quiescence and TiKV's hibernating regions. Pure.
//!
//! ```text
//!           quiet for rest_after, settled             every follower agreed
//! Awake ───────────────────────────────────► Asking ────────────────────────► Resting
//!   ▲                                          │                                 │
//!   └──────────────────────────────────────────┴─────────────────────────────────┘
//!       used, a new entry, another epoch, a broken connection, a follower's broker that does not answer
//! ```
//!
//! An awake leader beats once each heartbeat interval. A resting one sends nothing and has no timer: its followers trust
//! it for as long as they hear its broker ([`crate::election`]), and it rests for as long as their brokers answer. *Settled*
//! means that every follower has all entries and knows them committed, so a follower that stands after the leader's
//! broker died lacks nothing. A resting leader's lease has run out; a linearizable read asks a majority first, which
//! wakes the partition.
//!
//! Cost of a resting partition: one look each interval, a lock and a comparison; on the followers nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evenkeel_protocol::{Epoch, NodeId};
use parking_lot::Mutex;

/// What a leader's partition looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub epoch: Epoch,
    pub last_log_index: u64,
    /// Changes whenever a connection to a follower's broker was lost and made again.
    pub connections: u64,
    /// Every follower's broker answers, has every entry and knows it committed; nothing is under way.
    pub settled: bool,
}

/// What the leader should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Show that it leads.
    Beat,
    /// Ask its followers to let it fall silent, in place of a beat.
    Ask,
    Nothing,
}

#[derive(Debug)]
enum Phase {
    /// Since when nothing happened.
    Awake(Instant),
    /// Who agreed.
    Asking(Vec<NodeId>),
    Resting,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    seen: Option<Facts>,
    /// When the partition was last woken.
    awake_since: Instant,
}

/// One replica's rest, of which only leaders have any.
#[derive(Debug)]
pub struct Rest {
    /// Something wanted the leader since the last look.
    used: AtomicBool,
    state: Mutex<State>,
}

impl Rest {
    pub fn new(now: Instant) -> Self {
        let state = State { phase: Phase::Awake(now), seen: None, awake_since: now };
        Self { used: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Followers are about to hear of this partition in another way than by new entries, so they will expect to go on
    /// hearing of it. For free in the path of a read.
    pub fn disturb(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Release);
        }
    }

    pub fn is_resting(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Resting)
    }

    /// Since when followers have been asked for signs of life of theirs; `None` while it rests.
    pub fn awake_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (!matches!(state.phase, Phase::Resting)).then_some(state.awake_since)
    }

    /// A follower agreed, of a log that ended at `last_log_index`.
    pub fn agreed(&self, follower: NodeId, last_log_index: u64) {
        let mut state = self.state.lock();
        let same = state.seen.is_some_and(|facts| facts.last_log_index == last_log_index);
        if let Phase::Asking(agreed) = &mut state.phase
            && same
            && !agreed.contains(&follower)
        {
            agreed.push(follower);
        }
    }

    /// Once each heartbeat interval: what to do now. `facts` of a replica that leads, `None` of another.
    /// `rest_after` of zero keeps it awake for good.
    pub fn look(
        &self,
        facts: Option<Facts>,
        followers: &[NodeId],
        rest_after: Duration,
        now: Instant,
    ) -> Next {
        let used = self.used.swap(false, Ordering::AcqRel);
        let mut state = self.state.lock();
        let Some(facts) = facts else {
            state.phase = Phase::Awake(now);
            state.awake_since = now;
            state.seen = None;
            return Next::Nothing;
        };
        let same = |seen: Facts| Facts { settled: facts.settled, ..seen } == facts;
        let undisturbed = !used && state.seen.replace(facts).is_some_and(same) && facts.settled;
        let (phase, next) = match &state.phase {
            _ if !undisturbed => (Phase::Awake(now), Next::Beat),
            Phase::Awake(since) if rest_after.is_zero() || now - *since < rest_after => return Next::Beat,
            Phase::Awake(_) => (Phase::Asking(Vec::new()), Next::Ask),
            Phase::Asking(agreed) if followers.iter().all(|follower| agreed.contains(follower)) => {
                (Phase::Resting, Next::Nothing)
            }
            Phase::Asking(_) => (Phase::Awake(now), Next::Beat),
            Phase::Resting => return Next::Nothing,
        };
        if matches!((&state.phase, &phase), (Phase::Resting, Phase::Awake(_))) {
            state.awake_since = now;
        }
        state.phase = phase;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(2);
    const FOLLOWERS: [NodeId; 2] = [NodeId(1), NodeId(2)];
    const FACTS: Facts =
        Facts { epoch: Epoch { term: 3, node: NodeId(0) }, last_log_index: 7, connections: 2, settled: true };

    struct Leader {
        rest: Rest,
        now: Instant,
    }

    impl Leader {
        fn new() -> Self {
            let now = Instant::now();
            Self { rest: Rest::new(now), now }
        }

        /// Looks a heartbeat later.
        fn look(&mut self, facts: Facts) -> Next {
            self.now += Duration::from_millis(100);
            self.rest.look(Some(facts), &FOLLOWERS, AFTER, self.now)
        }

        /// Beats until it asks.
        fn until_it_asks(&mut self) -> u32 {
            let mut beats = 0;
            while self.look(FACTS) == Next::Beat {
                beats += 1;
                assert!(beats < 1_000, "it never asks");
            }
            beats
        }

        fn resting() -> Self {
            let mut leader = Self::new();
            leader.until_it_asks();
            FOLLOWERS.iter().for_each(|follower| leader.rest.agreed(*follower, FACTS.last_log_index));
            assert_eq!(leader.look(FACTS), Next::Nothing);
            assert!(leader.rest.is_resting());
            leader
        }
    }

    #[test]
    fn a_quiet_leader_rests_once_all_followers_agreed() {
        let mut leader = Leader::new();
        assert_eq!(leader.until_it_asks(), 20);
        leader.rest.agreed(NodeId(1), 7);
        leader.rest.agreed(NodeId(2), 7);
        assert_eq!([leader.look(FACTS), leader.look(FACTS)], [Next::Nothing; 2]);
        assert_eq!(leader.rest.awake_since(), None);
    }

    #[test]
    fn a_missing_agreement_keeps_it_awake_and_it_asks_again_later() {
        let mut leader = Leader::new();
        leader.until_it_asks();
        leader.rest.agreed(NodeId(1), 7);
        leader.rest.agreed(NodeId(1), 7);
        // Of an older log.
        leader.rest.agreed(NodeId(2), 6);
        assert_eq!(leader.look(FACTS), Next::Beat);
        assert_eq!(leader.until_it_asks(), 19);
        // What comes late, to an earlier question, counts: the log is the same.
        leader.rest.agreed(NodeId(1), 7);
        leader.rest.agreed(NodeId(2), 7);
        assert_eq!(leader.look(FACTS), Next::Nothing);
    }

    #[test]
    fn whatever_happens_wakes_it() {
        let elsewhere = Epoch { term: 4, ..FACTS.epoch };
        let changes = [
            Facts { last_log_index: 8, ..FACTS },
            Facts { settled: false, ..FACTS },
            Facts { connections: 3, ..FACTS },
            Facts { epoch: elsewhere, ..FACTS },
        ];
        for change in changes {
            let mut leader = Leader::resting();
            assert_eq!(leader.look(change), Next::Beat, "{change:?}");
            assert_eq!(leader.rest.awake_since(), Some(leader.now));
        }
        let mut leader = Leader::resting();
        leader.rest.disturb();
        assert_eq!([leader.look(FACTS), leader.look(FACTS)], [Next::Beat; 2]);
    }

    #[test]
    fn what_happens_while_it_asks_wakes_it() {
        let mut leader = Leader::new();
        leader.until_it_asks();
        FOLLOWERS.iter().for_each(|follower| leader.rest.agreed(*follower, 7));
        leader.rest.disturb();
        assert_eq!(leader.look(FACTS), Next::Beat);
        assert!(!leader.rest.is_resting());
    }

    #[test]
    fn a_follower_has_no_rest_of_its_own() {
        let mut leader = Leader::resting();
        assert_eq!(leader.rest.look(None, &FOLLOWERS, AFTER, leader.now), Next::Nothing);
        assert!(!leader.rest.is_resting());
        assert_eq!(leader.look(FACTS), Next::Beat);
    }

    #[test]
    fn resting_can_be_switched_off() {
        let mut leader = Leader::new();
        for _ in 0..100 {
            leader.now += Duration::from_secs(1);
            let next = leader.rest.look(Some(FACTS), &FOLLOWERS, Duration::ZERO, leader.now);
            assert_eq!(next, Next::Beat);
        }
    }
}
