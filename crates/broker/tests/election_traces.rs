//! Who stands for election when: the scripts of `testdata/election`.
//!
//! ```text
//! times lease=500ms stagger=50ms retry=500ms   intervals of the brokers that follow
//! order rank | order jitter                    priority election on or off
//! 0ms add p1 b0 rank=0 [new]                   b0 has a replica; new: its group had no leader yet
//! 100ms heard p1 b1 b2                         these heard the leader
//! 100ms lead p1 b0                             b0 leads; `follow`: no longer
//! 100ms stood p1 b1                            b1 stood for another reason
//! 100ms quiet p1 b1 until=300ms                a transfer is under way; until=off: no longer
//! 100ms yield b0                               b0 stands only where nobody else does; `claim b0`: no longer
//! 100ms rest p1 b1 on=b0                       b0 leads p1 and is silent about it: b1 trusts it while it hears b0
//! 100ms beat b0                                the others hear the broker b0; `cut b0`: they lost it
//! 100ms die b0                                 b0 is gone
//! 900ms                                        time passes
//! ```
//! Whatever falls due up to a command's time is printed before the command takes effect.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use evenkeel_broker::election::{ElectionSchedule, ElectionTimes, Order};

struct Cluster {
    start: Instant,
    times: ElectionTimes,
    jitter: bool,
    brokers: BTreeMap<String, ElectionSchedule>,
}

impl Cluster {
    fn new() -> Self {
        let ms = Duration::from_millis;
        let times = ElectionTimes { lease: ms(500), stagger: ms(50), retry: ms(500) };
        Self { start: Instant::now(), times, jitter: false, brokers: BTreeMap::new() }
    }

    fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["times", lease, stagger, retry] => {
                let [lease, stagger, retry] = [("lease", lease), ("stagger", stagger), ("retry", retry)]
                    .map(|(k, w)| duration(value(k, w)));
                self.times = ElectionTimes { lease, stagger, retry };
                String::new()
            }
            ["order", order] => {
                self.jitter = order == "jitter";
                String::new()
            }
            [time, ref event @ ..] => {
                let now = self.start + duration(time);
                let printed = self.advance(now);
                if !event.is_empty() {
                    self.event(event, now);
                }
                printed
            }
            [] => String::new(),
        }
    }

    fn event(&mut self, event: &[&str], now: Instant) {
        if let ["die", broker] = event {
            self.brokers.remove(*broker);
            return;
        }
        if let [name @ ("yield" | "claim"), broker] = event {
            self.brokers.get_mut(*broker).unwrap().yields(*name == "yield");
            return;
        }
        if let [name @ ("beat" | "cut"), leader] = event {
            for (_, schedule) in self.brokers.iter_mut().filter(|(broker, _)| *broker != leader) {
                match *name {
                    "beat" => schedule.broker_heard(number(leader), now),
                    _ => drop(schedule.broker_lost(number(leader))),
                }
            }
            return;
        }
        let [name, group, rest @ ..] = event else { panic!("unknown event {event:?}") };
        let group: u32 = group.strip_prefix('p').unwrap().parse().unwrap();
        if let ("add", [broker, rank, new @ ..]) = (*name, rest) {
            let seed = number(broker);
            let order = if self.jitter { Order::Jitter { seed } } else { Order::ByRank };
            let schedule = || ElectionSchedule::new(self.times, order);
            let rank = value("rank", rank).parse().unwrap();
            let broker = self.brokers.entry((*broker).to_owned()).or_insert_with(schedule);
            broker.add(group, rank, !new.is_empty(), now);
            return;
        }
        let (options, brokers): (Vec<&str>, Vec<&str>) = rest.iter().partition(|word| word.contains('='));
        for broker in brokers {
            let schedule = self.brokers.get_mut(broker).unwrap_or_else(|| panic!("no broker {broker}"));
            match *name {
                "heard" => {
                    schedule.heard(group, now);
                }
                "lead" => schedule.leading(group, true, now),
                "follow" => schedule.leading(group, false, now),
                "stood" => schedule.stood(group, now),
                "rest" => schedule.rest(group, number(value("on", options[0])), now),
                "quiet" => {
                    let until = value("until", options[0]);
                    schedule.quiet(group, (until != "off").then(|| self.start + duration(until)));
                }
                other => panic!("unknown event {other}"),
            }
        }
    }

    fn advance(&mut self, now: Instant) -> String {
        let mut printed = String::new();
        let next = |brokers: &mut BTreeMap<String, ElectionSchedule>| {
            let deadlines = brokers.values_mut().filter_map(ElectionSchedule::next_deadline);
            deadlines.min().filter(|at| *at <= now)
        };
        while let Some(at) = next(&mut self.brokers) {
            for (broker, schedule) in &mut self.brokers {
                for group in schedule.due(at) {
                    let at = at.duration_since(self.start).as_millis();
                    let _ = writeln!(printed, "{at}ms {broker} stands for p{group}");
                }
            }
        }
        printed
    }
}

fn number(broker: &str) -> u64 {
    broker.strip_prefix('b').unwrap().parse().unwrap()
}

fn value<'a>(key: &str, word: &'a str) -> &'a str {
    word.strip_prefix(key)
        .and_then(|rest| rest.strip_prefix('='))
        .unwrap_or_else(|| panic!("expected {key}=…, found {word}"))
}

fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap()
}

#[test]
fn replicas_stand_when_the_scripts_say() {
    evenkeel_golden::run("election", || {
        let mut cluster = Cluster::new();
        move |line: &str| cluster.command(line)
    });
}
