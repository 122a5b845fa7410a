//! Durable state of a broker's Raft replicas: one shared write-ahead log, the state machine store, snapshots.
//!
//! Knows openraft's storage traits and the disk; knows no network. See [`types`] for what the log carries.

pub mod data_directory;
mod generation_cleaner;
mod partition_reader;
mod records;
mod request_ids;
mod snapshot;
mod snapshot_receiver;
mod state_layout;
mod state_machine;
mod state_store;
pub mod types;

pub use data_directory::{DataDirectory, DataDirectoryError};
pub use partition_reader::{Changes, ChangesError, PartitionReader};
pub use request_ids::CLIENTS_MAX;
pub use snapshot::{CHUNK_BYTES_MAX, Snapshot, SnapshotChunks};
pub use snapshot_receiver::SnapshotReceiver;
pub use state_machine::{PartitionStateMachine, SnapshotBuilder};
pub use state_store::{OpenPartitionError, OpenStoreError, StateStore, StoreOptions};
pub use types::{Command, GroupId, TypeConfig};
