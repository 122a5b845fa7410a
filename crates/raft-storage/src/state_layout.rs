//! Where things lie in the state database.
//!
//! | key | value |
//! | --- | --- |
//! | `f` | format of this layout, u32 |
//! | `p` partition u32 | [`PartitionRow`]: what is applied, and counts |
//! | `m` partition u32 | JSON of openraft's stored membership; apart because it is large and rarely changes |
//! | `g` scope | empty; this generation is not (or no longer) live and is to be dropped |
//! | `r` scope, key | version u64, position u64, value |
//! | `q` scope, client id u64 | sequence u64, position u64, encoded `Outcome` |
//! | `c` scope, position u64 | events u32, then each `WatchEvent` length-delimited |
//!
//! A *scope* is (partition u32, generation u32). Integers are big-endian in keys, so that they sort, and
//! little-endian in values.
//!
//! All of it is one fjall keyspace. One per partition would cost files, memory and tens of milliseconds each to create;
//! one per kind would write four small tables where this writes a large one, and every table written holds applies and
//! reads up while fjall syncs.

use std::io;

use evenkeel_protocol::internal::v1 as internal;

use crate::types::{GroupId, raft};

/// Version of everything described here.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const FORMAT_KEY: &[u8] = b"f";

/// Bytes of a record's value before the user's part: version and position.
pub(crate) const RECORD_HEAD_BYTES: usize = 16;

/// Longest key of a record that the layout can hold; far above what gateways accept.
pub(crate) const KEY_BYTES_MAX: usize = 32 * 1024;

/// What a key with a scope is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Garbage = b'g',
    Record = b'r',
    Request = b'q',
    Change = b'c',
}

/// Which of a partition's states a key belongs to: installing a snapshot begins a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub partition: GroupId,
    pub generation: u32,
}

impl Scope {
    /// Bytes of a key before what is the key's own.
    pub(crate) const PREFIX_BYTES: usize = 9;

    pub(crate) fn prefix(self, kind: Kind) -> [u8; Self::PREFIX_BYTES] {
        let mut prefix = [kind as u8; Self::PREFIX_BYTES];
        prefix[1..5].copy_from_slice(&self.partition.to_be_bytes());
        prefix[5..].copy_from_slice(&self.generation.to_be_bytes());
        prefix
    }

    /// First key after those of the kind: generations never reach `u32::MAX`.
    pub(crate) fn end(self, kind: Kind) -> [u8; Self::PREFIX_BYTES] {
        let generation = self.generation.saturating_add(1);
        Self { generation, ..self }.prefix(kind)
    }

    pub(crate) fn key(self, kind: Kind, suffix: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(Self::PREFIX_BYTES + suffix.len());
        key.extend_from_slice(&self.prefix(kind));
        key.extend_from_slice(suffix);
        key
    }

    pub(crate) fn number_key(self, kind: Kind, number: u64) -> [u8; Self::PREFIX_BYTES + 8] {
        let mut key = [0; Self::PREFIX_BYTES + 8];
        key[..Self::PREFIX_BYTES].copy_from_slice(&self.prefix(kind));
        key[Self::PREFIX_BYTES..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// The scope in a key.
    pub(crate) fn of_key(key: &[u8]) -> io::Result<Self> {
        let mut numbers = Numbers(key.get(1..).unwrap_or_default());
        Ok(Self { partition: numbers.u32_be()?, generation: numbers.u32_be()? })
    }
}

pub(crate) fn row_key(partition: GroupId) -> [u8; 5] {
    let mut key = [b'p'; 5];
    key[1..].copy_from_slice(&partition.to_be_bytes());
    key
}

pub(crate) fn membership_key(partition: GroupId) -> [u8; 5] {
    let mut key = [b'm'; 5];
    key[1..].copy_from_slice(&partition.to_be_bytes());
    key
}

/// The number after the scope in a key of a request or a change.
pub(crate) fn number_of_key(key: &[u8]) -> io::Result<u64> {
    let tail = key.get(Scope::PREFIX_BYTES..).and_then(|tail| tail.try_into().ok());
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
    #[prost(uint64, tag = "3")]
    pub records_count: u64,
    /// Changes at this position and later are kept.
    #[prost(uint64, tag = "4")]
    pub changes_first: u64,
    #[prost(uint64, tag = "5")]
    pub changes_count: u64,
    #[prost(uint64, tag = "6")]
    pub changes_bytes: u64,
    #[prost(message, repeated, tag = "7")]
    pub exported: Vec<internal::ExportedPosition>,
}

pub(crate) fn encode_log_id(id: &raft::LogId) -> internal::LogId {
    internal::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn decode_log_id(id: &internal::LogId) -> raft::LogId {
    let leader_id = raft::CommittedLeaderId { term: id.term, node_id: id.node_id };
    raft::LogId { leader_id, index: id.index }
}

pub(crate) fn encode_membership(membership: &raft::StoredMembership) -> io::Result<Vec<u8>> {
    serde_json::to_vec(membership).map_err(io::Error::other)
}

pub(crate) fn decode_membership(json: &[u8]) -> io::Result<raft::StoredMembership> {
    serde_json::from_slice(json).map_err(|e| damaged(format!("membership: {e}")))
}

pub(crate) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("state database: {}", what.into()))
}

pub(crate) fn io_error(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error,
        error => io::Error::other(error),
    }
}
