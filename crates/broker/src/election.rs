//! When a replica stands for election. Pure: every event carries its time, nothing here reads a clock.
//!
//! openraft's own election timer is off; this schedule decides who stands, openraft (with pre-vote) decides who
//! wins. One schedule per broker watches all its replicas. A replica that heard nothing for
//! `lease + rank × stagger` stands; rank 0 has the highest priority, so a partition's replicas stand one after
//! another, best first, while each gives the one before it `stagger` to win. A replica that stood and heard
//! nothing since stands again after `retry + rank × stagger`, and then after twice that retry, and so on.
//! A group may *rest*: its leader is silent, and trusted for as long as its broker is heard, whatever it is heard for.
//! When the broker is silent for a lease, all groups that rest on it go on as if their leaders had been heard with it.
//! [`Order::Jitter`] replaces `rank × stagger` by a random delay, for clusters with priority election off.
//!
//! Many groups can fall silent at once: all of a dead broker's, or all there are when the cluster starts. If each stood at
//! once and again and again, votes would take longer than candidates wait for them, and nobody would ever win: 1,500 groups on
//! two cores stood 11,000 times a second for two minutes. So at most [`STANDING_MAX`] of a broker's candidacies are under way,
//! the others wait for their turn in the order of their deadlines, and a group's waits double from try to try up to a lease.
//!
//! Cost: [`heard`](ElectionSchedule::heard), called for each heartbeat, stores an instant. The heap keeps one
//! live entry per group, which is put right when it comes up: per group one push and one pop per lease.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Number of a Raft group: a partition's id, or 0 for the system group.
pub type GroupId = u32;

/// A broker that leads.
pub type BrokerId = u64;

/// How long each lower rank leaves the first election of a new group to the ranks above: their brokers may still be
/// starting, and nothing is unavailable yet that was available before.
pub const FIRST_ELECTION_STAGGER: Duration = Duration::from_secs(2);

/// With [`Order::Jitter`], delays are spread over this many staggers.
pub const JITTER_STAGGERS_MAX: u32 = 10;

/// How many ranks a broker that yields stands back: after every replica of a partition that does not.
pub const YIELDED_RANKS: u32 = 8;

/// Candidacies of one broker that are under way at once.
pub const STANDING_MAX: usize = 32;

/// Shorter retry intervals are raised to this.
pub const RETRY_MIN: Duration = Duration::from_millis(1);

/// The intervals that the schedule works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionTimes {
    /// How long a leader is trusted after it was last heard.
    pub lease: Duration,
    /// How much longer each lower rank waits than the one above.
    pub stagger: Duration,
    /// How long a candidacy may stay without result before the replica stands again, the first time.
    pub retry: Duration,
}

/// What keeps the replicas of a group from standing at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Priority election: the better the rank, the sooner.
    ByRank,
    /// All replicas are equal; a random delay, new for each attempt, keeps them apart.
    Jitter {
        /// Must differ between brokers. The same seed gives the same delays.
        seed: u64,
    },
}

/// From when on a group waits, and for what.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// For the first leader of a new group, since then.
    ForFirstLeader(Instant),
    /// For the leader to be heard again, since then.
    ForLeader(Instant),
    /// For its own candidacy, since then.
    ForVotes(Instant),
    /// For nothing, while the broker of its leader is heard.
    Resting(BrokerId),
    /// For nothing: it leads.
    Leading,
}

#[derive(Debug)]
struct Group {
    rank: u32,
    waiting: Waiting,
    /// A leadership transfer is under way: do not stand before then.
    quiet_until: Option<Instant>,
    /// How often it stood; makes each jitter a new one.
    attempts: u64,
    /// How often it stood since it heard a leader.
    tries: u32,
    /// Deadline of the group's live heap entry; never later than the real one.
    queued: Option<Instant>,
}

