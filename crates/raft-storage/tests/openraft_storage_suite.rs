//! openraft's own storage suite, over the shared log and the state machine as a broker pairs them.

#![allow(clippy::unwrap_used, reason = "clippy knows only functions marked as tests for tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use evenkeel_raft_storage::disk::{Disk, RealDisk};
use evenkeel_raft_storage::faulty_disk::FaultyDisk;
use evenkeel_raft_storage::{
    CommitterDriver, GroupLog, LogOptions, PartitionStateMachine, SharedLog, SimulatedState, StateStore,
    StoreOptions, TypeConfig,
};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

/// Every store it builds is another group of one log, since groups must not disturb each other, with the state
/// machine of a broker of its own, since snapshots go from broker to broker.
struct OneLogForAll {
    _log_directory: TempDir,
    log: SharedLog,
    next_group: AtomicU32,
    /// Whether the state lies in a simulated database too.
    simulated: bool,
}

const PARTITION: u32 = 1;

impl OneLogForAll {
    fn new(disk: Arc<dyn Disk>, driver: CommitterDriver) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = LogOptions::new(directory.path().join("log"));
        options.driver = driver;
        options.segment_bytes_max = 8 << 10;
        options.cache_bytes_max = 4 << 10;
        let log = SharedLog::open(disk, options).unwrap();
        Self { _log_directory: directory, log, next_group: AtomicU32::new(0), simulated: false }
    }
}

impl StoreBuilder<TypeConfig, GroupLog, PartitionStateMachine, TempDir> for OneLogForAll {
    async fn build(&self) -> Result<(TempDir, GroupLog, PartitionStateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let state = match self.simulated {
            false => StateStore::open(directory.path(), StoreOptions::default()),
            true => StateStore::open_simulated(&SimulatedState::new(), StoreOptions::default()),
        };
        let state = state.unwrap();
        let (state_machine, _) = state.partition(PARTITION).unwrap();
        let group = self.next_group.fetch_add(1, Ordering::Relaxed);
        Ok((directory, self.log.group(group), state_machine))
    }
}

#[tokio::test]
async fn the_suite_passes_on_a_disk_with_a_committer_thread() {
    Suite::test_all(OneLogForAll::new(Arc::new(RealDisk), CommitterDriver::Thread)).await.unwrap();
}

#[tokio::test]
async fn the_suite_passes_in_memory_with_a_committer_task() {
    Suite::test_all(OneLogForAll::new(Arc::new(FaultyDisk::new()), CommitterDriver::Task)).await.unwrap();
}

#[tokio::test]
async fn the_suite_passes_with_log_and_state_simulated() {
    let log = OneLogForAll::new(Arc::new(FaultyDisk::new()), CommitterDriver::Task);
    Suite::test_all(OneLogForAll { simulated: true, ..log }).await.unwrap();
}
