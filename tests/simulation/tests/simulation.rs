//! A few short seeds with every test run, and the proof that a run is a function of its seed.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel-simulation"));
    command.args(arguments);
    command
}

fn simulate(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// `EVENKEEL_SIMULATION_SEEDS=FROM..TO` and `EVENKEEL_SIMULATION_SECONDS` ask for more.
#[test]
fn clusters_keep_their_promises_whatever_the_seed() {
    let seeds = std::env::var("EVENKEEL_SIMULATION_SEEDS").unwrap_or_else(|_| "0..6".into());
    let seconds = std::env::var("EVENKEEL_SIMULATION_SECONDS").unwrap_or_else(|_| "20".into());
    let ran = simulate(&["seeds", &seeds, "--seconds", &seconds]);
    assert!(ran.status.success(), "{}", text(&ran));
    println!("{}", text(&ran));
}

#[test]
fn a_seed_gives_the_same_run_every_time_logged_or_not() {
    let run = |mut command: Command| {
        let ran = command.output().unwrap();
        let told = text(&ran);
        assert!(ran.status.success(), "{told}");
        // All but how long it took in real time.
        let (trace, verdict) =
            told.split_once("seed 7: ok").map(|(t, v)| (t.to_owned(), v.to_owned())).unwrap();
        let verdict = verdict.split_once("led again").unwrap().1.to_owned();
        assert!(trace.lines().count() > 100, "{told}");
        (trace, verdict)
    };
    let traced = || command(&["seed", "7", "--seconds", "15", "--trace"]);
    let (first, again) = (run(traced()), run(traced()));
    for (one, other) in first.0.lines().zip(again.0.lines()) {
        assert_eq!(one, other, "the first line that differs");
    }
    assert_eq!(first, again);
    let mut logged = traced();
    logged.env("EVENKEEL_LOG", "evenkeel_broker=info");
    let (trace_and_log, verdict) = run(logged);
    assert!(trace_and_log.contains("INFO"), "{trace_and_log}");
    assert_eq!(verdict, first.1);
}

#[test]
fn what_is_not_understood_is_refused_with_the_usage() {
    for arguments in [&["seeds", "7"][..], &["seed", "x"], &["seed", "1", "--bug", "none"], &[]] {
        let ran = simulate(arguments);
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}: {}", text(&ran));
        assert!(text(&ran).contains("usage: evenkeel-simulation"), "{arguments:?}");
    }
}
