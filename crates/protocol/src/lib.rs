//! Wire types generated from `proto/`, and the identifiers that every crate shares.
//!
//! No clock, and no I/O but what a [`Dialer`] is told to do. See `ids` for the newtypes, `routing` for how a key finds its
//! partition, `lag` for when a replica lacks too much to lead, and `restart_risk` for what a broker's restart would cost.

mod dialer;
mod group_standing;
mod ids;
mod lag;
mod restart_risk;
mod routing;
pub mod wire_version;

pub use dialer::Dialer;
pub use group_standing::group_standings;
pub use ids::{Epoch, NodeId, PartitionId, Position, Priority, SYSTEM_GROUP};
pub use lag::{LagVerdict, judge_lag};
pub use restart_risk::{GroupRisk, GroupStanding, RestartRisk, RiskReason, Standing, restart_risk};
pub use routing::partition_of;

/// The public data and cluster interface, `evenkeel.v1`.
pub mod v1 {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("evenkeel.v1");
}

/// What brokers and gateways say among themselves, `evenkeel.internal.v1`.
pub mod internal {
    /// Version 1.
    pub mod v1 {
        #![allow(clippy::all, missing_docs)]
        tonic::include_proto!("evenkeel.internal.v1");
    }
}

/// The part of Zeebe's gateway protocol that shows topology, `gateway_protocol`.
pub mod gateway_protocol {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("gateway_protocol");
}

/// Every service's descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest command, encoded, that a broker takes. A command travels to brokers and between them in one message of 64 MiB at
/// most, with what else waits: one that did not fit could never be replicated. What clients may send is bounded far
/// below it, by the gateways' limits.
pub const COMMAND_BYTES_MAX: usize = 40 << 20;

/// Domain of the `google.rpc.ErrorInfo` that our errors carry.
pub const ERROR_DOMAIN: &str = "evenkeel";
