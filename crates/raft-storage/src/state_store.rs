//! The state database of a broker: every partition's records, request ids and changes, in one fjall database.
//!
//! # What is durable when
//! `purged ≤ snapshot ≤ durable applied ≤ applied`. An apply batch is one fjall batch that also carries the last applied
//! log id and the membership, and is not synced: after a crash the store stands at some earlier batch of each partition
//! and the log replays the rest. fjall writes all keyspaces through one journal and syncs it before it writes a table,
//! so no keyspace gets ahead of another. Building or installing a snapshot syncs, and opening does, because openraft
//! takes the state found then for a snapshot.
//!
//! # Costs
//! For each apply batch: one fjall batch, that is one write to the page cache. For each operation: one point read for
//! the version (none when the batch wrote the key before), one insert of the record and one of the change. Each client
//! of a batch: one row. Values are not copied between command and staging, once into the record and once into the
//! change.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use prost::Message;

use crate::generation_cleaner::GenerationCleaner;
use crate::partition_reader::PartitionReader;
use crate::snapshot_receiver::SnapshotReceiver;
use crate::state_layout::{
    FORMAT, FORMAT_KEY, Numbers, PartitionRow, Scope, damaged, garbage_key, io_error, parse_garbage_key,
    partition_key,
};
use crate::state_machine::PartitionStateMachine;
use crate::types::GroupId;

/// Smallest journal limit that fjall takes.
const JOURNAL_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Sizes of the state database. The defaults suit several brokers on one small machine.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Cache of blocks read from tables.
    pub cache_bytes: u64,
    /// Memtable of records and of changes each, before it becomes a table.
    pub memtable_bytes: u64,
    /// All journals; beyond, the partitions that hold the oldest back are written out. At least 64 MiB.
    pub journal_bytes_max: u64,
    /// Threads that write tables and compact. At least 1.
    pub worker_threads: usize,
    /// Changes that a partition keeps for watchers; the oldest go first.
    pub changes_retained_max: u64,
    /// Bytes of changes that a partition keeps for watchers.
    pub changes_retained_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            memtable_bytes: 16 * 1024 * 1024,
            journal_bytes_max: 128 * 1024 * 1024,
            worker_threads: 2,
            changes_retained_max: 100_000,
            changes_retained_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// Why the state database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error(
        "state database {path}: in use by another process; stop the broker that runs on this data folder"
    )]
    Locked { path: PathBuf },
    #[error(
        "state database {path}: format {found} is newer than {FORMAT}, the newest that this version reads; \
         run the version that wrote it or a later one"
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error(
        "state database {path}: {source}; check the disk, or remove the whole data folder so that this broker's \
         replicas are rebuilt from the others"
    )]
    Damaged { path: PathBuf, source: io::Error },
}

/// Why a partition's state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenPartitionError {
    #[error("state of partition {partition}: open already; stop its running replica first")]
    InUse { partition: GroupId },
    #[error("state of partition {partition}: {source}; check the disk")]
    Io { partition: GroupId, source: io::Error },
}

/// Handles of the database, cheap to clone.
#[derive(Clone)]
pub(crate) struct Keyspaces {
    pub database: Database,
    pub partitions: Keyspace,
    pub records: Keyspace,
    pub requests: Keyspace,
    pub changes: Keyspace,
}

impl Keyspaces {
    pub(crate) fn read_row(&self, partition: GroupId) -> io::Result<Option<PartitionRow>> {
        let Some(row) = self.partitions.get(partition_key(partition)).map_err(io_error)? else {
            return Ok(None);
        };
        let row = PartitionRow::decode(&*row);
        row.map(Some).map_err(|e| damaged(format!("row of partition {partition}: {e}")))
    }
}

pub(crate) struct StoreInner {
    // Before the keyspaces: stops its thread, which uses them, when the store closes.
    pub cleaner: GenerationCleaner,
    pub keyspaces: Keyspaces,
    pub options: StoreOptions,
    directory: PathBuf,
    /// Highest generation of each partition that was ever begun.
    generations: Mutex<HashMap<GroupId, u32>>,
    open_partitions: Mutex<HashMap<GroupId, Weak<()>>>,
}

/// The state of all partitions of a broker. Cheap to clone; closes when the last clone, state machine, reader and
/// snapshot is gone.
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<StoreInner>,
}

