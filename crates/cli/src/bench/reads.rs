//! `evenkeel bench --reads`: how many reads, and how fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use evenkeel_client::Client;
use evenkeel_protocol::v1::Consistency;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};

const WARM_UP: Duration = Duration::from_secs(1);
/// Records that are read; written first.
const RECORDS: usize = 1_024;
/// The longest latency that the histogram tells apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Which reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reads {
    /// Linearizable, from leaders, which need nobody's consent while their lease lasts
    Lease,
    /// From any replica
    Stale,
}

impl Reads {
    fn consistency(self) -> Consistency {
        match self {
            Self::Lease => Consistency::Linearizable,
            Self::Stale => Consistency::Stale,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Stale => "stale",
        }
    }
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadPlan {
    pub reads: Reads,
    pub clients: usize,
    pub value_bytes: usize,
    pub seconds: u64,
}

/// What the readers did.
struct Measured {
    elapsed: Duration,
    latencies: Histogram<u64>,
    failed: u64,
    last_failure: Option<String>,
}

pub async fn run(plan: ReadPlan, client: &Client, output: Output) -> Result<(), Failure> {
    let measured = measure(plan, client).await?;
    let Measured { elapsed, latencies, failed, last_failure } = &measured;
    let per_s = (latencies.len() as f64 / elapsed.as_secs_f64()).round() as u64;
    let millis = |us: u64| us as f64 / 1e3;
    let latency = |quantile| millis(latencies.value_at_quantile(quantile));
    let (name, max) = (plan.reads.name(), millis(latencies.max()));
    match output {
        Output::Table | Output::Wide => print(format!(
            "{per_s} {name} reads/s  ({} clients, {} bytes, {} s)\n\
             latency      p50 {:.2} ms   p99 {:.2} ms   p99.9 {:.2} ms   max {max:.2} ms\n\
             failed       {failed}",
            plan.clients,
            plan.value_bytes,
            plan.seconds,
            latency(0.5),
            latency(0.99),
            latency(0.999),
        ))?,
        data => data.print(json!({
            "reads": name,
            "clients": plan.clients,
            "value_bytes": plan.value_bytes,
            "reads_per_s": per_s,
            "p50_ms": latency(0.5),
            "p99_ms": latency(0.99),
            "p999_ms": latency(0.999),
            "max_ms": max,
            "failed": failed,
        }))?,
    }
    if let Some(failure) = last_failure {
        note(format_args!("the last failure: {failure}"));
    }
    Ok(())
}

async fn measure(plan: ReadPlan, client: &Client) -> Result<Measured, Failure> {
    let keys: Arc<[Bytes]> = (0..RECORDS).map(|n| Bytes::from(format!("bench-read-{n}"))).collect();
    let value = Bytes::from(vec![b'x'; plan.value_bytes]);
    let pipeline = client.pipeline(RECORDS);
    try_join_all(keys.iter().map(|key| pipeline.put(key.clone(), value.clone(), None))).await?;
    let (stop, measuring) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut readers = Vec::with_capacity(plan.clients);
    for _ in 0..plan.clients {
        let (client, keys) = (client.clone(), Arc::clone(&keys));
        let (stop, measuring) = (Arc::clone(&stop), Arc::clone(&measuring));
        readers.push(tokio::spawn(read_in_a_loop(client, keys, plan.reads.consistency(), stop, measuring)));
    }
    tokio::time::sleep(WARM_UP).await;
    measuring.store(true, Relaxed);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    measuring.store(false, Relaxed);
    let elapsed = began.elapsed();
    stop.store(true, Relaxed);
    let mut measured = Measured { elapsed, latencies: new_histogram()?, failed: 0, last_failure: None };
    for reader in readers {
        let stopped = |error| Failure::new(1, format!("a reader stopped: {error}"));
        let (latencies, failed, last_failure) = reader.await.map_err(stopped)??;
        measured.latencies.add(latencies).map_err(|error| Failure::new(1, error.to_string()))?;
        measured.failed += failed;
        measured.last_failure = last_failure.or(measured.last_failure);
    }
    Ok(measured)
}

fn new_histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(|error| Failure::new(1, error.to_string()))
}

/// Answers latencies in microseconds, how many reads failed, and the last failure.
async fn read_in_a_loop(
    client: Client,
    keys: Arc<[Bytes]>,
    consistency: Consistency,
    stop: Arc<AtomicBool>,
    measuring: Arc<AtomicBool>,
) -> Result<(Histogram<u64>, u64, Option<String>), Failure> {
    let (mut latencies, mut failed, mut last_failure) = (new_histogram()?, 0, None);
    while !stop.load(Relaxed) {
        let key = keys[rand::random_range(0..keys.len())].clone();
        let (began, counts) = (Instant::now(), measuring.load(Relaxed));
        match client.get(key, consistency).await {
            // A stale read may be older than what was written just now.
            Ok(_) => {
                if counts && measuring.load(Relaxed) {
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    latencies.saturating_record(took);
                }
            }
            Err(error) => {
                failed += 1;
                last_failure = Some(error.to_string());
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    Ok((latencies, failed, last_failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake_gateway::FakeGateway;

    #[tokio::test]
    async fn records_are_written_first_and_then_only_read() {
        let gateway = FakeGateway::default();
        let client = gateway.client().await;
        let plan = ReadPlan { reads: Reads::Lease, clients: 3, value_bytes: 8, seconds: 1 };
        let measured = measure(plan, &client).await.unwrap();
        assert_eq!((measured.failed, measured.last_failure), (0, None));
        assert!(!measured.latencies.is_empty());
        let records = gateway.records.lock();
        assert_eq!(records.len(), RECORDS);
        assert!(records.values().all(|record| record.version == 1 && record.value.len() == 8));
    }
}
