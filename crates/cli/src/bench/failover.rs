//! `evenkeel bench failover`: how long writes wait when the broker that leads their partition is killed.
//!
//! It starts a cluster of its own in a temporary folder and writes to it all the while. A round kills -9 a broker, one
//! after the other, waits until others lead what it led and every one of those partitions has acknowledged a write, starts
//! it again, waits until it has caught up, and rebalances. A partition's gap is the longest time that a write to it was
//! under way without any being acknowledged.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use evenkeel_client::Client;
use evenkeel_protocol::v1::TopologyResponse;
use serde_json::json;
use tokio::time::Instant;

use crate::bench::load::{Load, LoadPlan};
use crate::bench::spread::Spread;
use crate::cluster::cluster_api::{ClusterApi, RebalanceBody};
use crate::cluster::http::Http;
use crate::commands::rebalance::follow::follow;
use crate::commands::status::{is_balanced, lags_are_known};
use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::processes::dev::automatic_ports;
use crate::processes::local_cluster::{LocalCluster, Member, Plan, all_led};
use crate::processes::signals::stop_requested;

const WARM_UP: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// By then every partition has acknowledged a write, or something is wrong.
const WRITES_TIMEOUT: Duration = Duration::from_secs(60);
/// A replica that lacks fewer entries counts as caught up: under load something is always being replicated.
const CAUGHT_UP_ENTRIES_MAX: u64 = 200;

#[derive(Args, Debug)]
pub struct FailoverBenchArgs {
    /// Brokers to kill, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Brokers of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=20))]
    brokers: u32,
    /// Partitions of the cluster
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Writers, each with one write under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Writes per second of all clients together [default: as many as they get answers to]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_second: Option<u32>,
    /// Size of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: FailoverBenchArgs) -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("evenkeel-bench-").tempdir()?;
    let plan = Plan {
        partitions: args.partitions,
        replication_factor: 3,
        data_dir: folder.path().to_owned(),
        ports: automatic_ports(args.brokers)?,
    };
    let stop = stop_requested()?;
    let mut cluster = LocalCluster::start(plan)?;
    let measured = tokio::select! {
        measured = Box::pin(measure(&args, &mut cluster)) => measured,
        signal = stop => Err(Failure::new(1, format!("{signal}: stopped before the end"))),
    };
    let stopped = cluster.stop().await;
    let measured = measured?;
    stopped?;
    match args.output {
        Output::Table | Output::Wide => print(measured.in_words())?,
        data => data.print(measured.in_json())?,
    }
    match measured.failed {
        0 => Ok(()),
        failed => Err(Failure::new(1, format!("{failed} client requests failed"))),
    }
}

struct Measured {
    kills: u32,
    /// Of each partition that a killed broker led, in milliseconds.
    gaps_ms: Spread,
    /// Of the worst partition of each kill.
    worst_ms: Spread,
    acknowledged: u64,
    failed: u64,
    retried: u64,
}

impl Measured {
    fn in_words(&self) -> String {
        let line = |name: &str, spread: &Spread| {
            format!(
                "{name}   p50 {:6.0} ms   p99 {:6.0} ms   max {:6.0} ms",
                spread.p50, spread.p99, spread.max
            )
        };
        format!(
            "{} kills; gap: from a write being sent to a partition until one is acknowledged\n{}\n{}\n\
             {} writes acknowledged, {} failed, {} sent again before they succeeded",
            self.kills,
            line("each partition", &self.gaps_ms),
            line("worst of a kill", &self.worst_ms),
            self.acknowledged,
            self.failed,
            self.retried
        )
    }

    fn in_json(&self) -> serde_json::Value {
        json!({
            "kills": self.kills, "gap_ms": self.gaps_ms.json(), "worst_gap_ms": self.worst_ms.json(),
            "acknowledged": self.acknowledged, "failed": self.failed, "retried": self.retried,
        })
    }
}

