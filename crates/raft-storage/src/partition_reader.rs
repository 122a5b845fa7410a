//! Reads a partition's state beside the state machine that writes it.
//!
//! Readers never wait for the writer. Installing a snapshot moves the partition to a new generation and drops the old
//! one afterwards; a read that began on the old one notices and starts over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use evenkeel_protocol::Position;
use evenkeel_protocol::internal::v1::ExportedPosition;
use evenkeel_protocol::v1::{Record, WatchEvent};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

use crate::state_layout::{Kind, RECORD_HEAD_BYTES, Scope, damaged, number_of_key, record_head};
use crate::state_store::StoreInner;
use crate::types::GroupId;

/// How often a read starts over because a snapshot was installed meanwhile.
const ATTEMPTS_MAX: usize = 16;
/// Changes that one call looks at, however few of them it returns.
const CHANGES_SCANNED_MAX: usize = 10_000;

/// What the state machine tells its readers, stored after the batch that it describes, except `changes_first`, stored
/// before it: who sees a change trimmed must also see that it is no longer available.
pub(crate) struct PartitionShared {
    pub partition: GroupId,
    pub generation: AtomicU32,
    pub changes_first: AtomicU64,
    pub records_count: AtomicU64,
    pub exported: Mutex<Vec<ExportedPosition>>,
    pub applied: watch::Sender<u64>,
}

/// Why changes cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    #[error(
        "changes before position {first_available} are no longer kept; read the records and watch from there"
    )]
    OutOfRange { first_available: Position },
    #[error("reading changes: {0}")]
    Io(#[from] io::Error),
}

/// A page of a partition's changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub events: Vec<WatchEvent>,
    /// Everything up to here was looked at: go on after it.
    pub up_to: Position,
}

/// Reads one partition. Cheap to clone.
///
/// `get` takes microseconds, but tens of milliseconds in the rare moment when fjall takes in a new table. `list` and
/// `changes` first have memory written to the database, and read many keys: call them through [`Self::off_runtime`].
#[derive(Clone)]
pub struct PartitionReader {
    store: Arc<StoreInner>,
    shared: Arc<PartitionShared>,
}

impl PartitionReader {
    pub(crate) fn new(store: Arc<StoreInner>, shared: Arc<PartitionShared>) -> Self {
        Self { store, shared }
    }

