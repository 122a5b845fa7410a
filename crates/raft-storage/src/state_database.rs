//! What the state store asks of its database, an ordered map of bytes, and the real one.
//!
//! The store works through [`StateDatabase`] so that the same code runs on fjall ([`FjallDatabase`]) and inside a
//! simulation ([`crate::simulated_state::SimulatedState`]); one suite of tests runs against both.
//!
//! What both promise: a commit is seen whole or not at all; a view does not change; a crash leaves the commits up to some
//! point, all of them that were synced among them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fjall::compaction::Leveled;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable,
};
pub(crate) use fjall::{UserKey, UserValue};

use crate::background_priority;
use crate::compaction_pace::CompactionPace;
use crate::data_directory::DiskSpace;
use crate::journal_syncer::{JournalSyncer, sync_newest_journal};
use crate::late_release::LateRelease;
use crate::state_layout::io_error;
use crate::state_store::StoreOptions;

/// Smallest journal limit that fjall takes.
const JOURNAL_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Threads that write tables and compact. While one of several compacts, fjall's first asks for the next compaction over and
/// over, and takes a core for it (3.1.13, `worker_pool.rs`): 19 % of a broker's processor time under load.
const WORKER_THREADS: usize = 1;
/// Of a table that a compaction writes. While one goes on no memtable is written, so it must not take long: the first level
/// has four of these, and is rewritten whole.
const TABLE_BYTES: u64 = 16 * 1024 * 1024;
/// Values from this size on are kept beside the tables, where compactions do not write them again: with values of 64 KiB
/// three brokers took 839 writes/s where they took 613, and fell silent for 0.1 s where they did for 0.7 s.
const BLOB_BYTES_MIN: u32 = 2 * 1024;
/// Of a file of such values, which is written anew once a part of them is gone.
const BLOB_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// What a row takes in memory beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 64;

/// Rows in key order.
pub(crate) type RowIter = Box<dyn Iterator<Item = io::Result<(UserKey, UserValue)>> + Send>;

/// Rows to write (`Some`) or to remove (`None`), in order.
#[derive(Default)]
pub(crate) struct Rows(pub Vec<(UserKey, Option<UserValue>)>);

impl Rows {
    pub(crate) fn insert(&mut self, key: impl Into<UserKey>, value: impl Into<UserValue>) {
        self.0.push((key.into(), Some(value.into())));
    }

    pub(crate) fn remove(&mut self, key: impl Into<UserKey>) {
        self.0.push((key.into(), None));
    }
}

/// The database as it was when the view was made.
pub(crate) trait StateView: Send + Sync {
    fn range(&self, from: &[u8], to: &[u8]) -> RowIter;
}

/// Every method may block, and may be called from several threads at once.
pub(crate) trait StateDatabase: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> io::Result<Option<UserValue>>;
    /// Everything that was committed.
    fn view(&self) -> io::Result<Box<dyn StateView>>;
    /// Everything that was committed up to some time ago, for who need not have the newest.
    fn earlier_view(&self) -> io::Result<Box<dyn StateView>> {
        self.view()
    }
    /// Writes all rows or none; durably, with everything written before, when `sync` says so.
    fn commit(&self, rows: Rows, sync: bool) -> io::Result<()>;
    /// Syncs what was written so far without making commits wait, before something that does.
    fn sync_ahead(&self) -> io::Result<()>;
    /// Makes everything that was written durable.
    fn persist(&self) -> io::Result<()>;
    /// Room on its disk, where that is known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    /// From now on nothing waits for room: it fails.
    fn stop_waiting(&self) {}
}

/// The real one.
pub(crate) struct FjallDatabase {
    // Before the database: dropping it stops its thread.
    syncer: JournalSyncer,
    database: Database,
    state: Keyspace,
    ended: LateRelease,
    pace: CompactionPace,
    directory: PathBuf,
    memtable_bytes_max: u64,
    /// Written since the newest memtable began.
    memtable_bytes: AtomicU64,
}

impl FjallDatabase {
    /// Opens or creates the database in `directory`. Blocks for disk reads and an fsync.
    pub(crate) fn open(directory: &Path, options: &StoreOptions) -> fjall::Result<Self> {
        let pace = CompactionPace::default();
        let database = Database::builder(directory)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max.max(JOURNAL_BYTES_MIN))
            .worker_threads(WORKER_THREADS)
            .with_compaction_filter_factories(Arc::new({
                let pace = pace.clone();
                move |_keyspace| Some(Arc::new(pace.clone()))
            }))
            .open()?;
        background_priority::lower_fjall_threads(WORKER_THREADS);
        // Memtables are ended here: see `end_full_memtable`. A database that is there already keeps the options that it
        // was created with.
        let create = || {
            let small_steps = Leveled::default().with_table_target_size(TABLE_BYTES);
            let large_values = KvSeparationOptions::default()
                .separation_threshold(BLOB_BYTES_MIN)
                .file_target_size(BLOB_FILE_BYTES);
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                .compaction_strategy(Arc::new(small_steps))
                .with_kv_separation(Some(large_values))
        };
        let state = database.keyspace("state", create)?;
        let syncer = JournalSyncer::start(directory.to_path_buf())?;
        Ok(Self {
            syncer,
            database,
            state,
            ended: LateRelease::default(),
            pace,
            directory: directory.to_path_buf(),
            memtable_bytes_max: options.memtable_bytes,
            memtable_bytes: AtomicU64::new(0),
        })
    }

    /// Begins a new memtable when the newest is full. Left to itself, fjall asks its worker to at every commit, which
    /// comes to it after a compaction: memory would grow meanwhile, and when its queue had become full of such
    /// requests the worker would wait for itself.
    fn end_full_memtable(&self, written: usize) -> io::Result<()> {
        let bytes = self.memtable_bytes.fetch_add(written as u64, Relaxed) + written as u64;
        if bytes >= self.memtable_bytes_max {
            self.memtable_bytes.store(0, Relaxed);
            self.ended.hold_newest(&self.state);
            self.state.rotate_memtable().map_err(io_error)?;
        }
        Ok(())
    }

    /// Where everything is.
    pub(crate) fn keyspace(&self) -> &Keyspace {
        &self.state
    }
}

