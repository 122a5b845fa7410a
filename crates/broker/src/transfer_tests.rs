//! What holds of every transfer, whatever its targets do and in whatever order events come.

use proptest::prelude::*;

use super::*;

const ME: NodeId = NodeId(0);
const TERM: u64 = 5;

fn limits() -> Limits {
    Limits {
        probe: Duration::from_millis(200),
        catch_up: Duration::from_secs(10),
        freeze: Duration::from_millis(FREEZE_MS_MAX),
        leader_wait: Duration::from_secs(3),
        lag_bytes_max: 1 << 20,
    }
}

fn views() -> impl Strategy<Value = View> {
    let mine = (Just(TERM), Just(Some(ME)));
    let newer = (Just(TERM + 1), proptest::option::of((0u64..4).prop_map(NodeId)));
    // Mostly targets that come close: others end before anything is at stake.
    let lag = prop_oneof![4 => Just(Some(0u64)), 2 => (0..=80u64).prop_map(Some), 1 => Just(None), 1 => Just(Some(2_000))];
    (prop_oneof![6 => mine, 1 => newer], lag).prop_map(|((term, leader), lag)| View {
        term,
        leader,
        last_index: 5_000,
        target_matched: lag.map(|lag| 5_000 - lag),
        lag_bytes: Some(lag.unwrap_or(0) * 1_024),
    })
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        6 => views().prop_map(Event::Seen),
        3 => Just(Event::ProbeReady),
        3 => Just(Event::Frozen),
        2 => Just(Event::StandAccepted),
        1 => Just(Event::StandRejected("its log is not flushed".to_owned())),
        1 => Just(Event::ProbeFailed("connection refused".to_owned())),
        1 => Just(Event::ReplicaStopped),
    ];
    let pause = prop_oneof![4 => 0..5u64, 2 => 0..60u64, 1 => 0..5_000u64];
    proptest::collection::vec((pause, event), 0..40)
}

/// A driver that keeps its side: it carries effects out at once and looks again at every deadline.
struct Driver {
    now: Instant,
    closed_at: Option<Instant>,
    closed: Duration,
    loaded: bool,
    asked: bool,
}

impl Driver {
    fn carry_out(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Probe | Effect::VoidLease => {}
                Effect::CloseGate => assert_eq!(self.closed_at.replace(self.now), None, "closed twice"),
                Effect::OpenGate => self.closed += self.now - self.closed_at.take().expect("it was closed"),
                Effect::Unload => assert!(std::mem::replace(&mut self.loaded, false), "unloaded twice"),
                Effect::Load => assert!(!std::mem::replace(&mut self.loaded, true), "loaded twice"),
                Effect::AskToStand => {
                    let closed = self.now - self.closed_at.expect("writes wait while the target stands");
                    assert!(!self.loaded, "the old owner unloads first");
                    let spent = self.closed + closed + Duration::from_millis(STAND_MS_MIN);
                    assert!(spent <= limits().freeze, "too late to ask: {spent:?}");
                    self.asked = true;
                }
            }
        }
    }

    /// One attempt from its beginning to its outcome.
    fn attempt(&mut self, target: NodeId, limits: Limits, script: Vec<(u64, Event)>) -> Transfer {
        let (mut transfer, effects) = Transfer::new(ME, target, TERM, limits, self.now);
        let started = self.now;
        self.asked = false;
        self.carry_out(&effects);
        let nothing_new = View {
            term: TERM,
            leader: Some(ME),
            last_index: 5_000,
            target_matched: Some(4_900),
            lag_bytes: Some(0),
        };
        let rest = std::iter::repeat((60_000, Event::Seen(nothing_new)));
        for (pause, event) in script.into_iter().chain(rest) {
            let due = self.now + Duration::from_millis(pause);
            while transfer.outcome().is_none() && transfer.deadline() <= due {
                self.now = self.now.max(transfer.deadline());
                let effects = transfer.on(Event::Seen(nothing_new), self.now);
                self.carry_out(&effects);
            }
            if transfer.outcome().is_some() {
                break;
            }
            self.now = due;
            let effects = transfer.on(event, self.now);
            self.carry_out(&effects);
        }
        let phases = transfer.spent().phases;
        let total = phases.probe + phases.catch_up + phases.freeze + phases.election;
        assert_eq!(total, self.now - started, "every moment belongs to a phase");
        transfer
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_step_down_never_holds_writes_back_for_longer_than_its_budget(
        scripts in proptest::collection::vec(events(), 1..5),
    ) {
        let mut attempts = Attempts::new(limits());
        let now = Instant::now();
        let mut driver = Driver { now, closed_at: None, closed: Duration::ZERO, loaded: true, asked: false };
        for (target, script) in (1..).map(NodeId).zip(scripts) {
            let Some(limits) = attempts.next_limits() else { break };
            let transfer = driver.attempt(target, limits, script);
            attempts.add(transfer.spent());
            prop_assert_eq!(driver.closed_at, None, "the gate is open at the end");
            prop_assert_eq!(driver.closed, attempts.spent().gate_closed, "what is reported is what was");
            prop_assert!(driver.closed <= Duration::from_millis(FREEZE_MS_MAX));
            let over = matches!(transfer.outcome(), Some(Outcome::Transferred | Outcome::LeaderChanged(_)));
            prop_assert!(driver.loaded || (over && driver.asked), "who leads on is loaded");
            if transfer.outcome() == Some(&Outcome::Transferred) {
                prop_assert!(driver.asked);
            }
            if over {
                break;
            }
        }
    }
}

#[test]
fn targets_that_spend_the_freeze_leave_none_for_the_next() {
    let now = Instant::now();
    let mut driver = Driver { now, closed_at: None, closed: Duration::ZERO, loaded: true, asked: false };
    let mut attempts = Attempts::new(limits());
    let caught_up =
        View { term: TERM, leader: Some(ME), last_index: 9, target_matched: Some(9), lag_bytes: Some(0) };
    // Writes stay unanswered: the gate never closes altogether.
    let stuck = vec![(1, Event::ProbeReady), (1, Event::Seen(caught_up))];
    let limits = attempts.next_limits().expect("nothing is spent yet");
    let transfer = driver.attempt(NodeId(1), limits, stuck);
    attempts.add(transfer.spent());
    assert_eq!(transfer.outcome(), Some(&Outcome::PauseFailed));
    assert_eq!(attempts.spent().gate_closed, Duration::from_millis(FREEZE_MS_MAX - STAND_MS_MIN));
    assert!(attempts.next_limits().is_none());
}

#[test]
fn targets_that_cost_no_writes_leave_the_whole_freeze_to_the_next() {
    let now = Instant::now();
    let mut driver = Driver { now, closed_at: None, closed: Duration::ZERO, loaded: true, asked: false };
    let mut attempts = Attempts::new(limits());
    for target in 1..4 {
        let limits = attempts.next_limits().expect("no writes have waited");
        assert_eq!(limits.freeze, Duration::from_millis(FREEZE_MS_MAX));
        attempts.add(driver.attempt(NodeId(target), limits, vec![]).spent());
    }
    let spent = attempts.spent();
    assert_eq!((spent.gate_closed, spent.phases.probe), (Duration::ZERO, 3 * limits().probe));
}
