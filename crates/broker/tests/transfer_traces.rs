//! How one transfer goes: the scripts of `testdata/transfer`.
//!
//! Broker 0 leads in term 5 and hands over to broker 1.
//!
//! ```text
//! 0ms begin
//! 1ms probe ready                        or: probe failed REASON
//! 2ms see leader=0 term=5 last=110 matched=90 bytes=0
//! 3ms frozen
//! 4ms stand accepted                     or: stand rejected REASON
//! 5ms replica stopped
//! ```

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use evenkeel_broker::transfer::{Effect, Event, FREEZE_MS_MAX, Limits, Transfer, View};
use evenkeel_protocol::NodeId;

const LIMITS: Limits = Limits {
    probe: Duration::from_millis(200),
    catch_up: Duration::from_secs(10),
    freeze: Duration::from_millis(FREEZE_MS_MAX),
    leader_wait: Duration::from_secs(3),
    lag_bytes_max: 1 << 20,
};

#[test]
fn transfers_follow_their_scripts() {
    evenkeel_golden::run("transfer", || {
        let start = Instant::now();
        let mut transfer: Option<Transfer> = None;
        move |line| {
            let (at, command) = line.split_once(' ').unwrap();
            let now = start + humantime::parse_duration(at).unwrap();
            let effects = match command {
                "begin" => {
                    let (begun, effects) = Transfer::new(NodeId(0), NodeId(1), 5, LIMITS, now);
                    transfer = Some(begun);
                    effects
                }
                command => transfer.as_mut().unwrap().on(event(command), now),
            };
            print(at, &effects, transfer.as_ref().unwrap())
        }
    });
}

fn event(command: &str) -> Event {
    match command.split_once(' ') {
        Some(("probe", "ready")) => Event::ProbeReady,
        Some(("probe", failed)) => Event::ProbeFailed(failed.trim_start_matches("failed ").to_owned()),
        Some(("stand", "accepted")) => Event::StandAccepted,
        Some(("stand", rejected)) => {
            Event::StandRejected(rejected.trim_start_matches("rejected ").to_owned())
        }
        Some(("see", facts)) => Event::Seen(view(facts)),
        Some(("replica", "stopped")) => Event::ReplicaStopped,
        None if command == "frozen" => Event::Frozen,
        _ => panic!("unknown command {command}"),
    }
}

fn view(facts: &str) -> View {
    let facts: HashMap<&str, &str> = facts.split_whitespace().map(|f| f.split_once('=').unwrap()).collect();
    let number = |key: &str| facts.get(key).map(|v| v.parse::<u64>().unwrap());
    View {
        term: number("term").unwrap(),
        leader: facts.get("leader").and_then(|l| l.parse().ok()).map(NodeId),
        last_index: number("last").unwrap_or(0),
        target_matched: number("matched"),
        lag_bytes: match facts.get("bytes") {
            Some(&"unknown") => None,
            _ => Some(number("bytes").unwrap_or(0)),
        },
    }
}

fn print(at: &str, effects: &[Effect], transfer: &Transfer) -> String {
    let mut printed = String::new();
    for effect in effects {
        let text = match effect {
            Effect::Probe => "probe broker 1",
            Effect::CloseGate => "close the gate",
            Effect::AskToStand => "ask broker 1 to stand",
            Effect::OpenGate => "open the gate",
            Effect::VoidLease => "answer no more reads from the lease",
            Effect::Unload => "unload",
            Effect::Load => "load",
        };
        let _ = writeln!(printed, "{at} {text}");
    }
    if let Some(outcome) = transfer.outcome() {
        let _ = writeln!(printed, "{at} ended: {outcome:?}");
        let spent = transfer.spent();
        let phases = spent.phases;
        let ms = |duration: Duration| duration.as_millis();
        let _ = writeln!(
            printed,
            "{at} took: probe {}ms, catch-up {}ms, freeze {}ms, election {}ms; gate closed {}ms",
            ms(phases.probe),
            ms(phases.catch_up),
            ms(phases.freeze),
            ms(phases.election),
            ms(spent.gate_closed)
        );
    }
    printed
}
