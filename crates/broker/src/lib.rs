//! A broker: the replicas of its partitions, who leads them, and how leadership is handed over.
//!
//! Pure decisions: [`distribution`], [`election`], [`step_down`], [`transfer`]. Around them: `elector` and
//! `handover` give them clock and effects; `peer`, `network` and `raft_service` carry replication between
//! brokers; `replica` is one copy of a partition, `leadership` what it does only while it leads; `broker_service` serves
//! gateways; `status` tells them who leads; `layout` keeps who holds which replica from changing.

pub mod bad_input;
mod broker;
mod broker_service;
mod clock;
mod disk_room;
pub mod distribution;
mod drained;
pub mod election;
mod elector;
mod export_lines;
pub mod exporters;
mod exporting;
mod exporting_http;
mod gets;
mod handover;
mod http_export;
mod inflow;
mod json_lines;
mod layout;
mod leadership;
mod metric_definitions;
mod monitoring;
mod network;
mod observer;
pub mod options;
mod peer;
mod pulse;
mod raft_service;
mod rebuilding;
mod replica;
mod replicas;
mod restart_risk;
mod resting;
mod snapshot_transfer;
mod status;
pub mod step_down;
mod stop;
pub mod transfer;
mod voter_logs;
mod wire;
mod write_spans;

pub use broker::{BrokerError, Surroundings, rebuild, run, run_on};
pub use evenkeel_raft_storage::{Affected, Forgotten};
pub use observer::{Observed, Observer};
pub use options::{Options, OptionsError, Validated};
