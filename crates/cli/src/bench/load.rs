//! Write load: each client has one write under way and sends the next when it is answered or, with a pace, when it is
//! due as well; or has many under way on a stream (`streamed`).
//!
//! Every client writes keys of its own, so that afterwards it knows exactly what each must hold (`ledger`). The
//! loader shares a machine with what it measures: it keeps a few connections, shares the value's bytes, and does
//! no work per write beyond a random number, two short locks and a histogram entry.

mod streamed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use evenkeel_client::Client;
use evenkeel_protocol::partition_of;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::bench::ack_gap::AckGap;
use crate::bench::pacing::Pace;

/// Keys that a client has in each partition.
const KEYS_PER_PARTITION: usize = 4;
/// Longest latency that the histogram tells apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;
/// A cluster that refuses is not asked again at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What to write.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub clients: usize,
    pub value_bytes: usize,
    pub partitions: u32,
    /// 0 loads all partitions alike; s gives the nth a share proportional to 1/n^s.
    pub skew: f64,
    /// Begins every key.
    pub key_prefix: String,
    /// Writes a second of all clients together; `None` for as many as they get answers to.
    pub per_second: Option<f64>,
    /// Writes that each client has under way on a stream of its own; `None` for one call after the other. Paced or
    /// streamed, not both.
    pub in_flight: Option<usize>,
}

/// What latencies are counted as. A write that saw several counts for the last of them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Steady,
    /// Not counted.
    Unmeasured,
    /// Something is being done to the cluster.
    Change,
}

impl Phase {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Steady,
            2 => Self::Change,
            _ => Self::Unmeasured,
        }
    }
}

/// What is known of a key that only one client writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLedger {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes whose outcome nobody learned.
    pub unknown: u64,
}

/// Longest gaps of one phase, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    pub overall_us: u64,
    /// By partition, from 1.
    pub partitions_us: BTreeMap<u32, u64>,
}

impl Gaps {
    /// The worst partition's.
    pub fn worst_us(&self) -> u64 {
        self.partitions_us.values().copied().max().unwrap_or(0)
    }
}

/// What the clients did in all.
#[derive(Debug)]
pub struct LoadReport {
    /// Microseconds, of the writes that were measured while nothing was done to the cluster.
    pub latencies: Histogram<u64>,
    /// The same while something was.
    pub latencies_in_change: Histogram<u64>,
    pub acknowledged: u64,
    pub failed: u64,
    /// The last failure, for a person.
    pub last_failure: Option<String>,
    /// By key.
    pub ledger: BTreeMap<Bytes, KeyLedger>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    /// A [`Phase`].
    phase: AtomicU8,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
    overall: Mutex<AckGap>,
    /// Index 0 is partition 1.
    partitions: Vec<Mutex<AckGap>>,
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn phase(&self) -> Phase {
        Phase::from_number(self.phase.load(Relaxed))
    }
}

#[derive(Debug)]
struct ClientReport {
    latencies: Histogram<u64>,
    latencies_in_change: Histogram<u64>,
    ledger: BTreeMap<Bytes, KeyLedger>,
}

/// A load under way; dropping it stops it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<anyhow::Result<ClientReport>>>,
}

