//! `evenkeel bench overload`: what a cluster still does when it is asked for several times of what it can.
//!
//! It starts a cluster of its own in a temporary folder and measures its peak: as many writes as a closed loop of clients
//! gets answers to. Then writes come at a multiple of that, whatever becomes of them: each is sent once, when it is
//! due, as from a crowd of clients that do not know of each other. What the gateway refuses must be refused as
//! overload, with a time to come back. A cluster under overload should do about what it does at its peak, and hold no
//! more memory than its bounds allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use clap::Args;
use evenkeel_protocol::v1::PutRequest;
use evenkeel_protocol::v1::records_client::RecordsClient;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use crate::bench::metrics_text::samples;
use crate::bench::pacing::Pace;
use crate::cluster::http::Http;
use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::processes::dev::automatic_ports;
use crate::processes::file_limit;
use crate::processes::local_cluster::{LocalCluster, Plan, all_led};
use crate::processes::signals::stop_requested;

const WARM_UP: Duration = Duration::from_secs(2);
/// Writes that are due are sent this often, together.
const TICK: Duration = Duration::from_millis(1);
/// HTTP/2 connections that the writes are spread over.
const CONNECTIONS: usize = 8;
/// Writes without an answer that this process bears; more would measure it and not the cluster.
const UNANSWERED_MAX: u64 = 100_000;
/// Different keys that are written.
const KEYS: u64 = 10_000;
const MEMORY_INTERVAL: Duration = Duration::from_millis(500);
/// A write without an answer by then has failed.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);
/// Latencies are told apart up to this, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

#[derive(Args, Debug)]
pub struct OverloadBenchArgs {
    /// How many times the peak to ask for
    #[arg(long, default_value_t = 4.0, value_name = "TIMES")]
    overload: f64,
    /// Writes per second to ask for, instead of a multiple of the peak
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Clients of the closed loop that finds the peak, each with one write under way
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    clients: u32,
    /// How long to measure each of both
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Size of each value
    #[arg(long, default_value_t = 4096)]
    value_bytes: usize,
    /// Brokers of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    brokers: u32,
    /// Partitions of the cluster
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: OverloadBenchArgs) -> Result<(), Failure> {
    file_limit::raise();
    let folder = tempfile::Builder::new().prefix("evenkeel-bench-").tempdir()?;
    let plan = Plan {
        partitions: args.partitions,
        replication_factor: args.brokers.min(3),
        data_dir: folder.path().to_owned(),
        ports: automatic_ports(args.brokers)?,
    };
    let stop = stop_requested()?;
    let cluster = LocalCluster::start(plan)?;
    let measured = tokio::select! {
        measured = Box::pin(measure(&args, &cluster)) => measured,
        signal = stop => Err(Failure::new(1, format!("{signal}: stopped before the end"))),
    };
    let stopped = cluster.stop().await;
    let measured = measured?;
    stopped?;
    match args.output {
        Output::Table | Output::Wide => print(measured.in_words())?,
        data => data.print(measured.in_json())?,
    }
    match measured.overload.failed {
        0 => Ok(()),
        failed => Err(Failure::new(1, format!("{failed} writes failed otherwise than as overload"))),
    }
}

/// What became of the writes of one phase.
#[derive(Clone, Debug, Default)]
struct Phase {
    acknowledged_per_s: f64,
    refused_per_s: f64,
    offered_per_s: f64,
    failed: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of the gateway, and of the largest broker, at its largest.
    gateway_bytes: f64,
    broker_bytes: f64,
    /// Processors that gateway and brokers took together, and this process.
    cluster_cores: f64,
    own_cores: f64,
}

impl Phase {
    /// What a processor of the cluster was good for in a second.
    fn acknowledged_per_core_second(&self) -> f64 {
        self.acknowledged_per_s / self.cluster_cores
    }
}

struct Measured {
    peak: Phase,
    overload: Phase,
    last_failure: Option<String>,
}

impl Measured {
    fn share_of_peak(&self) -> f64 {
        self.overload.acknowledged_per_s / self.peak.acknowledged_per_s
    }

    /// The same, when both are seen for the processors that the cluster had: the loader takes its own from the same machine.
    fn share_of_peak_per_core(&self) -> f64 {
        self.overload.acknowledged_per_core_second() / self.peak.acknowledged_per_core_second()
    }

