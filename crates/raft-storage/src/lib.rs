//! Durable state of a broker's Raft replicas: one shared write-ahead log, the state machine store, snapshots.
//!
//! Knows openraft's storage traits and the disk; knows no network. See [`types`] for what the log carries.

pub mod types;

pub use types::{Command, GroupId, TypeConfig};
