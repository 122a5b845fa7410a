//! `evenkeel health`: whether the cluster is well, for scripts and people.

use std::time::{Duration, Instant};

use clap::Args;

use crate::cluster::connection::Connection;
use crate::commands::assessment::{Assessment, State, assess};
use crate::commands::status::look;
use crate::commands::waiting::{PATIENCE_DEFAULT, patience};
use crate::output::format::Output;
use crate::output::outcome::{
    EXIT_TIMED_OUT, EXIT_UNBALANCED, EXIT_UNHEALTHY, EXIT_UNREACHABLE, Failure, note,
};

/// With --wait-healthy: how often the gateway is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct HealthArgs {
    /// Ask again until the cluster is well
    #[arg(long)]
    wait_healthy: bool,
    /// With --wait-healthy: how long at most, such as 90s or 10m
    #[arg(long = "for", requires = "wait_healthy", value_name = "DURATION", default_value = PATIENCE_DEFAULT, value_parser = patience)]
    patience: Duration,
    /// Ask as well that every partition is led by its primary; exits 11 when only that is not so
    #[arg(long)]
    balanced: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: HealthArgs, connection: &Connection) -> Result<(), Failure> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let over = !args.wait_healthy || began.elapsed() >= args.patience;
        match look(connection).await {
            Ok(seen) => {
                let found = assess(&seen.topology, &seen.wishes);
                let against = against(&args, &found);
                if against.is_none() || over {
                    args.output.show(|| in_words(&found), || found.to_json())?;
                    return against.map_or(Ok(()), |against| Err(ended(&args, against)));
                }
                if found.verdict != told {
                    note(format_args!("{}: {}; waiting", found.state.name(), found.verdict));
                    told = found.verdict;
                }
            }
            Err(failure) if over && args.wait_healthy && is_away(&failure) => {
                return Err(ended(&args, failure));
            }
            Err(failure) if over || !is_away(&failure) => return Err(failure),
            Err(failure) if told != failure.message => {
                note(format_args!("{failure}; asking again"));
                told = failure.message;
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn is_away(failure: &Failure) -> bool {
    matches!(failure.code, EXIT_UNREACHABLE | EXIT_TIMED_OUT)
}

fn against(args: &HealthArgs, found: &Assessment) -> Option<Failure> {
    if found.state != State::Healthy {
        let problems: Vec<&str> = found.problems.iter().map(|problem| problem.what.as_str()).collect();
        let message = format!("{}: {}", found.state.name(), problems.join("; "));
        return Some(Failure::new(EXIT_UNHEALTHY, message));
    }
    (args.balanced && !found.is_balanced())
        .then(|| Failure::new(EXIT_UNBALANCED, format!("not balanced: {}", found.verdict)))
}

fn ended(args: &HealthArgs, against: Failure) -> Failure {
    match args.wait_healthy {
        true => Failure::timed_out(format!(
            "after {}: {against}; see `evenkeel status`",
            humantime::format_duration(args.patience)
        )),
        false => against,
    }
}

fn in_words(found: &Assessment) -> String {
    let mut text = format!("{}: {}", found.state.name(), found.verdict);
    for problem in &found.problems {
        text.push_str(&format!("\n  {}: {}", problem.what, problem.fix));
    }
    text
}
