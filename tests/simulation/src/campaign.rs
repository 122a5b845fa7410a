//! Many seeds: each in a process of its own, a few at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;

use crate::process;
use crate::run::{Plan, Report};

/// A known bug must be found within so many seeds.
const FISH_SEEDS_MAX: u64 = 500;

pub struct Campaign {
    pub seconds: u64,
    pub jobs: usize,
    pub bug: Option<String>,
}

impl Default for Campaign {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Self { seconds: 60, jobs, bug: None }
    }
}

/// Prints what came of one seed and what it took of the processor; whether it was as it should be.
pub fn tell(plan: Plan, report: &Report, took: Duration, bug: Option<&str>) -> bool {
    let Plan { seed, simulated, .. } = plan;
    let counts: Vec<String> = report.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    let verdict = if report.failure.is_some() { "FAILED" } else { "ok" };
    println!(
        "seed {seed}: {verdict}, {} s in {:.1} s, led again after {} ms, trace {:016x} of {} events; {}",
        simulated.as_secs(),
        took.as_secs_f64(),
        report.led_after.as_millis(),
        report.hash,
        report.events,
        counts.join(", ")
    );
    let Some(failure) = &report.failure else { return true };
    println!("seed {seed} failed: {failure}");
    for line in &report.tail {
        println!("    {line}");
    }
    let bug = bug.map_or(String::new(), |bug| format!(" --bug {bug}"));
    let features = if cfg!(feature = "known-bugs") { " --features known-bugs" } else { "" };
    println!(
        "replay: cargo run -p evenkeel-simulation{features} -- seed {seed} --seconds {}{bug} --trace",
        simulated.as_secs()
    );
    false
}

impl Campaign {
    /// Runs all seeds and prints the failed ones; whether there were none.
    pub fn run(&self, seeds: Range<u64>) -> anyhow::Result<bool> {
        let began = Instant::now();
        let total = seeds.end.saturating_sub(seeds.start);
        let failed = self.each(seeds, false)?;
        let took = began.elapsed().as_secs_f64();
        let used = process::processor_time_of_children().as_secs_f64();
        let per_minute = |seconds: f64| total as f64 * 60.0 / seconds.max(0.001);
        println!(
            "{total} seeds of {} s, {} failed; {took:.0} s with {} at a time: {:.1} seeds a minute, \
             {:.1} in a minute of one core",
            self.seconds,
            failed.len(),
            self.jobs,
            per_minute(took),
            per_minute(used)
        );
        for seed in failed.keys() {
            println!("failed: seed {seed}");
        }
        Ok(failed.is_empty())
    }

    /// Looks for each known bug, seed after seed, until it is found.
    pub fn fish(&self) -> anyhow::Result<bool> {
        let names = bugs();
        anyhow::ensure!(
            !names.is_empty(),
            "known bugs are not compiled in: build with --features known-bugs"
        );
        let mut all_found = true;
        for name in names {
            let began = Instant::now();
            let hunt = Self { seconds: self.seconds, jobs: self.jobs, bug: Some(name.to_owned()) };
            let failed = hunt.each(0..FISH_SEEDS_MAX, true)?;
            match failed.first_key_value() {
                Some((seed, output)) => {
                    let marker = format!("seed {seed} failed: ");
                    let why = output.split(&marker).nth(1).and_then(|rest| rest.lines().next()).unwrap_or("");
                    println!("{name}: found by seed {seed}, {:.0} s: {why}", began.elapsed().as_secs_f64());
                }
                None => {
                    println!("{name}: NOT found within {FISH_SEEDS_MAX} seeds");
                    all_found = false;
                }
            }
        }
        Ok(all_found)
    }

    /// The outputs of the seeds that failed. With `first_only`, seeds after a failed one are not begun.
    fn each(&self, seeds: Range<u64>, first_only: bool) -> anyhow::Result<BTreeMap<u64, String>> {
        let program = std::env::current_exe().context("this program's own path")?;
        let next = AtomicU64::new(seeds.start);
        let found = AtomicBool::new(false);
        let failed = Mutex::new(BTreeMap::new());
        let work = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || (first_only && found.load(Ordering::Relaxed)) {
                    return Ok(());
                }
                let mut command = Command::new(&program);
                command.args(["seed", &seed.to_string(), "--seconds", &self.seconds.to_string()]);
                if let Some(bug) = &self.bug {
                    command.args(["--bug", bug]);
                }
                let output = command.stdin(Stdio::null()).output().context("start a run")?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                if output.status.success() {
                    if !first_only {
                        print!("{text}");
                    }
                    continue;
                }
                let ended = output.status;
                let text = format!("{text}{}seed {seed}: {ended}\n", String::from_utf8_lossy(&output.stderr));
                if !first_only {
                    println!("{text}");
                }
                found.store(true, Ordering::Relaxed);
                failed.lock().insert(seed, text);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(worked) => worked,
                Err(_) => anyhow::bail!("a worker panicked"),
            })
        })?;
        Ok(failed.into_inner())
    }
}

#[cfg(feature = "known-bugs")]
fn bugs() -> Vec<&'static str> {
    evenkeel_raft_storage::known_bugs::KnownBug::ALL.iter().map(|(_, name)| *name).collect()
}

#[cfg(not(feature = "known-bugs"))]
fn bugs() -> Vec<&'static str> {
    Vec::new()
}
