//! Reading the log back at the start: every segment, every frame, every checksum.
//!
//! A torn end of the last segment is cut. Everything else that does not check stops the start with the file, the
//! offset and the remedy, since cutting there could drop acknowledged records:
//! - a bad frame with a valid one after it, or in any but the last segment;
//! - a bad segment header or checkpoint (they are durable before the segment has its name);
//! - a segment or entry that is missing between others; a frame that does not fit what came before it.
//!
//! This counts on file systems that lengthen a file only once the data is there (ext4 in ordered mode, xfs): they
//! leave a prefix of an unsynced write. On one that leaves holes, a torn batch of several frames can look like
//! corruption; the start is refused then rather than guessed.
//!
//! Before the log is used the last segment is synced: what a dead process wrote may be readable but not durable yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry_codec::log_id;
use super::frame::{self, FrameHeader, GRANTED, Kind, MOVED, NO_LOG_ID, Salt};
use super::group_index::{GroupIndex, GroupState, INDEX_MAX, Location, Misfit};
use super::log_error::OpenLogError;
use super::segment::{self, BadHeader};
use crate::disk::{Disk, DiskFile};
use crate::types::GroupId;
use crate::types::raft::Vote;

/// A segment as found.
#[derive(Debug)]
pub struct RecoveredSegment {
    pub sequence: u64,
    pub file: Arc<dyn DiskFile>,
    pub bytes: u64,
    /// Bytes of its header and checkpoint.
    pub start_bytes: u64,
}

/// What the directory held. Never without a segment.
#[derive(Debug)]
pub struct Recovered {
    pub salt: Salt,
    pub segments: Vec<RecoveredSegment>,
    pub groups: BTreeMap<GroupId, GroupIndex>,
}

/// Reads the log in `directory`, cuts a torn end, and makes sure that what it returns is durable. An empty
/// directory becomes an empty log with the salt `fresh_salt`.
pub fn recover(disk: &dyn Disk, directory: &Path, fresh_salt: Salt) -> Result<Recovered, OpenLogError> {
    disk.create_directory(directory).map_err(io_error("create the directory", directory))?;
    let names = disk.list(directory).map_err(io_error("list the directory", directory))?;
    for name in names.iter().filter(|name| segment::is_unfinished(name)) {
        let path = directory.join(name);
        disk.remove(&path).map_err(io_error("remove the unfinished segment", &path))?;
    }
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| segment::sequence_of(name)).collect();
    sequences.sort_unstable();
    if let Some(hole) = sequences.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return Err(OpenLogError::MissingSegment { path: segment::path(directory, hole[0] + 1) });
    }
    let Some(&last) = sequences.last() else { return create_first(disk, directory, fresh_salt) };

    let mut replay = Replay::new(disk, directory, &sequences)?;
    let mut segments = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        segments.push(read_segment(disk, directory, sequence, sequence == last, &mut replay)?);
    }
    disk.sync_directory(directory).map_err(io_error("sync the directory", directory))?;

    let Replay { salt, mut groups, .. } = replay;
    for (group, index) in &mut groups {
        if let Some(missing) = index.first_missing() {
            return Err(OpenLogError::MissingEntry {
                path: directory.to_owned(),
                group: *group,
                index: missing,
            });
        }
        index.recount_bytes();
    }
    Ok(Recovered { salt: salt.unwrap_or(fresh_salt), segments, groups })
}

fn create_first(disk: &dyn Disk, directory: &Path, salt: Salt) -> Result<Recovered, OpenLogError> {
    let start = segment::encode_start(1, salt, std::iter::empty());
    let file = segment::create(disk, directory, 1, &start);
    let file = file.map_err(io_error("create the first segment", directory))?;
    let bytes = start.len() as u64;
    let first = RecoveredSegment { sequence: 1, file, bytes, start_bytes: bytes };
    Ok(Recovered { salt, segments: vec![first], groups: BTreeMap::new() })
}

pub(super) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> OpenLogError + 'a {
    move |source| OpenLogError::Io { action, path: path.to_owned(), source }
}

/// The groups as the frames read so far tell.
pub(super) struct Replay {
    pub salt: Option<Salt>,
    pub groups: BTreeMap<GroupId, GroupIndex>,
    /// More frames than this do not fit into the log's files.
    pub frames_max: u64,
}

/// A segment's bytes while they are read.
struct Reading<'a> {
    path: PathBuf,
    sequence: u64,
    bytes: &'a [u8],
    salt: Salt,
    offset: usize,
}

impl<'a> Reading<'a> {
    fn corrupt(&self, what: impl ToString) -> OpenLogError {
        OpenLogError::Corrupt { path: self.path.clone(), offset: self.offset as u64, what: what.to_string() }
    }

    fn peek(&self) -> Result<(FrameHeader, &'a [u8], Location), frame::BadFrame> {
        let (header, payload) = frame::decode(&self.bytes[self.offset..], self.salt)?;
        let bytes = (frame::HEADER_BYTES + payload.len()) as u32;
        Ok((header, payload, Location { segment: self.sequence, offset: self.offset as u64, bytes }))
    }
}