async fn measure(args: &FailoverBenchArgs, cluster: &mut LocalCluster) -> Result<Measured, Failure> {
    let client = cluster.client(1)?;
    let ready = |topology: &TopologyResponse| all_led(topology) && is_balanced(topology);
    cluster.wait_for(&client, "balanced leaders", |_| true, ready).await?;
    let load = Load::start(
        &client,
        &LoadPlan {
            clients: args.clients as usize,
            value_bytes: args.value_bytes,
            partitions: args.partitions,
            skew: 0.0,
            key_prefix: "bench-failover-".into(),
            per_second: args.per_second.map(f64::from),
            in_flight: None,
        },
    )?;
    tokio::time::sleep(WARM_UP).await;
    let (mut gaps_ms, mut worst_ms) = (Vec::new(), Vec::new());
    for kill in 0..args.kills {
        let victim = (kill % args.brokers) as usize;
        let gaps = one_kill(cluster, &client, &load, victim).await?;
        let worst = gaps.iter().copied().fold(0.0, f64::max);
        note(format_args!(
            "kill {}/{}: broker {victim}, worst partition {worst:.0} ms",
            kill + 1,
            args.kills
        ));
        gaps_ms.extend(gaps);
        worst_ms.push(worst);
    }
    let report = load.stop().await?;
    if let Some(failure) = &report.last_failure {
        note(format_args!("the last failed request: {failure}"));
    }
    let spread = |values: &[f64]| Spread::of(values).ok_or_else(|| anyhow!("no broker led anything"));
    Ok(Measured {
        kills: args.kills,
        gaps_ms: spread(&gaps_ms)?,
        worst_ms: spread(&worst_ms)?,
        acknowledged: report.acknowledged,
        failed: report.failed,
        retried: client.retries(),
    })
}

/// Kills a broker and brings everything back. The gaps of the partitions that it led.
async fn one_kill(
    cluster: &mut LocalCluster,
    client: &Client,
    load: &Load,
    victim: usize,
) -> Result<Vec<f64>, Failure> {
    let node = victim as u64;
    let topology = client.topology().await?;
    let led: Vec<u32> =
        topology.partitions.iter().filter(|p| p.leader == Some(node)).map(|p| p.partition_id).collect();
    load.take_gaps();
    cluster.brokers[victim].process.kill().await?;
    let name = format!("broker {victim}");
    let survives = |member: &Member| member.name != name;
    let abandoned = |topology: &TopologyResponse| {
        all_led(topology) && topology.partitions.iter().all(|p| p.leader != Some(node))
    };
    cluster.wait_for(client, "leaders on the other brokers", survives, abandoned).await?;
    until_all_written(load, &led).await?;
    let gaps = load.take_gaps();
    let gaps = led.iter().filter_map(|id| gaps.partitions_us.get(id)).map(|us| *us as f64 / 1000.0).collect();

    cluster.restart_broker(victim)?;
    let caught_up = |topology: &TopologyResponse| {
        let back = topology.brokers.iter().filter(|broker| broker.node_id == node && broker.reachable);
        let replicas = back.flat_map(|broker| &broker.replicas);
        let lags: Vec<Option<u64>> = replicas.map(|replica| replica.lag_entries).collect();
        lags_are_known(topology)
            && !lags.is_empty()
            && lags.iter().all(|lag| lag.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES_MAX))
    };
    cluster.wait_for(client, "the broker to catch up", |_| true, caught_up).await?;
    let api = ClusterApi::new(Http::new(), &cluster.api_url());
    loop {
        if let Some(id) = api.start(&RebalanceBody::default()).await? {
            follow(&api, id, &mut ()).await?;
        }
        if is_balanced(&client.topology().await?) {
            return Ok(gaps);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits until each of these partitions has acknowledged a write from now on.
async fn until_all_written(load: &Load, partitions: &[u32]) -> Result<(), Failure> {
    let before = load.acknowledged_of(partitions);
    let began = Instant::now();
    loop {
        let now = load.acknowledged_of(partitions);
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            return Ok(());
        }
        if began.elapsed() > WRITES_TIMEOUT {
            return Err(anyhow!("no more writes are acknowledged after the failover").into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