    fn in_words(&self) -> String {
        let line = |name: &str, phase: &Phase| {
            format!(
                "{name}  asked {:7.0}/s   acknowledged {:7.0}/s   refused {:7.0}/s   p50 {:6.1} ms   p99 {:6.1} ms   gateway \
                 {:4.0} MiB   broker {:4.0} MiB   cores: cluster {:4.2}, loader {:4.2}",
                phase.offered_per_s,
                phase.acknowledged_per_s,
                phase.refused_per_s,
                phase.p50_ms,
                phase.p99_ms,
                phase.gateway_bytes / 1048576.0,
                phase.broker_bytes / 1048576.0,
                phase.cluster_cores,
                phase.own_cores,
            )
        };
        let failure =
            self.last_failure.as_ref().map(|failure| format!("\nthe last: {failure}")).unwrap_or_default();
        format!(
            "{}\n{}\n{:.0} % of the peak at {:.1} times its load, {:.0} % of it for each core that the loader left to the cluster; {} \
             writes failed otherwise than as overload{failure}",
            line("peak    ", &self.peak),
            line("overload", &self.overload),
            self.share_of_peak() * 100.0,
            self.overload.offered_per_s / self.peak.acknowledged_per_s,
            self.share_of_peak_per_core() * 100.0,
            self.overload.failed,
        )
    }

    fn in_json(&self) -> serde_json::Value {
        let phase = |phase: &Phase| {
            json!({
                "offered_per_s": phase.offered_per_s, "acknowledged_per_s": phase.acknowledged_per_s,
                "refused_per_s": phase.refused_per_s, "failed": phase.failed, "p50_ms": phase.p50_ms,
                "p99_ms": phase.p99_ms, "gateway_memory_bytes": phase.gateway_bytes,
                "broker_memory_bytes": phase.broker_bytes, "cluster_cores": phase.cluster_cores,
                "loader_cores": phase.own_cores,
            })
        };
        json!({
            "peak": phase(&self.peak), "overload": phase(&self.overload), "share_of_peak": self.share_of_peak(),
            "share_of_peak_per_core": self.share_of_peak_per_core(),
        })
    }
}

async fn measure(args: &OverloadBenchArgs, cluster: &LocalCluster) -> Result<Measured, Failure> {
    let client = cluster.client(1)?;
    cluster.wait_for(&client, "leaders", |_| true, all_led).await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.gateway_address()))
        .map_err(|error| anyhow!(error))?
        .tcp_nodelay(true);
    let shared = Arc::new(Shared {
        channels: (0..CONNECTIONS).map(|_| RecordsClient::new(endpoint.connect_lazy())).collect(),
        value: Bytes::from(vec![b'x'; args.value_bytes]),
        counts: Mutex::new(Counts::new()?),
        sent: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let length = Duration::from_secs(args.seconds);

    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        clients.spawn(closed_loop(Arc::clone(&shared)));
    }
    let peak = phase(&shared, cluster, length).await?;
    shared.stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}

    let rate = args.rate.map_or(args.overload * peak.acknowledged_per_s, f64::from);
    let pace = Pace::new(rate, 1).ok_or_else(|| anyhow!("{rate} writes/s are no load"))?;
    note(format_args!("peak {:.0} writes/s; now {rate:.0}/s are asked for", peak.acknowledged_per_s));
    let crowd = tokio::spawn(open_loop(Arc::clone(&shared), pace));
    let overload = phase(&shared, cluster, length).await;
    crowd.abort();
    let last_failure = shared.counts.lock().last_failure.take();
    Ok(Measured { peak, overload: overload?, last_failure })
}

struct Shared {
    channels: Vec<RecordsClient<Channel>>,
    value: Bytes,
    counts: Mutex<Counts>,
    sent: AtomicU64,
    unanswered: AtomicU64,
    stop: AtomicBool,
}

struct Counts {
    acknowledged: u64,
    refused: u64,
    failed: u64,
    last_failure: Option<String>,
    latencies: Histogram<u64>,
}

impl Counts {
    fn new() -> Result<Self, Failure> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(|error| anyhow!(error))?;
        Ok(Self { acknowledged: 0, refused: 0, failed: 0, last_failure: None, latencies })
    }
}

