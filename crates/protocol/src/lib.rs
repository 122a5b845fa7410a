//! Wire types generated from `proto/`, and the identifiers that every crate shares.
//!
//! Pure: no I/O, no clock. See `ids` for the newtypes and `routing` for how a key finds its partition.

mod ids;
mod routing;

pub use ids::{Epoch, NodeId, PartitionId, Position, Priority, SYSTEM_GROUP};
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

/// Domain of the `google.rpc.ErrorInfo` that our errors carry.
pub const ERROR_DOMAIN: &str = "evenkeel";
