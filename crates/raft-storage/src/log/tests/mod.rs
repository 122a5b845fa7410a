mod bad_bytes;
mod behaviour;
mod corruption;
mod crash;
mod failure;
mod forgetting;
mod space;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use tokio::sync::oneshot;

use super::entry_codec::log_id;
use super::{CommitterDriver, GroupLog, LogOptions, SharedLog};
use crate::faulty_disk::FaultyDisk;
use crate::types::raft::{Entry, LogId, Payload, Vote};
use crate::types::{Command, TypeConfig};

const DIRECTORY: &str = "/log";

/// Without room ahead, so that a segment ends where its last batch does.
fn options() -> LogOptions {
    LogOptions { room_bytes: 0, ..LogOptions::new(DIRECTORY) }
}

fn small_segments(bytes: u64) -> LogOptions {
    LogOptions { segment_bytes_max: bytes, ..options() }
}

fn open(disk: &FaultyDisk, options: LogOptions) -> SharedLog {
    SharedLog::open(Arc::new(disk.clone()), options).unwrap()
}

fn entry(term: u64, index: u64, value: impl Into<Bytes>) -> Entry {
    Entry { log_id: log_id(term, 1, index), payload: Payload::Normal(Command(value.into())) }
}

fn entries(term: u64, range: std::ops::Range<u64>, value: &'static [u8]) -> Vec<Entry> {
    range.map(|index| entry(term, index, value)).collect()
}

fn vote(term: u64) -> Vote {
    Vote::new(term, 1)
}

type Flushed = oneshot::Receiver<Result<(), std::io::Error>>;

/// Queues entries; the receiver is told when they are durable.
async fn start_append(log: &mut GroupLog, entries: Vec<Entry>) -> Flushed {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.unwrap();
    receiver
}

async fn append(log: &mut GroupLog, entries: Vec<Entry>) {
    start_append(log, entries).await.await.unwrap().unwrap();
}

/// Everything that a group's log says, to compare before and after.
#[derive(Debug, Clone, PartialEq)]
struct View {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: Vec<Entry>,
    bytes: u64,
}

async fn view(log: &SharedLog, group: u32) -> View {
    let mut log = log.group(group);
    let state = log.get_log_state().await.unwrap();
    View {
        vote: log.read_vote().await.unwrap(),
        committed: log.read_committed().await.unwrap(),
        purged: state.last_purged_log_id,
        last: state.last_log_id,
        entries: log.try_get_log_entries(..).await.unwrap(),
        bytes: log.bytes_after(None),
    }
}

async fn views(log: &SharedLog) -> Vec<(u32, View)> {
    let mut all = Vec::new();
    for group in log.groups() {
        all.push((group, view(log, group).await));
    }
    all
}

/// Paths of the log's segments, oldest first.
fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.parent() == Some(Path::new(DIRECTORY))).collect()
}