impl Group {
    fn stand(&mut self, now: Instant) {
        self.waiting = Waiting::ForVotes(now);
        self.attempts += 1;
        self.tries = self.tries.saturating_add(1);
    }
}

/// A broker on which groups rest.
#[derive(Debug)]
struct RestingOn {
    heard: Instant,
    groups: HashSet<GroupId>,
}

/// Watches a broker's replicas and says which should stand, and when to look again.
#[derive(Debug)]
pub struct ElectionSchedule {
    times: ElectionTimes,
    order: Order,
    /// This broker stands only where nobody else does.
    yields: bool,
    groups: HashMap<GroupId, Group>,
    /// By leader; only those with groups.
    resting: HashMap<BrokerId, RestingOn>,
    heap: BinaryHeap<Reverse<(Instant, GroupId)>>,
    /// Groups whose candidacy is under way, each until it may stand again. At most `standing_max`.
    standing: HashMap<GroupId, Instant>,
    standing_max: usize,
}

impl ElectionSchedule {
    /// A schedule without groups.
    #[must_use]
    pub fn new(times: ElectionTimes, order: Order) -> Self {
        // With no time between attempts, a group would be due for ever at one instant.
        let times = ElectionTimes { retry: times.retry.max(RETRY_MIN), ..times };
        let (groups, resting, heap, standing) = Default::default();
        let standing_max = STANDING_MAX;
        Self { times, order, yields: false, groups, resting, heap, standing, standing_max }
    }

    /// With another bound than [`STANDING_MAX`]; at least 1.
    #[must_use]
    pub fn with_standing_max(self, standing_max: usize) -> Self {
        Self { standing_max: standing_max.max(1), ..self }
    }

    /// Starts to watch a replica of `rank` in `group`. In a group that is `new`, as far as this replica's disk
    /// knows, rank 0 stands at once, and rank r after r × [`FIRST_ELECTION_STAGGER`] if it heard nothing until then.
    pub fn add(&mut self, group: GroupId, rank: u32, new: bool, now: Instant) {
        let waiting = if new { Waiting::ForFirstLeader(now) } else { Waiting::ForLeader(now) };
        let fresh = Group { rank, waiting, quiet_until: None, attempts: 0, tries: 0, queued: None };
        self.groups.insert(group, fresh);
        self.reschedule(group);
    }

    /// Forgets a group.
    pub fn remove(&mut self, group: GroupId) {
        self.standing.remove(&group);
        if let Some(Waiting::Resting(leader)) = self.groups.remove(&group).map(|g| g.waiting) {
            self.leave(group, leader);
        }
    }

    /// `leader`, heard just now, will be silent about this group from now on.
    pub fn rest(&mut self, group: GroupId, leader: BrokerId, now: Instant) {
        self.update(group, |g| {
            if !matches!(g.waiting, Waiting::Leading) {
                g.waiting = Waiting::Resting(leader);
            }
        });
        if self.rests(group) {
            let on = self.resting.entry(leader).or_insert(RestingOn { heard: now, groups: HashSet::new() });
            on.heard = on.heard.max(now);
            on.groups.insert(group);
        }
    }

