//! Behaviour of the state machine: commands, changes, request ids, snapshots.

mod bad_snapshots;
mod changes;
mod commands;
mod model;
mod snapshots;

use std::sync::Arc;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::{self as internal, Outcome, outcome};
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, Precondition, Record, RequestId, batch_operation::Operation,
    precondition::Condition,
};
use openraft::entry::RaftEntry;
use openraft::{EntryPayload, Membership};
use parking_lot::Mutex;
use prost::Message;
use tempfile::TempDir;

use crate::types::{Command, GroupId, raft};
use crate::{PartitionReader, PartitionStateMachine, StateStore, StoreOptions};

/// Small enough for many stores at once.
fn small() -> StoreOptions {
    StoreOptions { cache_bytes: 1024 * 1024, memtable_bytes: 1024 * 1024, ..StoreOptions::default() }
}

fn open_store(options: StoreOptions) -> (TempDir, StateStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = StateStore::open(folder.path(), options).unwrap();
    (folder, store)
}

fn log_id(index: u64) -> raft::LogId {
    raft::LogId::new(raft::CommittedLeaderId { term: 1, node_id: 0 }, index)
}

fn entry(index: u64, command: Bytes) -> raft::Entry {
    raft::Entry::new(log_id(index), EntryPayload::Normal(Command(command)))
}

fn membership(index: u64) -> raft::Entry {
    let nodes = [0, 1, 2].map(|id| (id, openraft::EmptyNode {}));
    let membership =
        Membership::new(vec![[0, 1, 2].into()], std::collections::BTreeMap::from(nodes)).unwrap();
    raft::Entry::new(log_id(index), EntryPayload::Membership(membership))
}

/// A partition whose log begins at index 1.
struct Partition {
    machine: PartitionStateMachine,
    reader: PartitionReader,
    next: u64,
}

impl Partition {
    fn open(store: &StateStore, partition: GroupId) -> Self {
        let (machine, reader) = store.partition(partition).unwrap();
        let next = *reader.applied().borrow() + 1;
        Self { machine, reader, next }
    }

    async fn apply_entries(&mut self, entries: Vec<raft::Entry>) -> Vec<Outcome> {
        let count = entries.len();
        self.next = entries.last().map_or(self.next, |last| last.log_id.index + 1);
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let answered = Arc::clone(&outcomes);
        let entries = entries.into_iter().enumerate().map(|(n, entry)| Ok((entry, Some(n))));
        let answer = move |n, outcome| answered.lock().push((n, outcome));
        self.machine.apply_all(futures::stream::iter(entries), answer).await.unwrap();
        let outcomes = std::mem::take(&mut *outcomes.lock());
        let order: Vec<usize> = outcomes.iter().map(|(n, _)| *n).collect();
        assert_eq!(order, (0..count).collect::<Vec<_>>(), "every entry is answered, in order");
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn apply(&mut self, commands: &[&str]) -> Vec<String> {
        let entries =
            commands.iter().zip(self.next..).map(|(text, index)| entry(index, parse(text))).collect();
        self.apply_entries(entries).await.iter().map(describe).collect()
    }

    fn keys(&self) -> String {
        let (records, more) = self.reader.list(b"", b"", usize::MAX, usize::MAX).unwrap();
        assert!(!more);
        assert_eq!(records.len() as u64, self.reader.records_count());
        records.iter().map(describe_record).collect::<Vec<_>>().join(" ")
    }
}

fn describe_record(record: &Record) -> String {
    format!("{}={}@{}v{}", text(&record.key), text(&record.value), record.position, record.version)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// `[#client.sequence] put KEY VALUE [absent|vN] ; del KEY [absent|vN] ; ...`
fn parse(text: &str) -> Bytes {
    let (request_id, operations) = match text.strip_prefix('#').and_then(|rest| rest.split_once(' ')) {
        Some((id, rest)) => {
            let (client, sequence) = id.split_once('.').unwrap();
            (
                Some(RequestId { client_id: client.parse().unwrap(), sequence: sequence.parse().unwrap() }),
                rest,
            )
        }
        None => (None, text),
    };
    let operations = operations.split(" ; ").filter(|op| !op.is_empty()).map(parse_operation).collect();
    internal::Command { request_id, operations, ..Default::default() }.encode_to_vec().into()
}

fn parse_operation(text: &str) -> BatchOperation {
    let words = text.split(' ').collect::<Vec<_>>();
    let precondition = |word: Option<&&str>| {
        word.map(|word| Precondition {
            condition: Some(match word.strip_prefix('v') {
                Some(version) => Condition::VersionEquals(version.parse().unwrap()),
                None => Condition::MustNotExist(*word == "absent"),
            }),
        })
    };
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let operation = match words[0] {
        "put" => Operation::Put(BatchPut {
            key: bytes(words[1]),
            value: bytes(words[2]),
            precondition: precondition(words.get(3)),
        }),
        "del" => {
            Operation::Delete(BatchDelete { key: bytes(words[1]), precondition: precondition(words.get(2)) })
        }
        _ => return BatchOperation { operation: None },
    };
    BatchOperation { operation: Some(operation) }
}

fn describe(outcome: &Outcome) -> String {
    match &outcome.outcome {
        None => "none".into(),
        Some(outcome::Outcome::Applied(applied)) => {
            let results = applied
                .results
                .iter()
                .map(|r| format!(" v{}{}", r.version, if r.existed { "+" } else { "" }));
            format!("@{}{}", applied.position, results.collect::<String>())
        }
        Some(outcome::Outcome::PreconditionFailed(f)) => {
            format!("failed {} at v{}", f.operation, f.current_version)
        }
        Some(outcome::Outcome::Superseded(s)) => format!("superseded by {}", s.last_sequence),
        Some(outcome::Outcome::Malformed(m)) => format!("malformed: {}", m.reason),
    }
}
