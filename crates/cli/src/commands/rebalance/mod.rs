//! `evenkeel rebalance`: asks for even leadership, follows the run, and says what became of each partition.
//!
//! Exit codes: 0 every partition is led as wanted, 2 wrong usage, 3 unreachable or refused, 6 some are not led as
//! wanted afterwards, 7 a run was under way already.

mod explain;
pub mod follow;
mod progress;
pub mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::cluster::cluster_api::{ClusterApi, RebalanceBody, Run};
use crate::cluster::connection::Connection;
use crate::commands::rebalance::follow::follow;
use crate::commands::rebalance::progress::Live;
use crate::commands::rebalance::report::{
    hints, history_table, outcome_sentence, plan_summary, plan_table, run_table,
};
use crate::output::format::{Output, PrintArgs};
use crate::output::outcome::{EXIT_TRANSFERS_FAILED, Failure, note, print};
use crate::processes::signals::stop_requested;

/// Longest pause budget that a gateway takes.
const PAUSE_BUDGET_MAX: Duration = Duration::from_secs(3_600);

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RebalanceArgs {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    asked: Asked,
    /// Wait for the run's end, as is done anyway
    #[arg(long, conflicts_with_all = ["no_wait", "dry_run"])]
    wait: bool,
    /// Start the run, print its id, and leave
    #[arg(long, conflicts_with_all = ["watch", "dry_run"])]
    no_wait: bool,
    /// Show what would be done, ask the leaders whether it could be, and do nothing
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Show each partition as it is done with
    #[arg(long)]
    watch: bool,
    /// Stop the run that is under way: transfers that have begun finish
    #[arg(long, group = "instead", conflicts_with_all = ["Asked", "dry_run", "watch"])]
    cancel: bool,
    /// Show this run, or else the one under way, or else the last one; follow it with --watch
    #[arg(long, group = "instead", value_name = "ID", num_args = 0..=1, conflicts_with_all = ["Asked", "dry_run"])]
    show: Option<Option<u64>>,
    /// Show the runs that the cluster remembers
    #[arg(long, group = "instead", conflicts_with_all = ["Asked", "dry_run", "watch"])]
    history: bool,
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What to do about runs instead of starting one.
#[derive(Debug, Subcommand)]
enum Part {
    /// Show a run: this one, or else the one under way, or else the last one
    Status(StatusPart),
    /// Stop the run that is under way: transfers that have begun finish
    Cancel(PrintArgs),
    /// Show the runs that the cluster remembers
    History(OutputPart),
    /// Say of each partition why it would move, stay or be skipped, and what would help
    Explain(explain::ExplainArgs),
}

#[derive(Args, Debug)]
struct StatusPart {
    /// Run's id
    id: Option<u64>,
    /// Show each partition as it is done with, until the run ends
    #[arg(long)]
    watch: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args, Debug)]
struct OutputPart {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What the run is asked for.
#[derive(Args, Clone, Debug, Default)]
pub struct Asked {
    /// Who should lead [default: primary]
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Only these partitions; several, comma-separated
    #[arg(long = "partition", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Vec<u32>,
    /// Who shall lead a partition, whatever the policy wants; several, comma-separated
    #[arg(long = "target", value_name = "PARTITION=BROKER", value_delimiter = ',', value_parser = target)]
    targets: Vec<(u32, u64)>,
    /// Give no broker more leaderships than this, except to drain another
    #[arg(long, value_name = "N")]
    max_leaders_per_broker: Option<u32>,
    /// Transfers under way at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    max_concurrent: Option<u32>,
    /// Stop when writes have been held back for so long in all, such as 500ms or 2s
    #[arg(long, value_name = "DURATION", value_parser = pause_budget)]
    pause_budget: Option<Duration>,
    /// Most bytes that a new leader may lack before it catches up
    #[arg(long, value_name = "BYTES")]
    lag_threshold: Option<u64>,
    /// Only if the plan is still this one, as a dry run showed it
    #[arg(long, value_name = "FINGERPRINT")]
    plan: Option<String>,
}

/// Who should lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// The highest-priority replica that is caught up
    Primary,
    /// As many partitions on each broker, with the fewest moves
    EvenCount,
    /// As many records on each broker
    Records,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::EvenCount => "even-count",
            Self::Records => "records",
        }
    }
}

fn target(text: &str) -> Result<(u32, u64), String> {
    let parsed = text.split_once('=').and_then(|(partition, broker)| {
        let partition = partition.trim().parse().ok().filter(|partition| *partition > 0)?;
        Some((partition, broker.trim().parse().ok()?))
    });
    parsed.ok_or_else(|| "write PARTITION=BROKER, such as 3=0".to_owned())
}

/// A partition has one leader, so naming two is a mistake.
fn check_targets(targets: &[(u32, u64)]) -> Result<(), Failure> {
    let mut named = BTreeMap::new();
    for (partition, broker) in targets {
        let before = named.insert(partition, broker).filter(|before| *before != broker);
        if let Some(before) = before {
            return Err(Failure::usage(format!(
                "--target names both broker {before} and broker {broker} for partition {partition}; name one"
            )));
        }
    }
    Ok(())
}

fn pause_budget(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(budget) if !budget.is_zero() && budget <= PAUSE_BUDGET_MAX => Ok(budget),
        Ok(_) => Err("give more than nothing and at most 1h".to_owned()),
        Err(error) => Err(format!("{error}; write a duration such as 500ms or 2s")),
    }
}

