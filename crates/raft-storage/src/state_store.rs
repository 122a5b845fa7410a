//! The state database of a broker: every partition's records, request ids and changes, in one fjall database.
//!
//! # What is durable when
//! `purged ≤ snapshot ≤ durable applied ≤ applied`. An apply batch is one commit that also carries the last applied log
//! id and the membership. It is seen at once and reaches the database up to a second later
//! ([`write_behind`](crate::write_behind)), and the disk later still: after a crash the store stands at some earlier
//! commit and the log replays the rest. Building or installing a snapshot writes and syncs all of it, and opening syncs,
//! because openraft takes the state found then for a snapshot.
//!
//! # Costs
//! For each operation an apply looks the version up (in memory, if the record was written lately; else one point read in
//! the database) and leaves two rows in memory, the record and the change; for each batch one row more for each client
//! and about 40 bytes for the partition. What was not overwritten meanwhile is inserted into the database in key order,
//! some megabytes at a time. A value is not copied between command and staging, then once into the record and once into
//! the change.
//!
//! fjall makes everyone wait while it syncs for a new table, tens of milliseconds every 32 MiB. Hence one keyspace
//! rather than one per kind (fewer tables), the [`journal_syncer`](crate::journal_syncer) (less to sync), and memory
//! before it, so that applies do not wait at all, unless they look up a record that was not written lately.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

use crate::applier::Applier;
use crate::generation_cleaner::GenerationCleaner;
use crate::offload::Offload;
use crate::partition_reader::PartitionReader;
use crate::simulated_state::SimulatedState;
use crate::snapshot_receiver::SnapshotReceiver;
use crate::state_check::{DamagedFile, find_damage, find_damaged_file};
use crate::state_database::{FjallDatabase, Rows, StateDatabase};
use crate::state_layout::{
    FORMAT, FORMAT_KEY, Kind, Numbers, PartitionRow, Scope, damaged, decode_membership, io_error,
    membership_key, row_key,
};
use crate::state_machine::PartitionStateMachine;
use crate::types::{GroupId, raft};
use crate::write_behind::WriteBehind;

/// Sizes of the state database. The defaults suit several brokers on one small machine.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Cache of blocks read from tables.
    pub cache_bytes: u64,
    /// Memory for what was written last, before it becomes a table; up to five times that while writing tables lags.
    pub memtable_bytes: u64,
    /// All journals; beyond, the partitions that hold the oldest back are written out. At least 64 MiB.
    pub journal_bytes_max: u64,
    /// Changes that a partition keeps for watchers; the oldest go first.
    pub changes_retained_max: u64,
    /// Bytes of changes that a partition keeps for watchers.
    pub changes_retained_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            memtable_bytes: 32 * 1024 * 1024,
            journal_bytes_max: 128 * 1024 * 1024,
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
    #[error("state database: file {path} is corrupt at byte {offset}: {what}", path = .path.display())]
    Corrupt { path: PathBuf, offset: u64, what: String },
    #[error("state database {path}: {source}; check the disk, its free space and the permissions", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("state database {path}: {what}", path = .path.display())]
    Damaged { path: PathBuf, what: String },
}

impl OpenStoreError {
    /// Whether something that was there is gone or does not check.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Damaged { .. })
    }
}

/// Why a partition's state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenPartitionError {
    #[error("state of partition {partition}: open already; stop its running replica first")]
    InUse { partition: GroupId },
    #[error("state of partition {partition}: {source}; check the disk")]
    Io { partition: GroupId, source: io::Error },
}