fn read_segment(
    disk: &dyn Disk,
    directory: &Path,
    sequence: u64,
    is_last: bool,
    replay: &mut Replay,
) -> Result<RecoveredSegment, OpenLogError> {
    let path = segment::path(directory, sequence);
    let (file, bytes) = read_whole(disk, &path)?;
    let corrupt = |what: String| OpenLogError::Corrupt { path: path.clone(), offset: 0, what };
    let (stored_sequence, salt) = segment::decode_header(&bytes).map_err(|bad| match bad {
        BadHeader::Newer(found) => {
            OpenLogError::NewerFormat { path: path.clone(), found, supported: segment::FORMAT_VERSION }
        }
        BadHeader::Other(what) => corrupt(what),
    })?;
    if stored_sequence != sequence {
        return Err(corrupt(format!("the header says segment {stored_sequence}, the file name {sequence}")));
    }
    let is_first = replay.salt.is_none();
    if *replay.salt.get_or_insert(salt) != salt {
        return Err(corrupt("the segment belongs to another log (its salt differs)".into()));
    }

    let offset = segment::HEADER_BYTES;
    let mut reading = Reading { path, sequence, bytes: &bytes, salt, offset };
    read_checkpoint(&mut reading, is_first, replay)?;
    let start_bytes = reading.offset as u64;
    while reading.offset < bytes.len() {
        let (header, _, location) = match reading.peek() {
            Ok(frame) => frame,
            Err(bad) => {
                refuse_unless_torn(&reading, is_last, bad)?;
                break;
            }
        };
        replay.apply(&header, location).map_err(|misfit| {
            reading.corrupt(format!("group {}: {:?} frame says: {misfit}", header.group, header.kind))
        })?;
        reading.offset += location.bytes as usize;
    }

    let Reading { path, offset, .. } = reading;
    if offset < bytes.len() {
        let torn_bytes = bytes.len() - offset;
        tracing::warn!(segment = %path.display(), offset, torn_bytes, "cut a torn write from the log's end");
        file.set_length(offset as u64).map_err(io_error("cut the segment", &path))?;
    }
    if is_last {
        file.sync().map_err(io_error("sync the segment", &path))?;
    }
    Ok(RecoveredSegment { sequence, file, bytes: offset as u64, start_bytes })
}

/// A segment's file and all of its bytes.
pub(super) fn read_whole(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn DiskFile>, Vec<u8>), OpenLogError> {
    let file = disk.open(path).map_err(io_error("open the segment", path))?;
    let length = file.length().map_err(io_error("measure the segment", path))?;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io_error("read the segment", path))?;
    Ok((file, bytes))
}

fn refuse_unless_torn(
    reading: &Reading<'_>,
    is_last: bool,
    bad: frame::BadFrame,
) -> Result<(), OpenLogError> {
    if !is_last {
        return Err(reading.corrupt(format!("{bad}, in a segment that was finished")));
    }
    match frame::find_valid(reading.bytes, reading.offset + 1, reading.salt) {
        Some(valid) => Err(reading.corrupt(format!("{bad}, but a valid frame follows at byte {valid}"))),
        None => Ok(()),
    }
}

/// Takes over the groups of a checkpoint, or, in any but the first segment read, checks it against them.
fn read_checkpoint(
    reading: &mut Reading<'_>,
    is_first: bool,
    replay: &mut Replay,
) -> Result<(), OpenLogError> {
    let mut count = 0;
    loop {
        let (header, payload, location) = reading.peek().map_err(|bad| reading.corrupt(bad))?;
        let misfit = match header.kind {
            Kind::GroupState => match GroupState::decode(payload) {
                Ok(state) if is_first => match state.into_index(replay.frames_max) {
                    Ok(index) => {
                        replay.groups.insert(header.group, index);
                        None
                    }
                    Err(misfit) => Some(misfit),
                },
                Ok(state) => {
                    let known = replay.groups.get(&header.group).map(GroupState::of);
                    (known != Some(state)).then_some(Misfit::Checkpoint)
                }
                Err(misfit) => Some(misfit),
            },
            Kind::CheckpointEnd if header.index == count && count == replay.groups.len() as u64 => {
                reading.offset += location.bytes as usize;
                return Ok(());
            }
            _ => Some(Misfit::MalformedCheckpoint),
        };
        if let Some(misfit) = misfit {
            return Err(reading.corrupt(format!("group {}: {misfit}", header.group)));
        }
        count += 1;
        reading.offset += location.bytes as usize;
    }
}

impl Replay {
    /// Nothing read yet of a log that consists of these segments.
    pub(super) fn new(disk: &dyn Disk, directory: &Path, sequences: &[u64]) -> Result<Self, OpenLogError> {
        let mut bytes: u64 = 0;
        for sequence in sequences {
            let path = segment::path(directory, *sequence);
            let length = disk.open(&path).and_then(|file| file.length());
            bytes = bytes.saturating_add(length.map_err(io_error("measure the segment", &path))?);
        }
        Ok(Self { salt: None, groups: BTreeMap::new(), frames_max: bytes / frame::HEADER_BYTES as u64 })
    }

    /// Takes one frame in.
    pub(super) fn apply(&mut self, header: &FrameHeader, location: Location) -> Result<(), Misfit> {
        if header.index > INDEX_MAX {
            return Err(Misfit::LastOfAll);
        }
        let group = self.groups.entry(header.group).or_default();
        let position = log_id(header.term, header.node, header.index);
        let named = (header.flags & NO_LOG_ID == 0).then_some(position);
        match header.kind {
            kind if kind.is_entry() && header.flags & MOVED != 0 => {
                group.relocate(&position, location)?;
            }
            kind if kind.is_entry() => {
                group.check_append(header.index)?;
                group.push(&position, location, None);
            }
            Kind::Vote => {
                let leader_id = *position.committed_leader_id();
                group.vote = Some(Vote { leader_id, committed: header.flags & GRANTED != 0 });
            }
            Kind::TruncateAfter => {
                group.truncate_after(named.map(|log_id| log_id.index));
            }
            Kind::Purge => {
                group.purge(position);
            }
            Kind::Committed => group.committed = named,
            _ => return Err(Misfit::MalformedCheckpoint),
        }
        Ok(())
    }
}