    /// Reads where it does not hold up other tasks.
    ///
    /// # Errors
    /// When the reading panicked, or the runtime is stopping.
    pub async fn off_runtime<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        let reader = self.clone();
        self.store.offload.run(move || read(&reader)).await
    }

    /// The record with this key, if there is one.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Record>> {
        let stored =
            self.on_live_generation(|scope| self.store.database.get(&scope.key(Kind::Record, key)))?;
        stored.map(|stored| self.record(Bytes::copy_from_slice(key), stored.into())).transpose()
    }

    /// Records in key order whose keys begin with `prefix` and are greater than `after_key`, and whether there are
    /// more. Stops at `limit` records or about `bytes_max` bytes of keys and values, but tells at least one.
    pub fn list(
        &self,
        prefix: &[u8],
        after_key: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> io::Result<(Vec<Record>, bool)> {
        let (scope, view) = self.on_live_generation(|scope| Ok((scope, self.store.database.view()?)))?;
        let from = if after_key >= prefix && !after_key.is_empty() {
            let mut from = scope.key(Kind::Record, after_key);
            from.push(0);
            from
        } else {
            scope.key(Kind::Record, prefix)
        };
        let mut records = Vec::new();
        let mut bytes = 0;
        for item in view.range(&from, &scope.end(Kind::Record)) {
            let (key, stored) = item?;
            let key = Bytes::from(key).slice(Scope::PREFIX_BYTES..);
            if !key.starts_with(prefix) {
                break;
            }
            if records.len() >= limit || (bytes >= bytes_max && !records.is_empty()) {
                return Ok((records, true));
            }
            bytes += key.len() + stored.len();
            records.push(self.record(key, stored.into())?);
        }
        Ok((records, false))
    }

    /// Changes after a position, in order, of keys that begin with `prefix`. Stops at about `limit` events or
    /// `bytes_max` bytes, but never in the middle of a position.
    pub fn changes(
        &self,
        after: Position,
        prefix: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<Changes, ChangesError> {
        let (scope, applied, view, first) = self.on_live_generation(|scope| {
            let applied = *self.shared.applied.borrow();
            let view = self.store.database.view()?;
            Ok((scope, applied, view, self.first_available_position()))
        })?;
        if after.0.saturating_add(1) < first.0 {
            return Err(ChangesError::OutOfRange { first_available: first });
        }
        let mut changes = Changes { events: Vec::new(), up_to: Position(applied.max(after.0)) };
        let from = scope.number_key(Kind::Change, after.0.saturating_add(1));
        let mut bytes = 0;
        let rows = view.range(&from, &scope.end(Kind::Change));
        for (scanned, item) in rows.enumerate() {
            let (key, row) = item?;
            let position = number_of_key(&key)?;
            if scanned >= CHANGES_SCANNED_MAX || changes.events.len() >= limit || bytes >= bytes_max {
                changes.up_to = Position(position - 1);
                break;
            }
            changes.up_to = changes.up_to.max(Position(position));
            for event in decode_changes(row.into())? {
                if let Some(record) = &event.record
                    && record.key.starts_with(prefix)
                {
                    bytes += record.key.len() + record.value.len();
                    changes.events.push(event);
                }
            }
        }
        Ok(changes)
    }

    /// Index of the last applied log entry, 0 for none; changes when there is something new to read.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Number of records.
    pub fn records_count(&self) -> u64 {
        self.shared.records_count.load(Ordering::Acquire)
    }

    /// How far an exporter has got, as the partition's log tells; `None` when it never exported anything.
    pub fn exported(&self, exporter: &str) -> Option<Position> {
        let exported = self.shared.exported.lock();
        exported.iter().find(|known| known.exporter == exporter).map(|known| Position(known.position))
    }

    /// Changes at this position and later are kept.
    pub fn first_available_position(&self) -> Position {
        Position(self.shared.changes_first.load(Ordering::Acquire))
    }

    /// Reads on the live generation. When that is still live after the read, its dropping had not begun before.
    fn on_live_generation<T>(&self, read: impl Fn(Scope) -> io::Result<T>) -> io::Result<T> {
        for _ in 0..ATTEMPTS_MAX {
            let generation = self.shared.generation.load(Ordering::Acquire);
            let result = read(Scope { partition: self.shared.partition, generation });
            if self.shared.generation.load(Ordering::Acquire) == generation {
                return result;
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "snapshots were installed during every attempt to read",
        ))
    }

    fn record(&self, key: Bytes, stored: Bytes) -> io::Result<Record> {
        let (version, position) = record_head(&stored)?;
        let value = stored.slice(RECORD_HEAD_BYTES..);
        Ok(Record { key, value, version, position, partition_id: self.shared.partition })
    }
}

/// A row of `changes` for the events of one position.
pub(crate) fn encode_changes(events: &[WatchEvent]) -> Vec<u8> {
    let bytes =
        events.iter().map(|event| event.encoded_len() + prost::length_delimiter_len(event.encoded_len()));
    let mut row = Vec::with_capacity(4 + bytes.sum::<usize>());
    row.extend_from_slice(&(events.len() as u32).to_le_bytes());
    for event in events {
        // Cannot fail: a Vec grows.
        let _ = event.encode_length_delimited(&mut row);
    }
    row
}

fn decode_changes(mut row: Bytes) -> io::Result<Vec<WatchEvent>> {
    if row.len() < 4 {
        return Err(damaged("change cut short"));
    }
    let count = row.get_u32_le();
    (0..count)
        .map(|_| WatchEvent::decode_length_delimited(&mut row).map_err(|e| damaged(format!("change: {e}"))))
        .collect()
}
