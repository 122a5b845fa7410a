//! What is done to the cluster, and when: a function of the seed alone.
//!
//! Faults are dealt like cards: each kind comes once, in random order, before any comes again, so that a short round too
//! sees all of them. Who is hit, how and for how long is drawn as well.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Which ways between two ends are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ways {
    /// What the victim sends.
    Out,
    /// What the victim is sent.
    In,
    Both,
}

/// Which segment's bits are flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentChoice {
    Sealed,
    Active,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// kill -9.
    KillBroker(usize),
    KillGateway(usize),
    /// SIGSTOP, then SIGCONT.
    PauseBroker(usize),
    PauseGateway(usize),
    /// A broker from all other brokers, and from nobody else.
    CutFromBrokers(usize, Ways),
    /// A broker from everything.
    Isolate(usize, Ways),
    /// One broker from one other.
    CutBrokers(usize, usize, Ways),
    /// One gateway from one broker.
    CutGateway {
        gateway: usize,
        broker: usize,
        ways: Ways,
    },
    /// A gateway from its clients.
    CutClients(usize, Ways),
    /// Nothing is free on a broker's disk.
    FillDisk(usize),
    /// A bit of a stopped broker's log is wrong.
    FlipBit(usize, SegmentChoice),
    /// kill -9 for all brokers and gateways at once.
    RestartAll,
    /// SIGTERM for one broker after the other.
    RollBrokers,
    RollGateways,
    /// Two faults of a majority's loss: nothing can be written until it is over.
    KillTwoBrokers(usize),
}

/// One fault with its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Between the health of the cluster and this.
    pub after: Duration,
    pub fault: Fault,
    /// For faults that have an end of their own.
    pub lasts: Duration,
}

const KINDS: u32 = 15;
const AFTER_MS: std::ops::Range<u64> = 100..700;
/// Also longer than any failover should take, so that a slow one shows.
const LASTS_MS: std::ops::Range<u64> = 300..5_000;

/// Endless.
pub struct Schedule {
    random: StdRng,
    brokers: usize,
    gateways: usize,
    deck: Vec<u32>,
}

impl Schedule {
    pub fn new(seed: u64, brokers: usize, gateways: usize) -> Self {
        Self { random: StdRng::seed_from_u64(seed), brokers, gateways, deck: Vec::new() }
    }

    fn ways(&mut self) -> Ways {
        [Ways::Out, Ways::In, Ways::Both][self.random.random_range(0..3)]
    }

    fn deal(&mut self) -> u32 {
        if self.deck.is_empty() {
            self.deck = (0..KINDS).collect();
            self.deck.shuffle(&mut self.random);
        }
        self.deck.pop().unwrap_or_default()
    }

    fn fault(&mut self) -> Fault {
        let kind = self.deal();
        let broker = self.random.random_range(0..self.brokers);
        let gateway = self.random.random_range(0..self.gateways);
        let other = (broker + self.random.random_range(1..self.brokers)) % self.brokers;
        let ways = self.ways();
        match kind {
            0 => Fault::KillBroker(broker),
            1 => Fault::KillGateway(gateway),
            2 => Fault::PauseBroker(broker),
            3 => Fault::PauseGateway(gateway),
            4 => Fault::CutFromBrokers(broker, ways),
            5 => Fault::Isolate(broker, ways),
            6 => Fault::CutBrokers(broker, other, ways),
            7 => Fault::CutGateway { gateway, broker, ways },
            8 => Fault::CutClients(gateway, ways),
            9 => Fault::FillDisk(broker),
            10 => Fault::FlipBit(broker, SegmentChoice::Sealed),
            11 => Fault::FlipBit(broker, SegmentChoice::Active),
            12 => Fault::RestartAll,
            13 if self.random.random_bool(0.7) => Fault::RollBrokers,
            13 => Fault::RollGateways,
            _ => Fault::KillTwoBrokers(broker),
        }
    }
}

impl Iterator for Schedule {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let fault = self.fault();
        let after = Duration::from_millis(self.random.random_range(AFTER_MS));
        let lasts = Duration::from_millis(self.random.random_range(LASTS_MS));
        Some(Event { after, fault, lasts })
    }
}

#[test]
fn a_schedule_is_a_function_of_its_seed_and_deals_every_kind_before_any_comes_again() {
    let of = |seed| Schedule::new(seed, 3, 2).take(3 * KINDS as usize).collect::<Vec<_>>();
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
    for hand in of(7).chunks(KINDS as usize) {
        let kind = |event: &Event| match event.fault {
            Fault::FlipBit(_, choice) => format!("FlipBit {choice:?}"),
            Fault::RollGateways => "RollBrokers".to_owned(),
            fault => format!("{fault:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
        };
        let kinds: std::collections::BTreeSet<String> = hand.iter().map(kind).collect();
        assert_eq!(kinds.len(), KINDS as usize, "{kinds:?}");
    }
}