    /// Whether the group rests, so that its leader must be taken for alive.
    #[must_use]
    pub fn rests(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|g| matches!(g.waiting, Waiting::Resting(_)))
    }

    /// A broker was heard, and with it all leaders that rest there.
    pub fn broker_heard(&mut self, leader: BrokerId, now: Instant) {
        if let Some(on) = self.resting.get_mut(&leader) {
            on.heard = on.heard.max(now);
        }
    }

    /// A broker's connection ended, or it was silent for a lease: groups that rest on it have to hear from their leaders
    /// themselves, as if each had been heard when the broker was. Answers whether there are any.
    pub fn broker_lost(&mut self, leader: BrokerId) -> bool {
        let Some(RestingOn { heard, groups }) = self.resting.remove(&leader) else { return false };
        for group in &groups {
            self.update(*group, |g| g.waiting = Waiting::ForLeader(heard));
        }
        !groups.is_empty()
    }

    /// The group rests on that broker no longer.
    fn leave(&mut self, group: GroupId, leader: BrokerId) {
        if let Some(on) = self.resting.get_mut(&leader) {
            on.groups.remove(&group);
            if on.groups.is_empty() {
                self.resting.remove(&leader);
            }
        }
    }

    /// A leader was heard (append, heartbeat, snapshot, transfer) or a vote was granted. Answers whether
    /// [`next_deadline`](Self::next_deadline) may be earlier now, as after a new group's first leader.
    pub fn heard(&mut self, group: GroupId, now: Instant) -> bool {
        self.update(group, |g| match g.waiting {
            Waiting::Leading => {}
            Waiting::ForLeader(since) => g.waiting = Waiting::ForLeader(since.max(now)),
            Waiting::ForFirstLeader(_) | Waiting::ForVotes(_) | Waiting::Resting(_) => {
                g.waiting = Waiting::ForLeader(now);
            }
        })
    }

    /// This replica leads the group now, or leads it no longer.
    pub fn leading(&mut self, group: GroupId, leads: bool, now: Instant) {
        self.update(group, |g| match (leads, g.waiting) {
            (true, _) => g.waiting = Waiting::Leading,
            (false, Waiting::Leading) => g.waiting = Waiting::ForLeader(now),
            (false, _) => {}
        });
    }

    /// This replica stood for election for another reason than [`due`](Self::due), say as a transfer's target.
    pub fn stood(&mut self, group: GroupId, now: Instant) {
        self.update(group, |g| {
            if !matches!(g.waiting, Waiting::Leading) {
                g.stand(now);
            }
        });
    }

    /// A group that was due could not stand, say because no majority is within reach: it takes up no room, and waits no longer for
    /// having been in vain.
    pub fn did_not_stand(&mut self, group: GroupId) {
        if let Some(g) = self.groups.get_mut(&group) {
            g.tries = g.tries.saturating_sub(1);
            self.standing.remove(&group);
            self.reschedule(group);
        }
    }

    /// How often the group stood since it heard a leader.
    #[must_use]
    pub fn tries(&self, group: GroupId) -> u32 {
        self.groups.get(&group).map_or(0, |g| g.tries)
    }

    /// A leadership transfer is under way, during which leaders are silent: stand no earlier than `until`, or
    /// with `None` as usual again. Always bounded, so a lost end of a transfer mutes nobody.
    pub fn quiet(&mut self, group: GroupId, until: Option<Instant>) {
        self.update(group, |g| g.quiet_until = until);
    }

    /// This broker leaves leadership to others wherever another can take it, or does so no longer.
    pub fn yields(&mut self, yields: bool) {
        self.yields = yields;
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.reschedule(group);
        }
    }

    /// The groups in which this broker's replica should stand at `now`, earliest first. Each counts as having
    /// stood; it is due again after the retry interval if nothing is heard. Those beyond the bound stay due.
    pub fn due(&mut self, now: Instant) -> Vec<GroupId> {
        let silent =
            |(leader, on): (&BrokerId, &RestingOn)| (on.heard + self.times.lease <= now).then_some(*leader);
        let silent: Vec<BrokerId> = self.resting.iter().filter_map(silent).collect();
        for leader in silent {
            self.broker_lost(leader);
        }
        self.standing.retain(|_, until| now < *until);
        let mut due = Vec::new();
        while self.standing.len() < self.standing_max
            && self.next_of_heap().is_some_and(|deadline| deadline <= now)
        {
            let Some(Reverse((_, group))) = self.heap.pop() else { break };
            let Some(g) = self.groups.get_mut(&group) else { continue };
            g.queued = None;
            // A leader has no deadline, so it never comes up.
            g.stand(now);
            due.push(group);
            self.reschedule(group);
            if let Some(until) = self.groups.get(&group).and_then(|g| self.deadline(group, g)) {
                self.standing.insert(group, until);
            }
        }
        due
    }

    /// When [`due`](Self::due) next has something to say, if no event comes before; `None` when never.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let silent = self.resting.values().map(|on| on.heard + self.times.lease).min();
        let full = self.standing.len() >= self.standing_max;
        let turn = if full { self.standing.values().min().copied() } else { None };
        let stands = self.next_of_heap().map(|deadline| turn.map_or(deadline, |turn| deadline.max(turn)));
        silent.into_iter().chain(stands).min()
    }

    fn next_of_heap(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, group)) = *self.heap.peek()?;
            let real = match self.groups.get(&group) {
                Some(g) if g.queued == Some(at) => self.deadline(group, g),
                // Removed, or superseded by an earlier entry.
                _ => {
                    self.heap.pop();
                    continue;
                }
            };
            if real == Some(at) {
                return real;
            }
            self.heap.pop();
            if let Some(g) = self.groups.get_mut(&group) {
                g.queued = real;
            }
            if let Some(real) = real {
                self.heap.push(Reverse((real, group)));
            }
        }
    }

    /// Answers whether the next deadline may be earlier now: the group was queued anew, or another one's turn has come.
    fn update(&mut self, group: GroupId, change: impl FnOnce(&mut Group)) -> bool {
        let Some(g) = self.groups.get_mut(&group) else { return false };
        let before = g.waiting;
        change(g);
        let resolved = !matches!(g.waiting, Waiting::ForVotes(_));
        if resolved {
            g.tries = 0;
        }
        if let (Waiting::Resting(leader), now) = (before, g.waiting)
            && !matches!(now, Waiting::Resting(on) if on == leader)
        {
            self.leave(group, leader);
        }
        let was_full = self.standing.len() >= self.standing_max;
        let made_room = resolved && self.standing.remove(&group).is_some() && was_full;
        self.reschedule(group) || made_room
    }

    /// Queues the group when its deadline is earlier than its heap entry; later ones are put right on the way out.
    fn reschedule(&mut self, group: GroupId) -> bool {
        let Some(g) = self.groups.get(&group) else { return false };
        let Some(deadline) = self.deadline(group, g) else { return false };
        if g.queued.is_some_and(|queued| queued <= deadline) {
            return false;
        }
        self.heap.push(Reverse((deadline, group)));
        if let Some(g) = self.groups.get_mut(&group) {
            g.queued = Some(deadline);
        }
        true
    }

    fn deadline(&self, group: GroupId, g: &Group) -> Option<Instant> {
        let deadline = match g.waiting {
            // By rank in either order: this is no contest, somebody just has to go first.
            Waiting::ForFirstLeader(since) => since + FIRST_ELECTION_STAGGER * g.rank,
            Waiting::ForLeader(since) => since + self.times.lease + self.handicap(group, g),
            Waiting::ForVotes(since) => since + self.patience(g) + self.handicap(group, g),
            Waiting::Leading | Waiting::Resting(_) => return None,
        };
        Some(g.quiet_until.map_or(deadline, |until| deadline.max(until + self.handicap(group, g))))
    }

    /// How long the candidacy under way may stay without result.
    fn patience(&self, g: &Group) -> Duration {
        let doubled = self.times.retry.saturating_mul(1 << g.tries.saturating_sub(1).min(16));
        doubled.min(self.times.lease.max(self.times.retry))
    }

    fn handicap(&self, group: GroupId, g: &Group) -> Duration {
        match self.order {
            Order::ByRank => self.times.stagger * (g.rank + self.yielded(YIELDED_RANKS)),
            Order::Jitter { seed } => {
                let steps = u64::from(JITTER_STAGGERS_MAX) * 1000;
                let step = mix(seed ^ mix(u64::from(group) ^ mix(g.attempts))) % steps;
                self.times.stagger * step as u32 / 1000
                    + self.times.stagger * self.yielded(JITTER_STAGGERS_MAX)
            }
        }
    }

    fn yielded(&self, ranks: u32) -> u32 {
        if self.yields { ranks } else { 0 }
    }
}

