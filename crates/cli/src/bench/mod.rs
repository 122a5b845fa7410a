//! `evenkeel bench`: how much, how fast, and how long nothing was acknowledged.

pub mod ack_gap;
mod failover;
pub mod load;
pub mod metrics_text;
mod overload;
mod pacing;
mod reads;
mod rebalance;
mod rebalance_report;
pub mod spread;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use evenkeel_client::Client;
use serde_json::{Value, json};

use crate::bench::failover::FailoverBenchArgs;
use crate::bench::load::{Gaps, Load, LoadPlan, LoadReport};
use crate::bench::overload::OverloadBenchArgs;
use crate::bench::reads::{ReadPlan, Reads};
use crate::bench::rebalance::RebalanceBenchArgs;
use crate::cluster::connection::Connection;
use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::processes::pid_file;

const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    writes: WriteArgs,
}

/// What to measure instead of writes alone.
#[derive(Debug, Subcommand)]
enum What {
    /// Measure rebalances under load: what clients see while leaders move; exits 0 only when nothing failed
    Rebalance(RebalanceBenchArgs),
    /// Measure failovers on a cluster of its own: how long writes wait when the leader's broker is killed
    Failover(FailoverBenchArgs),
    /// Measure overload on a cluster of its own: how much of its peak is left at a multiple of the load
    Overload(OverloadBenchArgs),
}