/// `PT2S`, `PT0.5S`.
fn iso_8601(duration: Duration) -> String {
    let mut text = format!("PT{}", duration.as_secs());
    if duration.subsec_nanos() > 0 {
        text.push_str(format!(".{:09}", duration.subsec_nanos()).trim_end_matches('0'));
    }
    text.push('S');
    text
}

impl Asked {
    fn body(&self) -> RebalanceBody {
        RebalanceBody {
            policy: self.policy.map(|policy| policy.name().to_owned()),
            partitions: (!self.partitions.is_empty()).then(|| self.partitions.clone()),
            max_concurrent: self.max_concurrent,
            max_leaders_per_broker: self.max_leaders_per_broker,
            targets: self.targets.iter().copied().collect(),
            pause_budget: self.pause_budget.map(iso_8601),
            replication_lag_threshold: self.lag_threshold,
            plan: self.plan.clone(),
        }
    }
}

pub async fn run(args: RebalanceArgs, connection: &Connection) -> Result<(), Failure> {
    let api = connection.cluster_api()?;
    match args.part {
        Some(Part::Status(part)) => return show(&api, part.id, part.watch, part.output).await,
        Some(Part::Cancel(part)) => return cancel(&api, part.output).await,
        Some(Part::History(part)) => return history(&api, part.output).await,
        Some(Part::Explain(part)) => return explain::run(&part, &api).await,
        None => {}
    }
    if args.cancel {
        return cancel(&api, args.output).await;
    }
    if args.history {
        return history(&api, args.output).await;
    }
    if let Some(id) = args.show {
        return show(&api, id, args.watch, args.output).await;
    }
    check_targets(&args.asked.targets)?;
    let body = args.asked.body();
    if args.dry_run {
        return show_plan(&api, &body, args.output).await;
    }
    match api.start(&body).await? {
        Some(id) if args.no_wait => args.output.show(
            || format!("rebalance {id} is under way; see `evenkeel rebalance status {id}`"),
            || json!({"rebalanceId": id}),
        ),
        Some(id) => follow_and_tell(&api, id, args.watch, args.output).await,
        None => args.output.show(|| "balanced: nothing to move", || json!({"rebalanceId": null})),
    }
}

/// Prints what a run would do.
pub async fn show_plan(api: &ClusterApi, body: &RebalanceBody, output: Output) -> Result<(), Failure> {
    let (plan, raw) = api.dry_run(body).await?;
    output.show(|| format!("{}\n{}", plan_table(&plan), plan_summary(&plan, body)), || raw)
}

/// A sentence: what is asked for when people read, an aside when programs do.
fn tell(text: &str, output: Output) -> Result<(), Failure> {
    match output {
        Output::Table | Output::Wide => print(text),
        _ => {
            note(text);
            Ok(())
        }
    }
}

async fn cancel(api: &ClusterApi, output: Output) -> Result<(), Failure> {
    let was_running = api.cancel().await?;
    output.show(
        || match was_running {
            true => "the run under way stops: transfers that have begun finish, the others are left",
            false => "no rebalance was under way",
        },
        || json!({"wasRunning": was_running}),
    )
}

async fn history(api: &ClusterApi, output: Output) -> Result<(), Failure> {
    let (runs, raw) = api.history().await?;
    match output {
        Output::Table | Output::Wide => print(history_table(&runs)),
        data => data.print(raw),
    }
}

async fn show(api: &ClusterApi, id: Option<u64>, watch: bool, output: Output) -> Result<(), Failure> {
    let found = match id {
        Some(id) => Some(api.run(id).await?),
        None => api.active_or_last().await?,
    };
    let Some((run, raw)) = found else { return tell("no rebalance has run yet", output) };
    if watch {
        return follow_and_tell(api, run.rebalance_id, true, output).await;
    }
    match output {
        Output::Table | Output::Wide => {
            print(format_args!("{}\n{}", run_table(&run), outcome_sentence(&run)))
        }
        data => data.print(raw),
    }
}

/// Waits for the run's end and says what became of each partition.
pub async fn follow_and_tell(api: &ClusterApi, id: u64, watch: bool, output: Output) -> Result<(), Failure> {
    let (run, raw) = follow_or_leave(api, id, watch).await?;
    match output {
        Output::Table | Output::Wide => print(run_table(&run))?,
        data => data.print(raw)?,
    }
    verdict(&run, output)
}

/// Success when every partition is led as wanted; else what to do about each that is not.
fn verdict(run: &Run, output: Output) -> Result<(), Failure> {
    if run.went_well() {
        return tell(&outcome_sentence(run), output);
    }
    for hint in hints(run) {
        tell(&hint, output)?;
    }
    Err(Failure::new(
        EXIT_TRANSFERS_FAILED,
        format!("{}; then run `evenkeel rebalance` again", outcome_sentence(run)),
    ))
}

/// Waits for the run's end, or until the person wants to go; the run goes on then.
async fn follow_or_leave(api: &ClusterApi, id: u64, watch: bool) -> Result<(Run, Value), Failure> {
    let stop = stop_requested()?;
    let followed = async {
        match watch {
            true => {
                let mut live = Live::new();
                let followed = follow(api, id, &mut live).await;
                live.finish();
                followed
            }
            false => follow(api, id, &mut ()).await,
        }
    };
    tokio::select! {
        followed = followed => followed,
        signal = stop => Err(Failure::new(1, format!(
            "{signal}: rebalance {id} goes on without this command; see `evenkeel rebalance status {id}`, or stop it \
             with `evenkeel rebalance cancel`"
        ))),
    }
}

#[cfg(test)]
mod tests;