pub(crate) struct StoreInner {
    // Before the database: dropping them stops their threads.
    pub cleaner: GenerationCleaner,
    pub applier: Applier,
    /// See [`crate::state_layout`] for what is in it.
    pub database: Arc<dyn StateDatabase>,
    pub offload: Offload,
    pub options: StoreOptions,
    /// Why the database takes no writes any more.
    failed: watch::Sender<Option<String>>,
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
        let path = directory.as_ref();
        let database = match FjallDatabase::open(path, &options) {
            Ok(database) => database,
            Err(fjall::Error::Locked) => return Err(OpenStoreError::Locked { path: path.to_path_buf() }),
            Err(error) => return Err(not_opened(path, error)),
        };
        let damage = find_damage(database.keyspace());
        let damage = damage.map_err(|source| not_opened(path, fjall::Error::Io(source)))?;
        if let Some(DamagedFile { path, offset, what }) = damage {
            return Err(OpenStoreError::Corrupt { path, offset, what });
        }
        Self::start(Arc::new(database), Offload::Threads, path, options)
    }

    /// Opens a simulated database: no thread, everything on the runtime that this must be called on.
    pub fn open_simulated(state: &SimulatedState, options: StoreOptions) -> Result<Self, OpenStoreError> {
        Self::start(Arc::new(state.open()), Offload::InPlace, Path::new("simulated"), options)
    }

    fn start(
        database: Arc<dyn StateDatabase>,
        offload: Offload,
        path: &Path,
        options: StoreOptions,
    ) -> Result<Self, OpenStoreError> {
        let path = path.to_path_buf();
        let damaged = |source: io::Error| not_opened(&path, fjall::Error::Io(source));
        let failed = watch::Sender::new(None);
        let database: Arc<dyn StateDatabase> =
            Arc::new(WriteBehind::start(database, offload, failed.clone()).map_err(damaged)?);
        if let Some(found) = check_format(&*database).map_err(damaged)? {
            return Err(OpenStoreError::NewerFormat { path, found });
        }
        let (generations, garbage) = scan_generations(&*database).map_err(damaged)?;
        let cleaner = GenerationCleaner::start(database.clone(), offload).map_err(damaged)?;
        for scope in garbage {
            cleaner.drop_later(scope);
        }
        let applier = Applier::start(database.clone(), offload).map_err(damaged)?;
        let inner = StoreInner {
            cleaner,
            applier,
            database,
            offload,
            options,
            failed,
            generations: Mutex::new(generations),
            open_partitions: Mutex::default(),
        };
        inner.database.persist().map_err(damaged)?;
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

    /// Ends when what is committed cannot be applied any more; never, as long as it works. The broker must stop then: the
    /// log has everything.
    pub fn failure(&self) -> impl Future<Output = String> + Send + 'static {
        let mut failed = self.inner.failed.subscribe();
        async move {
            match failed.wait_for(Option::is_some).await.ok().and_then(|known| known.clone()) {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        }
    }

    /// Makes whatever waits for room on the disk fail, now and later, so that the broker can stop on a full disk: the log
    /// has everything.
    pub fn stop_waiting(&self) {
        self.inner.database.stop_waiting();
    }

    /// Begins to receive a snapshot of a partition. What it receives is dropped unless it is installed.
    pub fn snapshot_receiver(&self, partition: GroupId) -> io::Result<SnapshotReceiver> {
        SnapshotReceiver::begin(Arc::clone(&self.inner), partition)
    }

    /// Forgets everything of these partitions, durably. None of them may be open. Blocks.
    pub fn forget(&self, partitions: impl IntoIterator<Item = GroupId>) -> io::Result<()> {
        let inner = &self.inner;
        for partition in partitions {
            let old = inner.read_row(partition)?.map_or(0, |row| row.generation);
            let garbage = Scope { partition, generation: old };
            let Scope { generation, .. } = inner.begin_generation(partition)?;
            let row = PartitionRow { generation, changes_first: 1, ..PartitionRow::default() };
            let mut rows = Rows::default();
            rows.insert(row_key(partition), row.encode_to_vec());
            rows.remove(membership_key(partition));
            rows.insert(garbage.prefix(Kind::Garbage), []);
            rows.remove(Scope { partition, generation }.prefix(Kind::Garbage));
            inner.database.commit(rows, false)?;
        }
        inner.database.persist()
    }

    /// Generations of all partitions that are being filled or dropped.
    pub fn unfinished_generations(&self) -> io::Result<usize> {
        let mut rows = self.inner.database.view()?.range(b"g", b"h");
        rows.try_fold(0, |count, row| row.map(|_| count + 1))
    }
}

#[cfg(test)]
impl StateStore {
    /// Keys of all records, request ids and changes, live or not.
    pub(crate) fn keys_count(&self) -> io::Result<usize> {
        let kinds: [(&[u8], &[u8]); 3] = [(b"r", b"s"), (b"q", b"r"), (b"c", b"d")];
        let counts = kinds.map(|(from, to)| {
            self.inner.database.view()?.range(from, to).try_fold(0, |count, row| row.map(|_| count + 1))
        });
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
        let mut rows = Rows::default();
        rows.insert(scope.prefix(Kind::Garbage), []);
        self.database.commit(rows, false)?;
        Ok(scope)
    }

    pub(crate) fn read_row(&self, partition: GroupId) -> io::Result<Option<PartitionRow>> {
        let row = self.database.get(&row_key(partition))?;
        row.map(|row| decode_row(partition, &row)).transpose()
    }

    pub(crate) fn read_membership(&self, partition: GroupId) -> io::Result<raft::StoredMembership> {
        let json = self.database.get(&membership_key(partition))?;
        json.map_or_else(|| Ok(raft::StoredMembership::default()), |json| decode_membership(&json))
    }

    /// Runs work that waits for the disk where it does not hold up other tasks.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.offload.run(work).await?
    }
}

/// Names what is damaged, if that is the reason and can be found out.
fn not_opened(path: &Path, error: fjall::Error) -> OpenStoreError {
    let path = path.to_path_buf();
    let source = match io_error(error) {
        // Not what files that were cut or changed bring about.
        source if source.raw_os_error().is_some() => return OpenStoreError::Io { path, source },
        source => source,
    };
    match find_damaged_file(&path) {
        Some(DamagedFile { path, offset, what }) => OpenStoreError::Corrupt { path, offset, what },
        None => OpenStoreError::Damaged { path, what: source.to_string() },
    }
}

fn decode_row(partition: GroupId, row: &[u8]) -> io::Result<PartitionRow> {
    PartitionRow::decode(row).map_err(|e| damaged(format!("row of partition {partition}: {e}")))
}

/// Writes the format into a new database; `Some` when the database has a newer one.
fn check_format(database: &dyn StateDatabase) -> io::Result<Option<u32>> {
    let Some(stored) = database.get(FORMAT_KEY)? else {
        let mut rows = Rows::default();
        rows.insert(FORMAT_KEY, FORMAT.to_le_bytes());
        database.commit(rows, false)?;
        return Ok(None);
    };
    let found = Numbers(&stored).u32_le()?;
    Ok((found > FORMAT).then_some(found))
}

/// The highest generation of each partition, and the generations to drop.
fn scan_generations(database: &dyn StateDatabase) -> io::Result<(HashMap<GroupId, u32>, Vec<Scope>)> {
    let mut generations = HashMap::new();
    let view = database.view()?;
    for item in view.range(b"p", b"q") {
        let (key, row) = item?;
        let partition = Numbers(key.get(1..).unwrap_or_default()).u32_be()?;
        generations.insert(partition, decode_row(partition, &row)?.generation);
    }
    let mut garbage = Vec::new();
    for item in view.range(b"g", b"h") {
        let scope = Scope::of_key(&item?.0)?;
        let highest: &mut u32 = generations.entry(scope.partition).or_default();
        *highest = scope.generation.max(*highest);
        garbage.push(scope);
    }
    Ok((generations, garbage))
}
