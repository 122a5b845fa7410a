//! Writes to Evenkeel, through its client.

use std::time::Instant;

use bytes::Bytes;
use evenkeel_client::v1::{BatchOperation, BatchPut, batch_operation};
use evenkeel_client::{Client, Options, Pipeline};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::load::{LoadArgs, Peer, Recorder};

/// Keys of each client, over all partitions.
const KEYS: u64 = 1_000;
/// One HTTP/2 connection carries so many calls well.
const CALLS_PER_CONNECTION: usize = 32;

pub async fn connect(args: &LoadArgs) -> anyhow::Result<Client> {
    let mut options = Options::new(args.endpoints.clone());
    if args.peer == Peer::Evenkeel {
        options.connections_per_gateway = args.clients.div_ceil(CALLS_PER_CONNECTION);
    }
    Ok(Client::connect_with(options).await?)
}

fn key(client: usize, number: u64) -> Bytes {
    Bytes::from(format!("k{client}-{}", number % KEYS))
}

pub async fn write(
    cluster: Client,
    client: usize,
    value: Bytes,
    mut recorder: Recorder,
) -> anyhow::Result<Recorder> {
    for number in 0.. {
        if recorder.is_stopped() {
            break;
        }
        let began = Instant::now();
        let result = cluster.put(key(client, number), value.clone(), None).await;
        recorder.record(began, result.map_err(Into::into)).await;
    }
    Ok(recorder)
}

pub async fn stream(
    pipeline: Pipeline,
    client: usize,
    in_flight: usize,
    value: Bytes,
    mut recorder: Recorder,
) -> anyhow::Result<Recorder> {
    let mut under_way = FuturesUnordered::new();
    let mut number = 0;
    loop {
        while under_way.len() < in_flight && !recorder.is_stopped() {
            let put = BatchPut { key: key(client, number), value: value.clone(), precondition: None };
            let operation = BatchOperation { operation: Some(batch_operation::Operation::Put(put)) };
            number += 1;
            let began = Instant::now();
            let submitted = pipeline.submit(vec![operation]).await;
            under_way.push(async move { (began, submitted.await) });
        }
        let Some((began, result)) = under_way.next().await else { return Ok(recorder) };
        recorder.record(began, result.map_err(Into::into)).await;
    }
}
