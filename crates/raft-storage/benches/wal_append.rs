//! What a group of entries costs until it is on disk, with one group appending and with many at once (one sync for all).
//!
//! The folder is a temporary one: where `TMPDIR` is in memory, syncing costs nothing.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evenkeel_raft_storage::types::raft::{CommittedLeaderId, Entry, LogId, Payload};
use evenkeel_raft_storage::{Command, GroupLog, LogOptions, SharedLog, TypeConfig};
use futures::future::join_all;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;

const ENTRY_BYTES: usize = 300;

/// A group and the index of its next entry.
struct Writer {
    log: GroupLog,
    next: u64,
}

impl Writer {
    async fn append(&mut self, count: u64, payload: &Bytes) {
        let entry = |index| {
            let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
            Entry { log_id, payload: Payload::Normal(Command(payload.clone())) }
        };
        let entries: Vec<Entry> = (self.next..self.next + count).map(entry).collect();
        self.next += count;
        let (sender, durable) = TypeConfig::oneshot();
        self.log.append(black_box(entries), IOFlushed::signal(sender)).await.unwrap();
        durable.await.unwrap().unwrap();
    }
}

fn wal_append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let payload = Bytes::from(vec![b'x'; ENTRY_BYTES]);
    let mut benchmarks = criterion.benchmark_group("wal_append");
    for (groups, entries) in [(1u32, 1u64), (1, 64), (64, 1), (64, 16)] {
        let folder = tempfile::tempdir().unwrap();
        let log = SharedLog::open_on_disk(LogOptions::new(folder.path())).unwrap();
        let mut writers: Vec<Writer> =
            (0..groups).map(|group| Writer { log: log.group(group), next: 0 }).collect();
        benchmarks.throughput(Throughput::Elements(u64::from(groups) * entries));
        let id = BenchmarkId::from_parameter(format!("{groups} groups of {entries} entries"));
        benchmarks.bench_function(id, |bencher| {
            bencher.iter(|| {
                runtime.block_on(join_all(writers.iter_mut().map(|writer| writer.append(entries, &payload))))
            });
        });
        drop(writers);
        runtime.block_on(log.close()).unwrap();
    }
    benchmarks.finish();
}

criterion_group!(benches, wal_append);
criterion_main!(benches);
