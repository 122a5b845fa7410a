//! A closed loop of writers, each with one write under way (or many, streamed), with a move of the leaders half-way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::processes::Usage;
use crate::{etcd, evenkeel, nats};

const WARM_UP: Duration = Duration::from_secs(2);
/// What the move of leaders may take before it is given up.
const MOVE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest latency that the histogram tells apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    Evenkeel,
    EvenkeelStreamed,
    Etcd,
    Nats,
    /// Answers at once, as etcd would.
    Nothing,
}

#[derive(Args, Debug)]
pub struct LoadArgs {
    #[arg(long, value_enum)]
    pub peer: Peer,
    /// host:port of each server
    #[arg(long, value_delimiter = ',', required = true)]
    pub endpoints: Vec<String>,
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Writes of each client under way at once, where they are streamed
    #[arg(long, default_value_t = 256)]
    pub in_flight: usize,
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Streams of NATS, each with three replicas
    #[arg(long, default_value_t = 12)]
    pub streams: usize,
    /// Process ids of the servers
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Shell command that moves leaders, run after the steady half
    #[arg(long)]
    pub move_leaders: Option<String>,
}

/// What one run measured; throughput, latencies and costs while nothing moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub peer: Peer,
    pub clients: usize,
    pub value_bytes: usize,
    pub writes_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub failed: u64,
    /// Of all servers together.
    pub cpu_us_per_write: f64,
    pub bytes_written_per_byte: f64,
    pub moved: Option<Moved>,
}

/// What clients saw while leaders moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Whether every leader moved that should.
    pub complete: bool,
    pub failed: u64,
    pub longest_gap_ms: f64,
}

const WARMING: u8 = 0;
const STEADY: u8 = 1;
const MOVING: u8 = 2;

/// What all writers of a run share.
#[derive(Debug)]
pub struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    phase: AtomicU8,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    last_acknowledged_us: AtomicU64,
    longest_gap_us: AtomicU64,
}

impl Shared {
    pub fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn acknowledged(&self) {
        let now = self.now_us();
        let last = self.last_acknowledged_us.swap(now, Relaxed);
        self.longest_gap_us.fetch_max(now.saturating_sub(last), Relaxed);
        self.acknowledged.fetch_add(1, Relaxed);
    }

    /// The longest since this was last asked, and the one that goes on.
    fn take_longest_gap_us(&self) -> u64 {
        let now = self.now_us();
        let going_on = now.saturating_sub(self.last_acknowledged_us.swap(now, Relaxed));
        self.longest_gap_us.swap(0, Relaxed).max(going_on)
    }
}

/// One writer's latencies.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    steady: Histogram<u64>,
}

impl Recorder {
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped()
    }

    /// Notes the end of a write that began at `began`.
    pub async fn record<T>(&mut self, began: Instant, result: anyhow::Result<T>) {
        match result {
            Ok(_) => {
                self.shared.acknowledged();
                if self.shared.phase.load(Relaxed) == STEADY {
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.steady.saturating_record(took);
                }
            }
            Err(_) => {
                self.shared.failed.fetch_add(1, Relaxed);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

fn new_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

pub async fn run(args: LoadArgs) -> anyhow::Result<Measured> {
    let shared = Arc::new(Shared {
        epoch: Instant::now(),
        stop: AtomicBool::new(false),
        phase: AtomicU8::new(WARMING),
        acknowledged: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        last_acknowledged_us: AtomicU64::new(0),
        longest_gap_us: AtomicU64::new(0),
    });
    let value = Bytes::from(vec![b'x'; args.value_bytes]);
    let mut writers: JoinSet<anyhow::Result<Recorder>> = JoinSet::new();
    if args.peer == Peer::Nats {
        nats::create_streams(&args.endpoints, args.streams).await?;
    }
    let evenkeel = match args.peer {
        Peer::Evenkeel | Peer::EvenkeelStreamed => Some(evenkeel::connect(&args).await?),
        Peer::Etcd | Peer::Nats | Peer::Nothing => None,
    };
    for client in 0..args.clients {
        let recorder = Recorder { shared: Arc::clone(&shared), steady: new_histogram()? };
        let (value, endpoints) = (value.clone(), args.endpoints.clone());
        match (args.peer, &evenkeel) {
            (Peer::EvenkeelStreamed, Some(cluster)) => {
                let pipeline = cluster.pipeline(args.in_flight);
                writers.spawn(evenkeel::stream(pipeline, client, args.in_flight, value, recorder))
            }
            (_, Some(cluster)) => writers.spawn(evenkeel::write(cluster.clone(), client, value, recorder)),
            (Peer::Nats, None) => {
                writers.spawn(nats::write(endpoints, client, args.streams, value, recorder))
            }
            (_, None) => writers.spawn(etcd::write(endpoints, client, value, recorder)),
        };
    }
    tokio::time::sleep(WARM_UP).await;
    if shared.acknowledged.load(Relaxed) == 0 {
        bail!("nothing was acknowledged within {WARM_UP:?}: look at the servers' logs");
    }
    let usage = Usage::of(&args.pids)?;
    let (began, acknowledged) = (Instant::now(), shared.acknowledged.load(Relaxed));
    let failed = shared.failed.load(Relaxed);
    shared.phase.store(STEADY, Relaxed);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    shared.phase.store(MOVING, Relaxed);
    let (elapsed, writes) = (began.elapsed(), shared.acknowledged.load(Relaxed) - acknowledged);
    let used = Usage::of(&args.pids)?.since(&usage);
    let failed = shared.failed.load(Relaxed) - failed;
    let moved = match &args.move_leaders {
        Some(command) => Some(move_leaders(command, &shared).await?),
        None => None,
    };
    shared.stop.store(true, Relaxed);
    let mut steady = new_histogram()?;
    while let Some(writer) = writers.join_next().await {
        steady.add(writer??.steady)?;
    }
    let millis = |quantile| steady.value_at_quantile(quantile) as f64 / 1e3;
    let stored = (writes as f64 * args.value_bytes as f64).max(1.0);
    Ok(Measured {
        peer: args.peer,
        clients: args.clients,
        value_bytes: args.value_bytes,
        writes_per_s: writes as f64 / elapsed.as_secs_f64(),
        p50_ms: millis(0.5),
        p99_ms: millis(0.99),
        failed,
        cpu_us_per_write: used.cpu.as_secs_f64() * 1e6 / (writes as f64).max(1.0),
        bytes_written_per_byte: used.written_bytes as f64 / stored,
        moved,
    })
}

async fn move_leaders(command: &str, shared: &Shared) -> anyhow::Result<Moved> {
    let failed = shared.failed.load(Relaxed);
    shared.take_longest_gap_us();
    let moving = tokio::process::Command::new("sh").arg("-c").arg(command).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(MOVE_WAIT_MAX, moving).await.context("moving leaders took too long")??;
    if !output.status.success() {
        eprintln!("{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // What followed from it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let longest_gap_ms = shared.take_longest_gap_us() as f64 / 1e3;
    let failed = shared.failed.load(Relaxed) - failed;
    Ok(Moved { complete: output.status.success(), failed, longest_gap_ms })
}
