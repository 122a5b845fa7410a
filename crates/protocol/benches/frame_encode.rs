//! What frames cost to encode and decode: of writes to a broker, of entries to a peer, of a client's stream.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evenkeel_protocol::internal::v1::{
    AppendFrame, AppendRequest, Command, Entry, LogId, RaftVote, Write, WriteFrame, entry,
};
use evenkeel_protocol::v1::{
    BatchOperation, BatchPut, RequestId, StreamedWrite, StreamedWrites, batch_operation,
};
use prost::Message;

const WRITES: u64 = 256;
const VALUE_BYTES: usize = 256;

fn put(number: u64) -> (RequestId, BatchOperation) {
    let key = Bytes::from(format!("key-{number}"));
    let put = BatchPut { key, value: Bytes::from(vec![b'x'; VALUE_BYTES]), precondition: None };
    let id = RequestId { client_id: number.wrapping_mul(0x9e37_79b9_7f4a_7c15), sequence: number };
    (id, BatchOperation { operation: Some(batch_operation::Operation::Put(put)) })
}

fn command(number: u64) -> Bytes {
    let (id, operation) = put(number);
    Command { request_id: Some(id), operations: vec![operation], ..Command::default() }.encode_to_vec().into()
}

fn measure<M: Message + Default>(criterion: &mut Criterion, name: &str, frame: &M) {
    let mut benchmarks = criterion.benchmark_group(name);
    benchmarks.throughput(Throughput::Elements(WRITES));
    benchmarks.bench_function("encode", |bencher| bencher.iter(|| black_box(frame).encode_to_vec()));
    let encoded = Bytes::from(frame.encode_to_vec());
    // From shared bytes: keys, values and commands are not copied.
    benchmarks
        .bench_function("decode", |bencher| bencher.iter(|| M::decode(black_box(encoded.clone())).unwrap()));
    benchmarks.finish();
}

fn frames(criterion: &mut Criterion) {
    let writes = (0..WRITES).map(|n| Write { tag: n, partition_id: n as u32 % 12, command: command(n) });
    measure(criterion, "write_frame", &WriteFrame { writes: writes.collect() });
    let log_id = |index| Some(LogId { term: 3, node_id: 1, index });
    let entry = |n| Entry { log_id: log_id(n), payload: Some(entry::Payload::Command(command(n))) };
    let request = AppendRequest {
        group: 1,
        stream: 1,
        vote: Some(RaftVote { term: 3, node_id: 1, committed: true }),
        prev_log_id: log_id(0),
        leader_commit: log_id(0),
        entries: (1..=WRITES).map(entry).collect(),
        ..AppendRequest::default()
    };
    measure(criterion, "append_frame", &AppendFrame { requests: vec![request], ..AppendFrame::default() });
    let streamed = |n| {
        let (id, operation) = put(n);
        StreamedWrite { tag: n, operations: vec![operation], request_id: Some(id) }
    };
    measure(criterion, "streamed_writes", &StreamedWrites { writes: (0..WRITES).map(streamed).collect() });
}

criterion_group!(benches, frames);
criterion_main!(benches);
