//! Simulates a cluster: `evenkeel-simulation seeds 0..100` runs whole brokers and a gateway on simulated disks, network
//! and time, once per seed; `evenkeel-simulation seed 17 --trace` replays one. See docs/reliability.md.

mod campaign;
mod chance;
mod clients;
mod flipped_bit;
mod machine;
mod nemesis;
mod network;
mod process;
mod run;
mod trace;
mod witness;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::campaign::Campaign;
use crate::run::Plan;

const USAGE: &str = "\
usage: evenkeel-simulation seed N [--seconds S] [--bug NAME] [--trace]
       evenkeel-simulation seeds FROM..TO [--seconds S] [--bug NAME] [--jobs J]
       evenkeel-simulation fish [--seconds S] [--jobs J]      each known bug, until it is found; needs --features known-bugs";

fn main() -> ExitCode {
    match command() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was as it should be.
fn command() -> anyhow::Result<bool> {
    let mut words = std::env::args().skip(1);
    let verb = words.next().context("what is to be simulated?")?;
    let mut operand = None;
    let mut campaign = Campaign::default();
    let mut loud = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seconds" => campaign.seconds = value()?.parse().context("--seconds")?,
            "--jobs" => campaign.jobs = value()?.parse().context("--jobs")?,
            "--bug" => campaign.bug = Some(value()?),
            "--trace" => loud = true,
            _ if operand.is_none() && !word.starts_with('-') => operand = Some(word),
            _ => bail!("{word} is not understood"),
        }
    }
    let operand = || operand.as_deref().context("which seeds?");
    match verb.as_str() {
        "seed" => {
            let seed = operand()?.parse().context("the seed is a number")?;
            wake(campaign.bug.as_deref())?;
            if let Ok(filter) = std::env::var("EVENKEEL_LOG") {
                tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
            }
            let plan = Plan { seed, simulated: Duration::from_secs(campaign.seconds), loud };
            // On a thread whose hash maps are seeded by the simulation: the log's filter has seeded this one's by chance.
            let simulated = std::thread::spawn(move || run::run(plan));
            let report = simulated.join().map_err(|_| anyhow::anyhow!("the simulation panicked"))??;
            Ok(campaign::tell(plan, &report, process::processor_time(), campaign.bug.as_deref()))
        }
        "seeds" => {
            let (from, to) = operand()?.split_once("..").context("seeds are FROM..TO")?;
            campaign.run(from.parse().context("FROM")?..to.parse().context("TO")?)
        }
        "fish" => campaign.fish(),
        _ => bail!("{verb} is not understood"),
    }
}

#[cfg(feature = "known-bugs")]
fn wake(bug: Option<&str>) -> anyhow::Result<()> {
    use evenkeel_raft_storage::known_bugs::KnownBug;
    let Some(bug) = bug else { return Ok(()) };
    let known = KnownBug::ALL.iter().find(|(_, name)| *name == bug);
    known.with_context(|| format!("no known bug is called {bug}"))?.0.wake();
    Ok(())
}

#[cfg(not(feature = "known-bugs"))]
fn wake(bug: Option<&str>) -> anyhow::Result<()> {
    anyhow::ensure!(bug.is_none(), "known bugs are not compiled in: build with --features known-bugs");
    Ok(())
}