impl StateStore {
    /// Opens or creates the database in `directory`. Blocks for disk reads and an fsync.
    pub fn open(directory: impl AsRef<Path>, options: StoreOptions) -> Result<Self, OpenStoreError> {
        let path = directory.as_ref().to_path_buf();
        let damaged = |source| OpenStoreError::Damaged { path: path.clone(), source };
        let keyspaces = match open_keyspaces(&path, &options) {
            Ok(keyspaces) => keyspaces,
            Err(fjall::Error::Locked) => return Err(OpenStoreError::Locked { path }),
            Err(error) => return Err(damaged(io_error(error))),
        };
        if let Some(found) = check_format(&keyspaces).map_err(damaged)? {
            return Err(OpenStoreError::NewerFormat { path, found });
        }
        let (generations, garbage) = scan_generations(&keyspaces).map_err(damaged)?;
        let cleaner = GenerationCleaner::start(keyspaces.clone()).map_err(damaged)?;
        for scope in garbage {
            cleaner.drop_later(scope);
        }
        let inner = StoreInner {
            cleaner,
            keyspaces,
            options,
            directory: path.clone(),
            generations: Mutex::new(generations),
            open_partitions: Mutex::default(),
        };
        inner.persist().map_err(damaged)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The state machine of a partition and a handle to read it. Created empty when it is not there.
    pub fn partition(
        &self,
        partition: GroupId,
    ) -> Result<(PartitionStateMachine, PartitionReader), OpenPartitionError> {
        let mut open = self.inner.open_partitions.lock();
        if open.get(&partition).is_some_and(|token| token.strong_count() > 0) {
            return Err(OpenPartitionError::InUse { partition });
        }
        let token = Arc::new(());
        open.insert(partition, Arc::downgrade(&token));
        drop(open);
        PartitionStateMachine::load(Arc::clone(&self.inner), partition, token)
            .map_err(|source| OpenPartitionError::Io { partition, source })
    }

    /// Begins to receive a snapshot of a partition. What it receives is dropped unless it is installed.
    pub fn snapshot_receiver(&self, partition: GroupId) -> io::Result<SnapshotReceiver> {
        SnapshotReceiver::begin(Arc::clone(&self.inner), partition)
    }

    /// Generations of all partitions that are being filled or dropped.
    pub fn unfinished_generations(&self) -> io::Result<usize> {
        let mut rows = self.inner.keyspaces.partitions.prefix(b"g");
        rows.try_fold(0, |count, row| row.key().map(|_| count + 1)).map_err(io_error)
    }
}

#[cfg(test)]
impl StateStore {
    /// Keys of all records, request ids and changes, live or not.
    pub(crate) fn keys_count(&self) -> io::Result<usize> {
        let Keyspaces { records, requests, changes, .. } = &self.inner.keyspaces;
        let counts = [records, requests, changes].map(|keyspace| keyspace.len().map_err(io_error));
        counts.into_iter().sum()
    }
}

impl StoreInner {
    /// Begins a new generation of a partition: takes a number never used before and gives it its `g` row.
    pub(crate) fn begin_generation(&self, partition: GroupId) -> io::Result<Scope> {
        let mut generations = self.generations.lock();
        let highest = generations.entry(partition).or_default();
        *highest += 1;
        let scope = Scope { partition, generation: *highest };
        drop(generations);
        self.keyspaces.partitions.insert(garbage_key(scope), []).map_err(io_error)?;
        Ok(scope)
    }

    /// Makes everything that was written durable. Blocks.
    ///
    /// fjall holds its journal, and with it every apply batch, while it syncs. Syncing the newest journal file through
    /// a handle of our own first leaves it almost nothing to wait for.
    pub(crate) fn persist(&self) -> io::Result<()> {
        if let Some(journal) = newest_journal(&self.directory)? {
            std::fs::File::open(journal)?.sync_data()?;
        }
        self.keyspaces.database.persist(PersistMode::SyncAll).map_err(io_error)
    }
}

fn newest_journal(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

fn open_keyspaces(path: &Path, options: &StoreOptions) -> fjall::Result<Keyspaces> {
    let database = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes_max.max(JOURNAL_BYTES_MIN))
        .worker_threads(options.worker_threads.max(1))
        .open()?;
    let keyspace = |name: &str, memtable_bytes| {
        database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes))
    };
    Ok(Keyspaces {
        partitions: keyspace("partitions", options.memtable_bytes / 4)?,
        records: keyspace("records", options.memtable_bytes)?,
        requests: keyspace("requests", options.memtable_bytes / 4)?,
        changes: keyspace("changes", options.memtable_bytes)?,
        database,
    })
}

/// Writes the format into a new database; `Some` when the database has a newer one.
fn check_format(keyspaces: &Keyspaces) -> io::Result<Option<u32>> {
    let Some(stored) = keyspaces.partitions.get(FORMAT_KEY).map_err(io_error)? else {
        keyspaces.partitions.insert(FORMAT_KEY, FORMAT.to_le_bytes()).map_err(io_error)?;
        return Ok(None);
    };
    let found = Numbers(&stored).u32_le()?;
    Ok((found > FORMAT).then_some(found))
}

/// The highest generation of each partition, and the generations to drop.
fn scan_generations(keyspaces: &Keyspaces) -> io::Result<(HashMap<GroupId, u32>, Vec<Scope>)> {
    let mut generations = HashMap::new();
    for item in keyspaces.partitions.prefix(b"p") {
        let (key, row) = item.into_inner().map_err(io_error)?;
        let partition = Numbers(key.get(1..).unwrap_or_default()).u32_be()?;
        let row =
            PartitionRow::decode(&*row).map_err(|e| damaged(format!("row of partition {partition}: {e}")))?;
        generations.insert(partition, row.generation);
    }
    let mut garbage = Vec::new();
    for item in keyspaces.partitions.prefix(b"g") {
        let scope = parse_garbage_key(&item.key().map_err(io_error)?)?;
        let highest: &mut u32 = generations.entry(scope.partition).or_default();
        *highest = scope.generation.max(*highest);
        garbage.push(scope);
    }
    Ok((generations, garbage))
}