/// Warms up, measures, and watches every process meanwhile.
async fn phase(shared: &Shared, cluster: &LocalCluster, length: Duration) -> Result<Phase, Failure> {
    tokio::time::sleep(WARM_UP).await;
    let brokers = cluster.plan.ports.brokers.iter().map(|(_, port)| format!("http://127.0.0.1:{port}"));
    let monitored: Vec<String> = std::iter::once(cluster.monitoring_url()).chain(brokers).collect();
    let http = Http::new();
    let before = usages(&http, &monitored).await?;
    let own = own_cpu_seconds()?;
    let (began, sent) = (Instant::now(), shared.sent.load(Relaxed));
    *shared.counts.lock() = Counts::new()?;
    let mut phase = Phase::default();
    let (mut after, mut watched) = (before.clone(), Duration::ZERO);
    while began.elapsed() < length {
        tokio::time::sleep(MEMORY_INTERVAL.min(length - began.elapsed())).await;
        // One that is too busy to answer now is asked again.
        if let Ok(usages) = usages(&http, &monitored).await {
            (after, watched) = (usages, began.elapsed());
        }
        phase.gateway_bytes = phase.gateway_bytes.max(after[0].bytes);
        phase.broker_bytes =
            after[1..].iter().fold(phase.broker_bytes, |most, broker| most.max(broker.bytes));
    }
    let seconds = began.elapsed().as_secs_f64();
    if watched.is_zero() {
        return Err(anyhow!("a process of the cluster did not tell its metrics all the while").into());
    }
    let cpu_seconds = |usages: &[Usage]| usages.iter().map(|usage| usage.cpu_seconds).sum::<f64>();
    phase.cluster_cores = (cpu_seconds(&after) - cpu_seconds(&before)) / watched.as_secs_f64();
    phase.own_cores = (own_cpu_seconds()? - own) / seconds;
    let counts = shared.counts.lock();
    phase.offered_per_s = (shared.sent.load(Relaxed) - sent) as f64 / seconds;
    phase.acknowledged_per_s = counts.acknowledged as f64 / seconds;
    phase.refused_per_s = counts.refused as f64 / seconds;
    phase.failed = counts.failed;
    phase.p50_ms = counts.latencies.value_at_quantile(0.5) as f64 / 1e3;
    phase.p99_ms = counts.latencies.value_at_quantile(0.99) as f64 / 1e3;
    if counts.acknowledged == 0 {
        let why = counts.last_failure.as_deref().unwrap_or("all were refused");
        return Err(anyhow!("no write was acknowledged ({why})").into());
    }
    Ok(phase)
}

/// What a process of the cluster has taken of the machine.
#[derive(Clone)]
struct Usage {
    /// In RAM.
    bytes: f64,
    cpu_seconds: f64,
}

async fn usages(http: &Http, monitored: &[String]) -> Result<Vec<Usage>, Failure> {
    let scrapes = monitored.iter().map(async |url| {
        let text = http.get(&format!("{url}/actuator/prometheus")).await?.text();
        let value = |name| samples(&text, name).iter().map(|sample| sample.value).sum();
        Ok(Usage {
            bytes: value("process_resident_memory_bytes"),
            cpu_seconds: value("process_cpu_seconds_total"),
        })
    });
    futures::future::try_join_all(scrapes).await
}

fn own_cpu_seconds() -> Result<f64, Failure> {
    let usage = evenkeel_process_metrics::Usage::now();
    Ok(usage.map_err(|error| anyhow!("/proc/self/stat: {error}"))?.cpu_seconds)
}

async fn closed_loop(shared: Arc<Shared>) {
    while !shared.stop.load(Relaxed) {
        let number = shared.sent.fetch_add(1, Relaxed);
        put(&shared, number).await;
    }
}

async fn open_loop(shared: Arc<Shared>, pace: Pace) {
    let began = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    let mut nth = 0;
    loop {
        tick.tick().await;
        while pace.due(0, nth) <= began.elapsed() {
            nth += 1;
            let number = shared.sent.fetch_add(1, Relaxed);
            if shared.unanswered.load(Relaxed) >= UNANSWERED_MAX {
                let mut counts = shared.counts.lock();
                counts.failed += 1;
                counts.last_failure = Some(format!("{UNANSWERED_MAX} writes have no answer"));
                continue;
            }
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { put(&shared, number).await });
        }
    }
}

/// Sends one write once, and counts what comes of it.
async fn put(shared: &Shared, number: u64) {
    let request = PutRequest {
        key: Bytes::from(format!("overload-{}", number % KEYS)),
        value: shared.value.clone(),
        ..Default::default()
    };
    let mut client = shared.channels[number as usize % CONNECTIONS].clone();
    shared.unanswered.fetch_add(1, Relaxed);
    let sent_at = Instant::now();
    let answer = tokio::time::timeout(ANSWER_WAIT_MAX, client.put(request)).await;
    shared.unanswered.fetch_sub(1, Relaxed);
    let mut counts = shared.counts.lock();
    match answer {
        Ok(Ok(_)) => {
            counts.acknowledged += 1;
            let us = u64::try_from(sent_at.elapsed().as_micros()).unwrap_or(u64::MAX);
            counts.latencies.saturating_record(us);
        }
        Ok(Err(status))
            if status.code() == Code::ResourceExhausted && status.get_details_retry_info().is_some() =>
        {
            counts.refused += 1;
        }
        Ok(Err(status)) => {
            counts.failed += 1;
            counts.last_failure = Some(status.to_string());
        }
        Err(_) => {
            counts.failed += 1;
            counts.last_failure = Some(format!("no answer within {ANSWER_WAIT_MAX:?}"));
        }
    }
}
