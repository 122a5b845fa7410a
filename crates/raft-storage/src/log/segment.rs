//! Segment files: names, header, creation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{FrameHeader, Kind, Salt, read_u32, read_u64};
use super::group_index::{GroupIndex, GroupState};
use crate::disk::{Disk, DiskFile};
use crate::types::GroupId;

/// Format written and the newest read.
pub const FORMAT_VERSION: u32 = 2;
/// Bytes of a segment before its checkpoint.
pub const HEADER_BYTES: usize = 40;

const MAGIC: [u8; 8] = *b"evkl-log";
const SUFFIX: &str = ".log";
const UNFINISHED_SUFFIX: &str = ".log.new";

/// Path of a segment.
pub fn path(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:020}{SUFFIX}"))
}

/// Sequence number in a segment's file name; `None` for any other file.
pub fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Whether the file is a segment whose creation a crash cut short.
pub fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED_SUFFIX)
}

/// The start of a segment: header and checkpoint of all groups. Its batches are numbered from `first_batch`.
pub fn encode_start<'a>(
    sequence: u64,
    salt: Salt,
    first_batch: u64,
    groups: impl Iterator<Item = (GroupId, &'a GroupIndex)>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&salt.0.to_le_bytes());
    bytes.extend_from_slice(&first_batch.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[16..HEADER_BYTES]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut count = 0;
    for (group, index) in groups {
        GroupState::of(index).encode_to(&mut bytes, group, salt);
        count += 1;
    }
    FrameHeader { kind: Kind::CheckpointEnd, flags: 0, group: 0, term: 0, node: 0, index: count }.encode_to(
        &mut bytes,
        salt,
        &[],
    );
    bytes
}

/// Why a segment's header is not one.
#[derive(Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Written by a newer version of the program.
    Newer(u32),
    Other(String),
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub sequence: u64,
    /// The log's.
    pub salt: Salt,
    /// Number of the segment's first batch.
    pub first_batch: u64,
}

/// Reads a segment's header.
pub fn decode_header(bytes: &[u8]) -> Result<Header, BadHeader> {
    if bytes.len() < HEADER_BYTES {
        return Err(BadHeader::Other(format!("{} bytes are too few for a segment header", bytes.len())));
    }
    if bytes[..8] != MAGIC {
        return Err(BadHeader::Other("this is not a log segment (wrong magic)".into()));
    }
    let version = read_u32(bytes, 8);
    if version > FORMAT_VERSION {
        return Err(BadHeader::Newer(version));
    }
    if version < FORMAT_VERSION {
        let advice = "it is no longer read: rebuild this broker's replicas from their peers";
        return Err(BadHeader::Other(format!(
            "the segment has format {version}, older than {FORMAT_VERSION}; {advice}"
        )));
    }
    if read_u32(bytes, 12) != crc32c::crc32c(&bytes[16..HEADER_BYTES]) {
        return Err(BadHeader::Other("the segment header's checksum is wrong".into()));
    }
    Ok(Header {
        sequence: read_u64(bytes, 16),
        salt: Salt(read_u64(bytes, 24)),
        first_batch: read_u64(bytes, 32),
    })
}

/// Creates a segment that begins with `start`. It has its name only once its start is durable.
pub fn create(
    disk: &dyn Disk,
    directory: &Path,
    sequence: u64,
    start: &[u8],
) -> io::Result<Arc<dyn DiskFile>> {
    let file = prepare(disk, directory, sequence, start)?;
    publish(disk, directory, sequence)?;
    Ok(file)
}

/// Writes a segment's start durably, under another name. When that fails nothing relies on the file: it may be tried again.
pub fn prepare(
    disk: &dyn Disk,
    directory: &Path,
    sequence: u64,
    start: &[u8],
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&unfinished(directory, sequence))?;
    file.write_all_at(start, 0)?;
    file.sync()?;
    Ok(file)
}

/// Gives a prepared segment its name, durably.
pub fn publish(disk: &dyn Disk, directory: &Path, sequence: u64) -> io::Result<()> {
    disk.rename(&unfinished(directory, sequence), &path(directory, sequence))?;
    disk.sync_directory(directory)
}

fn unfinished(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:020}{UNFINISHED_SUFFIX}"))
}
