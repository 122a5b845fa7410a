//! `evenkeel probe`: one question, for whoever has only this binary to ask it with. `restart B`: whether a broker may be
//! restarted now, and after its restart whether it is back. `http URL`: whether a process is well.
//!
//! Exit codes: 0 safe or well, 10 not, 5 not safe before --for was over.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::cluster::cluster_api::{ClusterApi, GroupRisk, RestartRisk};
use crate::cluster::connection::Connection;
use crate::commands::waiting::{PATIENCE_DEFAULT, patience};
use crate::output::format::Output;
use crate::output::outcome::{EXIT_TIMED_OUT, EXIT_UNHEALTHY, EXIT_UNREACHABLE, Failure, note, print};
use crate::output::tables::{right_align, table};

/// Of a broker or gateway on this machine.
const READINESS_URL: &str = "http://127.0.0.1:9600/actuator/health/readiness";
/// With --wait: how often the gateway is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct ProbeArgs {
    #[command(subcommand)]
    what: Probe,
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// Tell what a restart of a broker would cost now; exits 10 when it is not safe
    Restart(RestartArgs),
    /// Get a URL, such as that of a readiness probe, and show the answer; anything but success is not well
    Http {
        /// For https give --ca
        #[arg(value_name = "URL", env = "EVENKEEL_PROBE_URL", default_value = READINESS_URL)]
        url: String,
    },
}

#[derive(Args, Debug)]
struct RestartArgs {
    /// Broker's node id
    broker: u64,
    /// Ask again until it is safe
    #[arg(long)]
    wait: bool,
    /// With --wait: how long at most, such as 90s or 10m
    #[arg(long = "for", requires = "wait", value_name = "DURATION", default_value = PATIENCE_DEFAULT, value_parser = patience)]
    patience: Duration,
    /// Ask as well that the broker's own replicas take part and have caught up, as they have to after a restart
    #[arg(long)]
    recovered: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: ProbeArgs, connection: &Connection) -> Result<(), Failure> {
    match args.what {
        Probe::Restart(args) => restart(&args, &connection.cluster_api()?).await,
        Probe::Http { url } => http(&url, connection).await,
    }
}

async fn http(url: &str, connection: &Connection) -> Result<(), Failure> {
    let answer = connection.http()?.get(url).await?;
    if !answer.status.is_success() {
        let told = format!("{url} answers {}: {}", answer.status, answer.text());
        return Err(Failure::new(EXIT_UNHEALTHY, told));
    }
    print(answer.text())
}

async fn restart(args: &RestartArgs, api: &ClusterApi) -> Result<(), Failure> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let asked = api.restart_risk(args.broker).await;
        let over = !args.wait || began.elapsed() >= args.patience;
        match asked {
            Ok((risk, raw)) => {
                let against = against(args, &risk);
                if against.is_none() || over {
                    args.output.show(|| in_words(args.output, &risk), || raw)?;
                    return against.map_or(Ok(()), |reason| Err(unsafe_now(args, reason)));
                }
                if risk.verdict != told {
                    note(format_args!("{}; waiting", risk.verdict));
                    told = risk.verdict;
                }
            }
            Err(failure) if over || !matches!(failure.code, EXIT_UNREACHABLE | EXIT_TIMED_OUT) => {
                return Err(failure);
            }
            Err(failure) => note(format_args!("{failure}; asking again")),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// What is against it, if anything.
fn against(args: &RestartArgs, risk: &RestartRisk) -> Option<String> {
    if !risk.safe {
        return Some(format!("broker {} is not safe to restart now", args.broker));
    }
    (args.recovered && !risk.recovered).then(|| {
        let behind = risk.partitions.iter().filter(|group| !group.recovered).count();
        format!("broker {} is not back yet: {behind} of its replicas have not caught up", args.broker)
    })
}

fn unsafe_now(args: &RestartArgs, reason: String) -> Failure {
    if args.wait {
        let waited = humantime::format_duration(args.patience);
        return Failure::timed_out(format!(
            "after {waited}: {reason}; see `evenkeel health` and ask again with `evenkeel probe restart {}`",
            args.broker
        ));
    }
    let recovered = if args.recovered { " --recovered" } else { "" };
    Failure::new(
        EXIT_UNHEALTHY,
        format!("{reason}; `evenkeel probe restart {} --wait{recovered}` waits until it is", args.broker),
    )
}

fn in_words(output: Output, risk: &RestartRisk) -> String {
    let shown: Vec<&GroupRisk> = risk
        .partitions
        .iter()
        .filter(|group| output == Output::Wide || group.pauses || group.reason.is_some())
        .collect();
    if shown.is_empty() {
        return risk.verdict.clone();
    }
    let mut rows =
        table(["partition", "leads", "majority", "others work", "others caught up", "loses", "back", "why"]);
    for group in shown {
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let loses = match (group.loses_availability, group.loses_durability) {
            (true, true) => "availability, durability",
            (true, false) => "availability",
            (false, true) => "durability",
            (false, false) => "-",
        };
        let pause = if group.pauses { "pauses for a failover" } else { "-" };
        rows.add_row([
            if group.partition_id == 0 { "system".to_owned() } else { group.partition_id.to_string() },
            yes(group.leads),
            group.majority.to_string(),
            group.working_elsewhere.to_string(),
            group.caught_up_elsewhere.to_string(),
            loses.to_owned(),
            yes(group.recovered),
            group.detail.clone().unwrap_or_else(|| pause.to_owned()),
        ]);
    }
    right_align(&mut rows, &[0, 2, 3, 4]);
    format!("{rows}\n{}", risk.verdict)
}
