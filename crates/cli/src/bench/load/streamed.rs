//! A client that has many writes under way on one stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use evenkeel_client::{ClientError, Pipeline};
use evenkeel_protocol::v1::{BatchOperation, BatchPut, BatchResponse, batch_operation};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::{ClientReport, PAUSE_AFTER_FAILURE, Phase, Shared, new_histogram, pick};

/// What a write was when it was sent.
struct Sent {
    partition: usize,
    at_us: u64,
    phase: Phase,
}

/// Keeps `in_flight` writes under way. Keeps no ledger: writes of one key pass each other.
pub(super) async fn write_streamed(
    pipeline: Pipeline,
    shared: Arc<Shared>,
    keys: Vec<Vec<Bytes>>,
    value: Bytes,
    shares: Arc<[f64]>,
    in_flight: usize,
) -> anyhow::Result<ClientReport> {
    let (mut latencies, mut latencies_in_change) = (new_histogram()?, new_histogram()?);
    let mut under_way = FuturesUnordered::new();
    let mut record = |sent: &Sent, result: Result<BatchResponse, ClientError>| {
        let Sent { partition, at_us, phase } = *sent;
        let now_us = shared.now_us();
        match result {
            Ok(_) => {
                shared.partitions[partition].lock().acknowledged(now_us);
                shared.overall.lock().acknowledged(now_us);
                shared.acknowledged.fetch_add(1, Relaxed);
                let latency_us = now_us.saturating_sub(at_us);
                match phase.max(shared.phase()) {
                    Phase::Steady => latencies.saturating_record(latency_us),
                    Phase::Unmeasured => {}
                    Phase::Change => latencies_in_change.saturating_record(latency_us),
                }
                true
            }
            Err(error) => {
                shared.partitions[partition].lock().failed();
                shared.overall.lock().failed();
                shared.failed.fetch_add(1, Relaxed);
                *shared.last_failure.lock() = Some(error.to_string());
                false
            }
        }
    };
    loop {
        while under_way.len() < in_flight && !shared.stop.load(Relaxed) {
            let partition = pick(&shares, rand::random());
            let key = keys[partition][rand::random_range(0..keys[partition].len())].clone();
            let put = BatchPut { key, value: value.clone(), precondition: None };
            let operation = BatchOperation { operation: Some(batch_operation::Operation::Put(put)) };
            let sent = Sent { partition, at_us: shared.now_us(), phase: shared.phase() };
            shared.partitions[partition].lock().sent(sent.at_us);
            shared.overall.lock().sent(sent.at_us);
            let submitted = pipeline.submit(vec![operation]).await;
            under_way.push(submitted.map(move |result| (sent, result)));
        }
        let Some((sent, result)) = under_way.next().await else { break };
        let mut all_well = record(&sent, result);
        // Answers come many at a time, and what follows them leaves together.
        while let Some(Some((sent, result))) = under_way.next().now_or_never() {
            all_well &= record(&sent, result);
        }
        if !all_well {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
    Ok(ClientReport { latencies, latencies_in_change, ledger: BTreeMap::new() })
}