#[derive(Args, Debug)]
pub struct WriteArgs {
    /// Writers, each with one write under way; or readers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Size of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How long to measure, after a second to warm up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// 0 loads all partitions alike; S gives the Nth a share proportional to 1/N^S
    #[arg(long, default_value_t = 0.0, value_name = "S", value_parser = skew)]
    partitions_skew: f64,
    /// Each writer has a stream, and many writes under way on it
    #[arg(long)]
    streamed: bool,
    /// Writes of each writer under way at once
    #[arg(long, requires = "streamed", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,
    /// Read instead
    #[arg(long, value_enum, value_name = "WHICH", conflicts_with_all = ["streamed", "kill_leader", "partitions_skew"])]
    reads: Option<Reads>,
    /// Kill -9 the broker that leads partition 1 half-way through; needs --data-dir
    #[arg(long, requires = "data_dir")]
    kill_leader: bool,
    /// Folder of the `evenkeel dev` whose broker is killed
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn skew(text: &str) -> Result<f64, String> {
    let skew: Option<f64> = text.parse().ok().filter(|skew| (0.0..=10.0).contains(skew));
    skew.ok_or_else(|| "write a number from 0 to 10".to_owned())
}

/// What was measured.
struct Measured {
    elapsed: Duration,
    acknowledged: u64,
    /// Gaps while nothing was killed.
    steady: Gaps,
    /// Longest gap of each partition over the whole time.
    worst: Gaps,
    killed: Option<u64>,
    retried: u64,
    report: LoadReport,
}

pub async fn run(args: BenchArgs, connection: &Connection) -> Result<(), Failure> {
    match args.what {
        None => bench_writes(args.writes, connection).await,
        Some(What::Failover(args)) => Box::pin(failover::run(args)).await,
        Some(What::Overload(args)) => Box::pin(overload::run(args)).await,
        Some(What::Rebalance(args)) => Box::pin(rebalance::run(args, connection)).await,
    }
}

async fn bench_writes(args: WriteArgs, connection: &Connection) -> Result<(), Failure> {
    let clients = args.clients as usize;
    if let Some(reads) = args.reads {
        let plan = ReadPlan { reads, clients, value_bytes: args.value_bytes, seconds: args.seconds };
        return reads::run(plan, &connection.client_for(clients).await?, args.output).await;
    }
    // A stream is worth many calls.
    let client =
        if args.streamed { connection.client().await? } else { connection.client_for(clients).await? };
    let measured = measure(&args, &client).await?;
    match args.output {
        Output::Table | Output::Wide => print(in_words(&args, &measured))?,
        data => data.print(in_json(&args, &measured))?,
    }
    if let Some(failure) = &measured.report.last_failure {
        note(format_args!("the last failure: {failure}"));
    }
    Ok(())
}

async fn measure(args: &WriteArgs, client: &Client) -> Result<Measured, Failure> {
    let plan = LoadPlan {
        clients: args.clients as usize,
        value_bytes: args.value_bytes,
        partitions: client.topology().await?.partitions_count,
        skew: args.partitions_skew,
        key_prefix: "bench-".into(),
        per_second: None,
        in_flight: args.streamed.then_some(args.in_flight.into()),
    };
    let load = Load::start(client, &plan)?;
    tokio::time::sleep(WARM_UP).await;
    load.begin_measuring();
    let (began, acknowledged) = (Instant::now(), load.acknowledged());
    let half = Duration::from_millis(args.seconds * 500);
    tokio::time::sleep(half).await;
    let steady = load.take_gaps();
    let killed = if args.kill_leader { Some(kill_leader(args, client).await?) } else { None };
    tokio::time::sleep(half).await;
    let (elapsed, acknowledged) = (began.elapsed(), load.acknowledged() - acknowledged);
    let late = load.take_gaps();
    let report = load.stop().await?;
    let worst = longer_of_each(&steady, &late);
    let steady = if killed.is_some() { steady } else { worst.clone() };
    Ok(Measured { elapsed, acknowledged, steady, worst, killed, retried: client.retries(), report })
}

fn longer_of_each(a: &Gaps, b: &Gaps) -> Gaps {
    let longer = |(id, us): (&u32, &u64)| (*id, *b.partitions_us.get(id).unwrap_or(&0).max(us));
    Gaps {
        overall_us: a.overall_us.max(b.overall_us),
        partitions_us: a.partitions_us.iter().map(longer).collect(),
    }
}

async fn kill_leader(args: &WriteArgs, client: &Client) -> Result<u64, Failure> {
    let topology = client.topology().await?;
    let leader = topology.partitions.first().and_then(|partition| partition.leader);
    let leader =
        leader.ok_or_else(|| Failure::new(1, "partition 1 has no leader to kill; see `evenkeel status`"))?;
    let folder = args.data_dir.clone().unwrap_or_default();
    let pid =
        pid_file::kill_9(&folder.join(format!("broker-{leader}.pid")), &format!("broker-{leader}.toml"))?;
    note(format_args!("killed broker {leader} (pid {pid})"));
    Ok(leader)
}

fn millis(us: u64) -> f64 {
    us as f64 / 1e3
}

fn in_json(args: &WriteArgs, measured: &Measured) -> Value {
    let latency = |quantile| millis(measured.report.latencies.value_at_quantile(quantile));
    let gaps = measured.worst.partitions_us.iter().map(|(id, us)| (id.to_string(), json!(millis(*us))));
    let mut object = json!({
        "clients": args.clients,
        "in_flight": if args.streamed { args.in_flight } else { 1 },
        "value_bytes": args.value_bytes,
        "writes_per_s": writes_per_s(measured),
        "p50_ms": latency(0.5),
        "p99_ms": latency(0.99),
        "p999_ms": latency(0.999),
        "max_ms": millis(measured.report.latencies.max()),
        "failed": measured.report.failed,
        "retried": measured.retried,
        "steady_gap_ms": millis(measured.steady.overall_us),
        "gap_ms": gaps.collect::<serde_json::Map<_, _>>(),
    });
    if let Some(killed) = measured.killed {
        object["killed_broker"] = json!(killed);
    }
    object
}

fn writes_per_s(measured: &Measured) -> u64 {
    (measured.acknowledged as f64 / measured.elapsed.as_secs_f64()).round() as u64
}

fn in_words(args: &WriteArgs, measured: &Measured) -> String {
    let latency = |quantile| millis(measured.report.latencies.value_at_quantile(quantile));
    let mut lines = vec![
        format!(
            "{} writes/s  ({} clients{}, {} bytes, {} s)",
            writes_per_s(measured),
            args.clients,
            if args.streamed {
                format!(" streaming, {} in flight each", args.in_flight)
            } else {
                String::new()
            },
            args.value_bytes,
            args.seconds
        ),
        format!(
            "latency      p50 {:.2} ms   p99 {:.2} ms   p99.9 {:.2} ms   max {:.2} ms",
            latency(0.5),
            latency(0.99),
            latency(0.999),
            millis(measured.report.latencies.max())
        ),
        format!(
            "failed       {}   (sent again, then acknowledged: {})",
            measured.report.failed, measured.retried
        ),
        format!(
            "longest gap  {:.1} ms without any acknowledgement; worst partition {:.1} ms",
            millis(measured.steady.overall_us),
            millis(measured.steady.worst_us())
        ),
    ];
    if let Some(broker) = measured.killed {
        let worst = millis(measured.worst.worst_us());
        lines.push(format!("after the kill of broker {broker}: longest gap of any partition {worst:.1} ms"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_bounded() {
        assert_eq!(skew("1.5"), Ok(1.5));
        for bad in ["-1", "x", "NaN", "11"] {
            assert!(skew(bad).is_err(), "{bad}");
        }
    }
}