impl Load {
    /// Starts every client. Nothing is measured before [`Load::begin_measuring`].
    pub fn start(client: &Client, plan: &LoadPlan) -> anyhow::Result<Self> {
        if plan.partitions == 0 {
            return Err(anyhow!("the cluster has no partitions to write to; see `evenkeel status`"));
        }
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
            phase: AtomicU8::new(Phase::Unmeasured as u8),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_failure: Mutex::new(None),
            overall: Mutex::new(AckGap::default()),
            partitions: (0..plan.partitions).map(|_| Mutex::new(AckGap::default())).collect(),
        });
        let value = Bytes::from(vec![b'x'; plan.value_bytes]);
        let shares: Arc<[f64]> = cumulative_shares(plan.partitions, plan.skew).into();
        let pace = match plan.per_second {
            None => None,
            Some(per_second) => Some(Pace::new(per_second, plan.clients).ok_or_else(|| {
                anyhow!("{per_second} writes/s of {} clients is no load; give more of both", plan.clients)
            })?),
        };
        if pace.is_some() && plan.in_flight.is_some() {
            return Err(anyhow!("a streamed load has no pace; leave one of both out"));
        }
        let mut tasks = Vec::with_capacity(plan.clients);
        for number in 0..plan.clients {
            let keys = keys_by_partition(&format!("{}{number}-", plan.key_prefix), plan.partitions);
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            let (value, shares) = (value.clone(), Arc::clone(&shares));
            if let Some(in_flight) = plan.in_flight {
                let pipeline = client.pipeline(in_flight);
                let writing = streamed::write_streamed(pipeline, shared, keys, value, shares, in_flight);
                tasks.push(tokio::spawn(writing));
                continue;
            }
            let turns = pace.map(|pace| Turns { pace, client: number, next: 0 });
            tasks.push(tokio::spawn(write_in_a_loop(client, shared, keys, value, shares, turns)));
        }
        Ok(Self { shared, tasks })
    }

    /// From now on latencies count, and gaps start anew.
    pub fn begin_measuring(&self) {
        self.take_gaps();
        self.begin(Phase::Steady);
    }

    /// From now on latencies count as this phase's.
    pub fn begin(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Relaxed);
    }

    /// Writes acknowledged since the start.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Relaxed)
    }

    /// Writes to each of these partitions acknowledged since the start.
    pub fn acknowledged_of(&self, partitions: &[u32]) -> Vec<u64> {
        let of = |id: &u32| self.shared.partitions.get((*id as usize).checked_sub(1)?);
        partitions.iter().map(|id| of(id).map_or(0, |gap| gap.lock().count())).collect()
    }

    /// The longest gaps since this was last asked.
    pub fn take_gaps(&self) -> Gaps {
        let now_us = self.shared.now_us();
        let partitions = self.shared.partitions.iter().zip(1..);
        Gaps {
            overall_us: self.shared.overall.lock().take_longest(now_us),
            partitions_us: partitions.map(|(gap, id)| (id, gap.lock().take_longest(now_us))).collect(),
        }
    }

    /// Lets every client finish its write, and gathers what they did.
    pub async fn stop(mut self) -> anyhow::Result<LoadReport> {
        self.shared.stop.store(true, Relaxed);
        let (mut latencies, mut latencies_in_change) = (new_histogram()?, new_histogram()?);
        let mut ledger = BTreeMap::new();
        for task in std::mem::take(&mut self.tasks) {
            let report = task.await??;
            latencies.add(report.latencies)?;
            latencies_in_change.add(report.latencies_in_change)?;
            ledger.extend(report.ledger);
        }
        let last_failure = self.shared.last_failure.lock().take();
        Ok(LoadReport {
            latencies,
            latencies_in_change,
            acknowledged: self.acknowledged(),
            failed: self.shared.failed.load(Relaxed),
            last_failure,
            ledger,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

fn new_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

/// Which writes of a schedule are one client's.
struct Turns {
    pace: Pace,
    client: usize,
    next: u64,
}

impl Turns {
    /// Waits until the next write is due; at once when that has passed already. Answers when it was, in microseconds.
    async fn wait(&mut self, epoch: Instant) -> u64 {
        let due = self.pace.due(self.client, self.next);
        self.next += 1;
        tokio::time::sleep_until((epoch + due).into()).await;
        u64::try_from(due.as_micros()).unwrap_or(u64::MAX)
    }
}

async fn write_in_a_loop(
    client: Client,
    shared: Arc<Shared>,
    keys: Vec<Vec<Bytes>>,
    value: Bytes,
    shares: Arc<[f64]>,
    mut turns: Option<Turns>,
) -> anyhow::Result<ClientReport> {
    let (mut latencies, mut latencies_in_change) = (new_histogram()?, new_histogram()?);
    let mut ledger = BTreeMap::<Bytes, KeyLedger>::new();
    while !shared.stop.load(Relaxed) {
        let due_us = match &mut turns {
            Some(turns) => Some(turns.wait(shared.epoch).await),
            None => None,
        };
        let partition = pick(&shares, rand::random());
        let key = &keys[partition][rand::random_range(0..keys[partition].len())];
        let phase_when_sent = shared.phase();
        let sent_us = shared.now_us();
        shared.partitions[partition].lock().sent(sent_us);
        shared.overall.lock().sent(sent_us);
        let result = client.put(key.clone(), value.clone(), None).await;
        let now_us = shared.now_us();
        let entry = ledger.entry(key.clone()).or_default();
        match result {
            Ok(_) => {
                shared.partitions[partition].lock().acknowledged(now_us);
                shared.overall.lock().acknowledged(now_us);
                shared.acknowledged.fetch_add(1, Relaxed);
                entry.acknowledged += 1;
                let latency_us = now_us.saturating_sub(due_us.unwrap_or(sent_us));
                match phase_when_sent.max(shared.phase()) {
                    Phase::Steady => latencies.saturating_record(latency_us),
                    Phase::Unmeasured => {}
                    Phase::Change => latencies_in_change.saturating_record(latency_us),
                }
            }
            Err(error) => {
                shared.partitions[partition].lock().failed();
                shared.overall.lock().failed();
                shared.failed.fetch_add(1, Relaxed);
                entry.unknown += 1;
                *shared.last_failure.lock() = Some(error.to_string());
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    Ok(ClientReport { latencies, latencies_in_change, ledger })
}

/// `result[i]` is the share of partitions 1..=i+1 together; the last is 1.
fn cumulative_shares(partitions: u32, skew: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=partitions).map(|n| f64::from(n).powf(-skew)).collect();
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    weights
        .iter()
        .map(|weight| {
            sum += weight / total;
            sum
        })
        .collect()
}

/// Index of the partition whose share `chance` (0..1) falls into.
fn pick(shares: &[f64], chance: f64) -> usize {
    shares.partition_point(|share| *share <= chance).min(shares.len() - 1)
}

/// Keys that begin with `prefix`, some for each partition; index 0 is partition 1.
fn keys_by_partition(prefix: &str, partitions: u32) -> Vec<Vec<Bytes>> {
    let mut keys = vec![Vec::with_capacity(KEYS_PER_PARTITION); partitions as usize];
    let mut lacking = keys.len();
    for number in 0u64.. {
        if lacking == 0 {
            break;
        }
        let key = format!("{prefix}{number}");
        let of_partition = &mut keys[partition_of(key.as_bytes(), partitions).0 as usize - 1];
        if of_partition.len() < KEYS_PER_PARTITION {
            of_partition.push(Bytes::from(key));
            lacking -= usize::from(of_partition.len() == KEYS_PER_PARTITION);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_gets_its_keys() {
        let keys = keys_by_partition("p-", 7);
        for (index, keys) in keys.iter().enumerate() {
            assert_eq!(keys.len(), KEYS_PER_PARTITION);
            assert!(keys.iter().all(|key| partition_of(key, 7).0 as usize == index + 1));
        }
    }

    #[test]
    fn skew_0_loads_alike_and_more_skew_prefers_the_first() {
        let even = cumulative_shares(4, 0.0);
        assert_eq!([0.0, 0.3, 0.6, 0.99].map(|chance| pick(&even, chance)), [0, 1, 2, 3]);
        let skewed = cumulative_shares(4, 1.0);
        assert!((skewed[0] - 0.48).abs() < 1e-9 && (skewed[3] - 1.0).abs() < 1e-9, "{skewed:?}");
        assert_eq!(pick(&skewed, 1.0), 3);
    }
}

#[cfg(test)]
mod load_tests {
    use super::*;
    use crate::cluster::fake_gateway::FakeGateway;

    fn plan(per_second: Option<f64>) -> LoadPlan {
        let key_prefix = "t-".into();
        let in_flight = None;
        LoadPlan { clients: 4, value_bytes: 16, partitions: 3, skew: 0.0, key_prefix, per_second, in_flight }
    }

    async fn until_acknowledged(load: &Load, writes: u64) {
        while load.acknowledged() < writes {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_paced_load_sends_no_more_than_is_due_and_tells_phases_apart() {
        let gateway = FakeGateway::default();
        let (began, per_second) = (Instant::now(), 400.0);
        let load = Load::start(&gateway.client().await, &plan(Some(per_second))).unwrap();
        until_acknowledged(&load, 20).await;
        load.begin_measuring();
        until_acknowledged(&load, 40).await;
        load.begin(Phase::Change);
        until_acknowledged(&load, 60).await;
        let report = load.stop().await.unwrap();
        let due = began.elapsed().as_secs_f64() * per_second;
        assert!(report.acknowledged as f64 <= due + 4.0, "{} where {due} were due", report.acknowledged);
        assert!(!report.latencies.is_empty() && !report.latencies_in_change.is_empty());
        let measured = report.latencies.len() + report.latencies_in_change.len();
        assert!(measured <= report.acknowledged - 16, "{measured} of {}", report.acknowledged);
        assert!(Load::start(&gateway.client().await, &plan(Some(0.0))).is_err());
    }

    #[tokio::test]
    async fn a_streamed_load_counts_every_write_once() {
        let gateway = FakeGateway::default();
        let plan = LoadPlan { in_flight: Some(8), ..plan(None) };
        let load = Load::start(&gateway.client().await, &plan).unwrap();
        load.begin_measuring();
        until_acknowledged(&load, 500).await;
        let report = load.stop().await.unwrap();
        assert_eq!((report.failed, report.last_failure), (0, None));
        assert_eq!(gateway.puts.load(Relaxed), report.acknowledged);
        assert_eq!(gateway.records.lock().values().map(|r| r.version).sum::<u64>(), report.acknowledged);
        assert!(report.latencies.len() <= report.acknowledged);
        assert!(Load::start(&gateway.client().await, &LoadPlan { per_second: Some(9.0), ..plan }).is_err());
    }

    #[tokio::test]
    async fn the_ledger_knows_what_every_key_must_hold() {
        let gateway = FakeGateway::default();
        let load = Load::start(&gateway.client().await, &plan(None)).unwrap();
        load.begin_measuring();
        until_acknowledged(&load, 200).await;
        assert_eq!(load.take_gaps().partitions_us.len(), 3);
        let report = load.stop().await.unwrap();
        assert_eq!((report.failed, report.last_failure), (0, None));
        assert!(!report.latencies.is_empty());
        let records = gateway.records.lock();
        assert_eq!(records.len(), report.ledger.len());
        for (key, known) in &report.ledger {
            assert_eq!(records[key].version, known.acknowledged, "{key:?}");
        }
        assert_eq!(report.ledger.values().map(|known| known.acknowledged).sum::<u64>(), report.acknowledged);
    }
}
