//! Closed-loop write load: each client has one write under way and sends the next when it is answered.
//!
//! Every client writes keys of its own, so that afterwards it knows exactly what each must hold (`ledger`). The
//! loader shares a machine with what it measures: it keeps a few connections, shares the value's bytes, and does
//! no work per write beyond a random number, two short locks and a histogram entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use evenkeel_client::Client;
use evenkeel_protocol::partition_of;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::ack_gap::AckGap;

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
    /// Microseconds, of the measured writes.
    pub latencies: Histogram<u64>,
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
    measure: AtomicBool,
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
}

#[derive(Debug)]
struct ClientReport {
    latencies: Histogram<u64>,
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
            measure: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_failure: Mutex::new(None),
            overall: Mutex::new(AckGap::default()),
            partitions: (0..plan.partitions).map(|_| Mutex::new(AckGap::default())).collect(),
        });
        let value = Bytes::from(vec![b'x'; plan.value_bytes]);
        let shares: Arc<[f64]> = cumulative_shares(plan.partitions, plan.skew).into();
        let mut tasks = Vec::with_capacity(plan.clients);
        for number in 0..plan.clients {
            let keys = keys_by_partition(&format!("{}{number}-", plan.key_prefix), plan.partitions);
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            let (value, shares) = (value.clone(), Arc::clone(&shares));
            tasks.push(tokio::spawn(write_in_a_loop(client, shared, keys, value, shares)));
        }
        Ok(Self { shared, tasks })
    }

    /// From now on latencies count, and gaps start anew.
    pub fn begin_measuring(&self) {
        self.take_gaps();
        self.shared.measure.store(true, Relaxed);
    }

    /// Writes acknowledged since the start.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Relaxed)
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
        let mut latencies = new_histogram()?;
        let mut ledger = BTreeMap::new();
        for task in std::mem::take(&mut self.tasks) {
            let report = task.await??;
            latencies.add(report.latencies)?;
            ledger.extend(report.ledger);
        }
        let last_failure = self.shared.last_failure.lock().take();
        Ok(LoadReport {
            latencies,
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

async fn write_in_a_loop(
    client: Client,
    shared: Arc<Shared>,
    keys: Vec<Vec<Bytes>>,
    value: Bytes,
    shares: Arc<[f64]>,
) -> anyhow::Result<ClientReport> {
    let mut latencies = new_histogram()?;
    let mut ledger = BTreeMap::<Bytes, KeyLedger>::new();
    while !shared.stop.load(Relaxed) {
        let partition = pick(&shares, rand::random());
        let key = &keys[partition][rand::random_range(0..keys[partition].len())];
        let measured = shared.measure.load(Relaxed);
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
                if measured {
                    latencies.saturating_record(now_us - sent_us);
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
    Ok(ClientReport { latencies, ledger })
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
    use crate::fake_gateway::FakeGateway;

    #[tokio::test]
    async fn the_ledger_knows_what_every_key_must_hold() {
        let gateway = FakeGateway::default();
        let plan =
            LoadPlan { clients: 4, value_bytes: 16, partitions: 3, skew: 0.0, key_prefix: "t-".into() };
        let load = Load::start(&gateway.client().await, &plan).unwrap();
        load.begin_measuring();
        while load.acknowledged() < 200 {
            tokio::task::yield_now().await;
        }
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