impl Drop for FjallDatabase {
    /// fjall waits for its thread.
    fn drop(&mut self) {
        self.pace.hurry(true);
    }
}

impl StateDatabase for FjallDatabase {
    fn get(&self, key: &[u8]) -> io::Result<Option<UserValue>> {
        self.state.get(key).map_err(io_error)
    }

    fn view(&self) -> io::Result<Box<dyn StateView>> {
        Ok(Box::new(FjallView { view: self.database.snapshot(), state: self.state.clone() }))
    }

    fn commit(&self, rows: Rows, sync: bool) -> io::Result<()> {
        // One that was ended at an earlier commit still waits for the thread.
        self.pace.hurry(self.state.tree.sealed_memtable_count() > 0);
        let mut batch = self.database.batch();
        if sync {
            batch = batch.durability(Some(PersistMode::SyncAll));
        }
        let overhead = rows.0.len() * ROW_OVERHEAD_BYTES;
        let mut bytes = 0;
        for (key, value) in rows.0 {
            bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
            match value {
                Some(value) => batch.insert(&self.state, key, value),
                None => batch.remove(&self.state, key),
            }
        }
        let committed = batch.commit().map_err(io_error);
        self.syncer.wrote(bytes);
        self.ended.sweep();
        committed.and_then(|()| self.end_full_memtable(bytes + overhead))
    }

    fn sync_ahead(&self) -> io::Result<()> {
        sync_newest_journal(&self.directory)
    }

    fn persist(&self) -> io::Result<()> {
        self.sync_ahead()?;
        self.database.persist(PersistMode::SyncAll).map_err(io_error)
    }

    fn free_bytes(&self) -> Option<u64> {
        DiskSpace::of(&self.directory).ok().map(|space| space.free_bytes)
    }
}

struct FjallView {
    view: fjall::Snapshot,
    state: Keyspace,
}

impl StateView for FjallView {
    fn range(&self, from: &[u8], to: &[u8]) -> RowIter {
        let rows = self.view.range(&self.state, from..to);
        Box::new(rows.map(|row| row.into_inner().map_err(io_error)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with_memtables_of_64_kib(folder: &Path) -> FjallDatabase {
        let options = StoreOptions { memtable_bytes: 64 * 1024, ..StoreOptions::default() };
        FjallDatabase::open(folder, &options).unwrap()
    }

    fn commit(database: &FjallDatabase, number: u32, bytes: usize) {
        let mut rows = Rows::default();
        rows.insert(number.to_be_bytes(), vec![number as u8; bytes]);
        database.commit(rows, false).unwrap();
    }

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_full_memtable_becomes_a_table_without_being_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let database = with_memtables_of_64_kib(folder.path());
        (0..30).for_each(|number| commit(&database, number, 1000));
        assert_eq!(database.keyspace().table_count(), 0, "half a memtable");
        (30..70).for_each(|number| commit(&database, number, 1000));
        wait_until("the memtable to be written", || database.keyspace().table_count() > 0);
        assert!(database.get(&69u32.to_be_bytes()).unwrap().is_some());
    }

    #[test]
    fn ended_memtables_are_held_for_as_long_as_fjall_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let database = with_memtables_of_64_kib(folder.path());
        for number in 0..1_000 {
            commit(&database, number, 1000);
        }
        // fjall lets go of one when the next is ended, or a table is written.
        let few = || {
            commit(&database, 1_000, 1000);
            database.ended.len() <= 2
        };
        wait_until("fjall to let go of memtables", few);
    }

    #[test]
    fn large_values_are_kept_beside_the_tables_and_go_when_they_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = 16 * 1024;
        let blobs = || -> u64 {
            let files = std::fs::read_dir(folder.path().join("keyspaces/1/blobs")).unwrap();
            files.map(|file| file.unwrap().metadata().map_or(0, |file| file.len())).sum()
        };
        let database = with_memtables_of_64_kib(folder.path());
        for round in 0..15 {
            (0..20).for_each(|number| commit(&database, number, bytes));
            wait_until("memtables to be written", || database.keyspace().tree.sealed_memtable_count() < 3);
            if round == 0 {
                wait_until("values beside the tables", || blobs() > bytes as u64);
            }
        }
        wait_until("replaced values to go", || blobs() < 150 * bytes as u64);
        drop(database);
        let database = with_memtables_of_64_kib(folder.path());
        for number in 0..20u32 {
            let value = database.get(&number.to_be_bytes()).unwrap().unwrap();
            assert!(value.len() == bytes && value.iter().all(|byte| *byte == number as u8));
        }
    }
}
