//! Raft entries as frames and back. A command's bytes are shared with the frame, never encoded again.

use bytes::Bytes;

use super::frame::{self, FrameHeader, Kind, Salt};
use crate::types::raft::{Entry, LogId, Payload};
use crate::types::{Command, GroupId, raft};

/// An entry whose frame header (with the checksum) is ready to be queued.
pub struct EncodedEntry {
    pub header: [u8; frame::HEADER_BYTES],
    pub body: Bytes,
    pub entry: Entry,
}

/// Why an entry cannot be written or a stored one cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EntryCodecError {
    #[error("group {group}, entry {index}: {bytes} bytes is more than a log frame holds ({max} bytes)", max = frame::PAYLOAD_BYTES_MAX)]
    TooLarge { group: GroupId, index: u64, bytes: usize },
    #[error("group {group}, entry {index}: membership cannot be converted: {source}")]
    Membership { group: GroupId, index: u64, source: serde_json::Error },
}

/// The leader id of the given term and node.
pub fn leader_id(term: u64, node: u64) -> raft::CommittedLeaderId {
    raft::CommittedLeaderId { term, node_id: node }
}

/// The log id of the given term, node and index.
pub fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(leader_id(term, node), index)
}

/// Kind and payload of an entry's frame.
pub fn frame_of(group: GroupId, index: u64, payload: &Payload) -> Result<(Kind, Bytes), EntryCodecError> {
    let (kind, body) = match payload {
        Payload::Blank => (Kind::Blank, Bytes::new()),
        Payload::Normal(Command(bytes)) => (Kind::Command, bytes.clone()),
        Payload::Membership(membership) => {
            let json = serde_json::to_vec(membership);
            let json = json.map_err(|source| EntryCodecError::Membership { group, index, source })?;
            (Kind::Membership, Bytes::from(json))
        }
    };
    if body.len() > frame::PAYLOAD_BYTES_MAX {
        return Err(EntryCodecError::TooLarge { group, index, bytes: body.len() });
    }
    Ok((kind, body))
}

/// Prepares an entry for the queue; `flags` is 0 or [`frame::MOVED`].
pub fn encode(group: GroupId, entry: Entry, flags: u16, salt: Salt) -> Result<EncodedEntry, EntryCodecError> {
    let (kind, body) = frame_of(group, entry.log_id.index, &entry.payload)?;
    let leader = entry.log_id.committed_leader_id();
    let header = FrameHeader {
        kind,
        flags,
        group,
        term: leader.term,
        node: leader.node_id,
        index: entry.log_id.index,
    };
    Ok(EncodedEntry { header: header.encode(salt, &body), body, entry })
}

/// The payload that a frame of an entry kind carries.
pub fn decode_payload(header: &FrameHeader, body: Bytes) -> Result<Payload, EntryCodecError> {
    match header.kind {
        Kind::Command => Ok(Payload::Normal(Command(body))),
        Kind::Membership => {
            let membership = serde_json::from_slice(&body);
            let (group, index) = (header.group, header.index);
            let membership =
                membership.map_err(|source| EntryCodecError::Membership { group, index, source })?;
            Ok(Payload::Membership(membership))
        }
        _ => Ok(Payload::Blank),
    }
}