/// SplitMix64's finalizer: spreads every bit of `x` over all bits of the result.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: ElectionTimes = ElectionTimes {
        lease: Duration::from_millis(500),
        stagger: Duration::from_millis(50),
        retry: Duration::from_millis(500),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_heap_stays_small_however_many_heartbeats_come() {
        let start = Instant::now();
        let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
        for group in 1..=100 {
            schedule.add(group, group % 3, false, start);
        }
        for beat in 0..1000 {
            for group in 1..=100 {
                schedule.heard(group, start + ms(beat));
            }
        }
        assert_eq!(schedule.heap.len(), 100);
        assert_eq!(schedule.next_deadline(), Some(start + ms(999 + 500)));
    }

    #[test]
    fn an_older_sign_of_life_does_not_move_the_deadline_back() {
        let start = Instant::now();
        let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
        schedule.add(1, 0, false, start);
        schedule.heard(1, start + ms(300));
        schedule.heard(1, start + ms(200));
        assert_eq!(schedule.next_deadline(), Some(start + ms(800)));
    }

    #[test]
    fn the_first_leader_of_a_new_group_makes_the_deadline_earlier_and_later_signs_of_life_do_not() {
        let start = Instant::now();
        let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
        schedule.add(1, 2, true, start);
        assert!(schedule.heard(1, start + ms(10)));
        assert_eq!(schedule.next_deadline(), Some(start + ms(10 + 500 + 2 * 50)));
        assert!(!schedule.heard(1, start + ms(20)));
    }

    #[test]
    fn a_removed_group_is_never_due() {
        let start = Instant::now();
        let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
        schedule.add(1, 0, false, start);
        schedule.remove(1);
        assert_eq!((schedule.due(start + ms(10_000)), schedule.next_deadline()), (vec![], None));
    }

    #[test]
    fn a_group_that_was_not_added_is_ignored() {
        let start = Instant::now();
        let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
        schedule.heard(5, start);
        schedule.leading(5, false, start);
        schedule.stood(5, start);
        assert_eq!(schedule.next_deadline(), None);
    }

    #[test]
    fn with_jitter_the_same_seed_gives_the_same_delays_and_attempts_differ() {
        let start = Instant::now();
        let delays = |seed: u64| {
            let mut schedule = ElectionSchedule::new(TIMES, Order::Jitter { seed });
            schedule.add(1, 0, false, start);
            let mut at = start;
            let mut delays = Vec::new();
            for _ in 0..5 {
                let next = schedule.next_deadline().unwrap();
                delays.push(next - at);
                assert_eq!(schedule.due(next).len(), 1);
                at = next;
            }
            delays
        };
        let first = delays(1);
        assert_eq!(first, delays(1));
        assert_ne!(first, delays(2));
        assert!(first.windows(2).any(|pair| pair[0] != pair[1]));
        let longest = TIMES.lease + TIMES.stagger * JITTER_STAGGERS_MAX;
        assert!(first.iter().all(|delay| (TIMES.lease..longest).contains(delay)), "{first:?}");
    }

    #[test]
    fn unanswered_candidacies_repeat_after_the_retry_interval_plus_the_ranks_stagger() {
        let start = Instant::now();
        for rank in 0..7 {
            let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
            schedule.add(1, rank, false, start);
            for round in 1..=4 {
                let next = schedule.next_deadline().unwrap();
                assert_eq!(next, start + (TIMES.lease + TIMES.stagger * rank) * round);
                assert_eq!(schedule.due(next), [1]);
            }
        }
    }

    #[test]
    fn waits_double_from_try_to_try_up_to_a_lease_and_start_anew_once_a_leader_was_heard() {
        let start = Instant::now();
        let times = ElectionTimes { retry: ms(50), ..TIMES };
        let mut schedule = ElectionSchedule::new(times, Order::ByRank);
        schedule.add(1, 0, true, start);
        let tried_at = |schedule: &mut ElectionSchedule| {
            let next = schedule.next_deadline().unwrap();
            assert_eq!(schedule.due(next), [1]);
            next
        };
        let mut at = tried_at(&mut schedule);
        for wait in [50, 100, 200, 400, 500, 500] {
            let next = tried_at(&mut schedule);
            assert_eq!(next - at, ms(wait));
            at = next;
        }
        assert_eq!(schedule.tries(1), 7);
        schedule.heard(1, at);
        assert_eq!(schedule.tries(1), 0);
        at = tried_at(&mut schedule);
        assert_eq!(tried_at(&mut schedule) - at, ms(50));
    }

    #[test]
    fn of_many_groups_that_fall_silent_at_once_a_few_stand_at_a_time_and_each_gets_its_turn() {
        let start = Instant::now();
        let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank).with_standing_max(3);
        for group in 1..=10 {
            // In this order.
            schedule.add(group, 0, false, start + ms(u64::from(group)));
        }
        let mut now = start + ms(1_000);
        assert_eq!(schedule.due(now), [1, 2, 3]);
        assert!(schedule.due(now).is_empty(), "there is no room");
        assert_eq!(
            schedule.next_deadline(),
            Some(now + TIMES.retry),
            "until then nobody's turn comes by itself"
        );
        // One wins, one hears another leader: two places are free at once.
        assert!(schedule.heard(1, now), "whoever sleeps is to look again");
        schedule.leading(2, true, now);
        now += ms(1);
        assert!(schedule.next_deadline().unwrap() <= now);
        assert_eq!(schedule.due(now), [4, 5]);
        // Nobody answers any more. Those that wait come before those that stand again.
        let mut turns = Vec::new();
        while turns.len() < 5 {
            now = schedule.next_deadline().unwrap();
            turns.extend(schedule.due(now));
            assert!(schedule.standing.len() <= 3);
        }
        assert_eq!(turns[..5], [6, 7, 8, 9, 10]);
    }

    #[test]
    fn who_cannot_stand_takes_no_room_and_waits_no_longer_for_it() {
        let start = Instant::now();
        let times = ElectionTimes { retry: ms(50), ..TIMES };
        let mut schedule = ElectionSchedule::new(times, Order::ByRank).with_standing_max(1);
        schedule.add(1, 0, false, start);
        schedule.add(2, 0, false, start + ms(1));
        let mut now = start + ms(1_000);
        for _ in 0..6 {
            for group in [1, 2] {
                assert_eq!(schedule.due(now), [group]);
                schedule.did_not_stand(group);
            }
            assert!(schedule.due(now).is_empty());
            assert_eq!(schedule.next_deadline(), Some(now + times.retry));
            now += times.retry;
        }
        assert_eq!(schedule.tries(1), 0);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Heard(u32),
        Leading(u32, bool),
        Stood(u32),
        Quiet(u32, Option<u64>),
        Rest(u32, u64),
        BrokerHeard(u64),
        BrokerLost(u64),
        Due,
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let event = prop_oneof![
            (1u32..=4).prop_map(Event::Heard),
            (1u32..=4, any::<bool>()).prop_map(|(g, leads)| Event::Leading(g, leads)),
            (1u32..=4).prop_map(Event::Stood),
            (1u32..=4, proptest::option::of(0u64..2000)).prop_map(|(g, until)| Event::Quiet(g, until)),
            (1u32..=4, 1u64..=2).prop_map(|(g, leader)| Event::Rest(g, leader)),
            (1u64..=2).prop_map(Event::BrokerHeard),
            (1u64..=2).prop_map(Event::BrokerLost),
            Just(Event::Due),
        ];
        proptest::collection::vec((0u64..400, event), 0..60)
    }

    /// When the group stands, or with `stands` false when there is something to look at; worked out without the heap.
    fn scanned(schedule: &ElectionSchedule, id: u32, g: &Group, stands: bool) -> Option<Instant> {
        match g.waiting {
            Waiting::Resting(leader) => {
                let silent = schedule.resting[&leader].heard + TIMES.lease;
                let handicap = schedule.handicap(id, g);
                let stood = g.quiet_until.map_or(silent, |until| silent.max(until)) + handicap;
                Some(if stands { stood } else { silent })
            }
            _ => schedule.deadline(id, g),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// All replicas heard the leader last at the same instant; the dead ones are silent.
        #[test]
        fn when_everyone_is_silent_the_best_ranked_alive_stands_first_and_alone(
            alive in proptest::collection::btree_set(0u32..7, 1..=7),
        ) {
            let start = Instant::now();
            let mut schedules: Vec<_> = alive
                .iter()
                .map(|rank| {
                    let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank);
                    schedule.add(1, *rank, false, start);
                    (*rank, schedule)
                })
                .collect();
            let first = schedules.iter_mut().map(|(_, s)| s.next_deadline().unwrap()).min().unwrap();
            let stands = |(rank, schedule): &mut (u32, ElectionSchedule)| {
                (!schedule.due(first).is_empty()).then_some(*rank)
            };
            let standing: Vec<u32> = schedules.iter_mut().filter_map(stands).collect();
            prop_assert_eq!(standing, vec![*alive.first().unwrap()]);
        }

        /// The lazily kept heap says what a plain scan over all groups would say.
        #[test]
        fn the_heap_agrees_with_a_scan_of_all_groups(events in events(), standing_max in 1usize..=4) {
            let start = Instant::now();
            let mut schedule = ElectionSchedule::new(TIMES, Order::ByRank).with_standing_max(standing_max);
            for group in 1..=4 {
                schedule.add(group, group % 3, group == 4, start);
            }
            let mut now = start;
            for (wait, event) in events {
                now += ms(wait);
                match event {
                    Event::Heard(g) => {
                        schedule.heard(g, now);
                    }
                    Event::Leading(g, leads) => schedule.leading(g, leads, now),
                    Event::Stood(g) => schedule.stood(g, now),
                    Event::Quiet(g, until) => schedule.quiet(g, until.map(|until| now + ms(until))),
                    Event::Rest(g, leader) => schedule.rest(g, leader, now),
                    Event::BrokerHeard(leader) => schedule.broker_heard(leader, now),
                    Event::BrokerLost(leader) => {
                        schedule.broker_lost(leader);
                    }
                    Event::Due => {
                        let overdue = |(id, g): (&u32, &Group)| {
                            scanned(&schedule, *id, g, true).is_some_and(|at| at <= now).then_some(*id)
                        };
                        let expected: Vec<u32> = schedule.groups.iter().filter_map(overdue).collect();
                        let under_way = schedule.standing.values().filter(|until| **until > now).count();
                        let due: Vec<u32> = schedule.due(now);
                        prop_assert!(due.iter().all(|id| expected.contains(id)), "{due:?} of {expected:?}");
                        prop_assert_eq!(due.len(), expected.len().min(standing_max.saturating_sub(under_way)));
                        prop_assert!(schedule.standing.len() <= standing_max);
                    }
                }
                let earliest =
                    schedule.groups.iter().filter_map(|(id, g)| scanned(&schedule, *id, g, false)).min();
                let next = schedule.next_deadline();
                match schedule.standing.values().min() {
                    // Nobody stands before there is room; whoever rests may still have to be looked at.
                    Some(room) if schedule.standing.len() >= standing_max => {
                        prop_assert!(next >= earliest && next <= earliest.map(|at| at.max(*room)));
                    }
                    _ => prop_assert_eq!(next, earliest),
                }
            }
        }
    }
}
