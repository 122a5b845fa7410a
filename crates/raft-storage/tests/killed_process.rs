//! A process that is killed in the middle of applying leaves each partition at a state that it really had.

#![allow(clippy::unwrap_used, reason = "clippy knows only functions marked as tests for tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use evenkeel_protocol::internal::v1 as internal;
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, Record, RequestId, batch_operation::Operation,
};
use evenkeel_raft_storage::types::raft;
use evenkeel_raft_storage::{PartitionReader, PartitionStateMachine, StateStore, StoreOptions};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use prost::Message;

const CHILD_FOLDER: &str = "EVENKEEL_TEST_KILLED_PROCESS_FOLDER";
const PARTITIONS: [u32; 3] = [1, 2, 3];
const KILLS: usize = 5;
/// Batches that a process applies before it is killed: enough to write tables and to compact.
const BATCHES_BEFORE_KILL: usize = 400;

/// So small that tables are written, journals rotated and changes trimmed all the time.
fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 1024 * 1024,
        memtable_bytes: 128 * 1024,
        changes_retained_max: 500,
        ..StoreOptions::default()
    }
}

/// The log of a partition: the same every time, with overwrites, deletes, batches and retries.
fn entry(partition: u32, index: u64) -> raft::Entry {
    let key = |n: u64| Bytes::from(format!("key-{}", n % 97));
    // Large ones are kept beside the tables.
    let bytes = if index.is_multiple_of(8) { 5_000 } else { 900 };
    let value = Bytes::from(vec![index as u8; bytes + (index % 200) as usize]);
    let put = |n| Operation::Put(BatchPut { key: key(n), value: value.clone(), precondition: None });
    let delete = |n| Operation::Delete(BatchDelete { key: key(n), precondition: None });
    let operations = match index % 5 {
        0 => vec![put(index), delete(index + 1), put(index + 2)],
        1 => vec![delete(index * 3)],
        _ => vec![put(index * 7 + u64::from(partition))],
    };
    let request_id = Some(RequestId { client_id: index % 11, sequence: index / 17 });
    let operations = operations.into_iter().map(|op| BatchOperation { operation: Some(op) }).collect();
    let command = internal::Command { request_id, operations, ..Default::default() }.encode_to_vec();
    let log_id = raft::LogId::new(raft::CommittedLeaderId { term: 1, node_id: 0 }, index);
    raft::Entry::new(log_id, EntryPayload::Normal(evenkeel_raft_storage::Command(command.into())))
}

async fn apply(machine: &mut PartitionStateMachine, partition: u32, indexes: std::ops::Range<u64>) {
    let entries = indexes.map(|index| Ok((entry(partition, index), None)));
    machine.apply(futures::stream::iter(entries)).await.unwrap();
}

fn records(reader: &PartitionReader) -> Vec<Record> {
    let (records, _) = reader.list(b"", b"", usize::MAX, usize::MAX).unwrap();
    assert_eq!(records.len() as u64, reader.records_count());
    records
}

/// Runs only as the process to be killed: applies for ever, and tells what it applied and what it made durable.
#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let store = StateStore::open(folder, options()).unwrap();
    let mut partitions = PARTITIONS.map(|id| (id, store.partition(id).unwrap()));
    let mut out = std::io::stdout();
    for round in 1u64.. {
        for (id, (machine, reader)) in &mut partitions {
            let next = *reader.applied().borrow() + 1;
            let end = next + 1 + round % 7;
            apply(machine, *id, next..end).await;
            writeln!(out, "applied {id} {}", end - 1).unwrap();
            if round % 31 == 0 {
                machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
                writeln!(out, "durable {id} {}", end - 1).unwrap();
            }
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts the child on a folder and kills it after it told of enough batches; returns for each partition the last that
/// it told to be durable. What it only applied may be in memory, and the log replays it.
fn run_and_kill(folder: &Path) -> [u64; PARTITIONS.len()] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let mut told = [0; PARTITIONS.len()];
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut batches = 0;
    for line in lines.map_while(Result::ok) {
        // The test runner's own words may stand before it.
        if line.contains("applied ") {
            batches += 1;
        }
        if let Some((_, line)) = line.split_once("durable ")
            && let Some((partition, index)) = line.split_once(' ')
            && let (Ok(partition), Ok(index)) = (partition.parse::<u32>(), index.parse::<u64>())
        {
            let slot = PARTITIONS.iter().position(|id| *id == partition).unwrap();
            told[slot] = index;
        }
        if batches == BATCHES_BEFORE_KILL {
            break;
        }
    }
    assert_eq!(batches, BATCHES_BEFORE_KILL, "the process ended by itself");
    assert!(told.iter().all(|index| *index > 0), "it made something of each partition durable: {told:?}");
    told
}

#[tokio::test]
async fn after_a_kill_every_partition_is_where_its_last_applied_entry_says() {
    let folder = tempfile::tempdir().unwrap();
    let reference_folder = tempfile::tempdir().unwrap();
    let reference = StateStore::open(reference_folder.path(), StoreOptions::default()).unwrap();
    let mut references = PARTITIONS.map(|id| reference.partition(id).unwrap());
    for _ in 0..KILLS {
        let told = run_and_kill(folder.path());
        let store = StateStore::open(folder.path(), options()).unwrap();
        for ((id, told), (machine, expected)) in PARTITIONS.iter().zip(told).zip(&mut references) {
            let (_, reader) = store.partition(*id).unwrap();
            let applied = *reader.applied().borrow();
            assert!(applied >= told, "partition {id}: {told} was durable, has {applied}");
            let next = *expected.applied().borrow() + 1;
            apply(machine, *id, next..applied + 1).await;
            assert_eq!(records(&reader), records(expected), "partition {id} at {applied}");
            let first = reader.first_available_position();
            let after = evenkeel_protocol::Position(first.0 - 1);
            let changes = |reader: &PartitionReader| reader.changes(after, b"", 10_000, usize::MAX).unwrap();
            assert_eq!(changes(&reader), changes(expected), "partition {id} at {applied}");
        }
    }
}
