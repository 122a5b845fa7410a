//! Durable state of a broker's Raft replicas: one shared write-ahead log, the state machine store, snapshots.
//!
//! Knows openraft's storage traits and the disk; knows no network. See [`types`] for what the log carries.

mod applier;
mod background_priority;
pub mod bad_input;
mod compaction_pace;
pub mod data_directory;
pub mod disk;
mod exported;
pub mod faulty_disk;
mod generation_cleaner;
mod journal_syncer;
#[cfg(feature = "known-bugs")]
pub mod known_bugs;
mod late_release;
pub mod log;
pub mod metric_definitions;
mod offload;
mod partition_reader;
mod rebuild;
mod records;
mod request_ids;
mod simulated_state;
mod snapshot;
mod snapshot_receiver;
mod state_check;
mod state_database;
mod state_layout;
mod state_machine;
#[cfg(test)]
mod state_machine_tests;
mod state_store;
pub mod types;
mod write_behind;

pub use data_directory::{DataDirectory, DataDirectoryError, DiskSpace, ExportingPhase};
pub use exported::{EXPORTER_NAME_BYTES_MAX, EXPORTERS_MAX};
pub use log::{
    Affected, CommitterDriver, GroupLog, LogFailure, LogOptions, LogRefusal, OpenLogError, SharedLog,
    last_write,
};
pub use metric_definitions::describe_metrics;
pub use offload::Offload;
pub use partition_reader::{Changes, ChangesError, PartitionReader};
pub use rebuild::{Forgotten, Rebuild, RebuildError};
pub use request_ids::CLIENTS_MAX;
pub use simulated_state::SimulatedState;
pub use snapshot::{CHUNK_BYTES_MAX, Snapshot, SnapshotChunks};
pub use snapshot_receiver::SnapshotReceiver;
pub use state_machine::{PartitionStateMachine, SnapshotBuilder};
pub use state_store::{OpenPartitionError, OpenStoreError, StateStore, StoreOptions};
pub use types::{Command, GroupId, TypeConfig};
