//! Where things lie in the state database.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `partitions` | `f` | format of this layout, u32 |
//! | `partitions` | `p` partition | [`PartitionRow`]: what is applied, and counts |
//! | `partitions` | `g` partition generation | empty; this generation is no (longer) live and is to be dropped |
//! | `records` | scope, key | version u64, position u64, value |
//! | `requests` | scope, client id u64 | sequence u64, position u64, encoded `Outcome` |
//! | `changes` | scope, position u64 | events u32, then each `WatchEvent` length-delimited |
//!
//! A *scope* is (partition u32, generation u32). Integers are big-endian in keys, so that they sort, and
//! little-endian in values. Few shared keyspaces instead of some per partition: each costs files, memory and tens of
//! milliseconds to create.

use std::io;

use bytes::Bytes;
use evenkeel_protocol::internal::v1 as internal;

use crate::types::{GroupId, raft};

/// Version of everything described here.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const FORMAT_KEY: &[u8] = b"f";

/// Bytes of a record's value before the user's part: version and position.
pub(crate) const RECORD_HEAD_BYTES: usize = 16;

/// Longest key of a record that the layout can hold; far above what gateways accept.
pub(crate) const KEY_BYTES_MAX: usize = 32 * 1024;

/// Which of a partition's states a key belongs to: installing a snapshot begins a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub partition: GroupId,
    pub generation: u32,
}

impl Scope {
    pub(crate) const BYTES: usize = 8;

    pub(crate) fn prefix(self) -> [u8; Self::BYTES] {
        let mut prefix = [0; Self::BYTES];
        prefix[..4].copy_from_slice(&self.partition.to_be_bytes());
        prefix[4..].copy_from_slice(&self.generation.to_be_bytes());
        prefix
    }

    /// First key after the scope's last; only generation and partition `u32::MAX`, never reached, would have none.
    pub(crate) fn end(self) -> [u8; Self::BYTES] {
        let prefix = u64::from_be_bytes(self.prefix());
        prefix.saturating_add(1).to_be_bytes()
    }

    pub(crate) fn key(self, suffix: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(Self::BYTES + suffix.len());
        key.extend_from_slice(&self.prefix());
        key.extend_from_slice(suffix);
        key
    }

    pub(crate) fn number_key(self, number: u64) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.prefix());
        key[8..].copy_from_slice(&number.to_be_bytes());
        key
    }
}

pub(crate) fn partition_key(partition: GroupId) -> [u8; 5] {
    let mut key = [b'p', 0, 0, 0, 0];
    key[1..].copy_from_slice(&partition.to_be_bytes());
    key
}

pub(crate) fn garbage_key(scope: Scope) -> [u8; 9] {
    let mut key = [b'g', 0, 0, 0, 0, 0, 0, 0, 0];
    key[1..].copy_from_slice(&scope.prefix());
    key
}

/// The scope in a key of the `g` rows.
pub(crate) fn parse_garbage_key(key: &[u8]) -> io::Result<Scope> {
    let mut numbers = Numbers(key.get(1..).unwrap_or_default());
    Ok(Scope { partition: numbers.u32_be()?, generation: numbers.u32_be()? })
}

/// The number after the scope in a key of `requests` or `changes`.
pub(crate) fn number_of_key(key: &[u8]) -> io::Result<u64> {
    let tail = key.get(Scope::BYTES..).and_then(|tail| tail.try_into().ok());
    tail.map(u64::from_be_bytes).ok_or_else(|| damaged("key without its number"))
}

pub(crate) fn encode_record(version: u64, position: u64, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(RECORD_HEAD_BYTES + value.len());
    stored.extend_from_slice(&version.to_le_bytes());
    stored.extend_from_slice(&position.to_le_bytes());
    stored.extend_from_slice(value);
    stored
}

/// (version, position) of a stored record.
pub(crate) fn record_head(stored: &[u8]) -> io::Result<(u64, u64)> {
    let mut numbers = Numbers(stored);
    Ok((numbers.u64_le()?, numbers.u64_le()?))
}

/// Reads numbers off the front of bytes from disk or network.
pub(crate) struct Numbers<'a>(pub(crate) &'a [u8]);

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| damaged("value cut short"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u32_be(&mut self) -> io::Result<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn u32_le(&mut self) -> io::Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self) -> io::Result<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Row `p`: a partition's state apart from its records. Written in every apply batch.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PartitionRow {
    #[prost(uint32, tag = "1")]
    pub generation: u32,
    #[prost(message, optional, tag = "2")]
    pub applied: Option<internal::LogId>,
    /// JSON of openraft's stored membership.
    #[prost(bytes = "bytes", tag = "3")]
    pub membership: Bytes,
    #[prost(uint64, tag = "4")]
    pub records_count: u64,
    /// Changes at this position and later are kept.
    #[prost(uint64, tag = "5")]
    pub changes_first: u64,
    #[prost(uint64, tag = "6")]
    pub changes_count: u64,
    #[prost(uint64, tag = "7")]
    pub changes_bytes: u64,
}

pub(crate) fn encode_log_id(id: &raft::LogId) -> internal::LogId {
    internal::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn decode_log_id(id: &internal::LogId) -> raft::LogId {
    let leader_id = raft::CommittedLeaderId { term: id.term, node_id: id.node_id };
    raft::LogId { leader_id, index: id.index }
}

pub(crate) fn encode_membership(membership: &raft::StoredMembership) -> io::Result<Bytes> {
    serde_json::to_vec(membership).map(Bytes::from).map_err(io::Error::other)
}

/// Empty bytes are the membership of a partition that has not applied one.
pub(crate) fn decode_membership(json: &[u8]) -> io::Result<raft::StoredMembership> {
    if json.is_empty() {
        return Ok(raft::StoredMembership::default());
    }
    serde_json::from_slice(json).map_err(|e| damaged(format!("membership: {e}")))
}

pub(crate) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("state database: {}", what.into()))
}

pub(crate) fn io_error(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
