//! Reading the log back at the start: every segment, every frame, every checksum.
//!
//! A torn batch at the end of the last segment is dropped: the log goes on in its place. Everything else that does not check
//! stops the start with the file, the offset and the remedy, since acknowledged records could be dropped:
//! - a bad batch with a later one after it, or in any but the last segment;
//! - a bad segment header or checkpoint (they are durable before the segment has its name);
//! - a segment or entry that is missing between others; a frame that does not fit what came before it.
//!
//! So nothing is asked of the order in which a disk writes what it was not told to sync ([`super::batches`]). What cannot be
//! told apart is a torn last batch and one that the disk damaged later.
//!
//! Before the log is used the last segment is synced: what a dead process wrote may be readable but not durable yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batches::{Batches, Stretch};
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
    /// Bytes of it that count: header, checkpoint and batches.
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
    /// Number of the batch that comes next.
    pub next_batch: u64,
}

/// Number of a log's first batch.
const FIRST_BATCH: u64 = 1;

/// Reads the log in `directory` up to a torn end, and makes sure that what it returns is durable. An empty
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
    if sequences.is_empty() {
        return create_first(disk, directory, fresh_salt);
    }

    let mut replay = Replay::new(disk, directory, &sequences)?;
    let mut segments = Vec::with_capacity(sequences.len());
    let mut next_batch = None;
    for (at, sequence) in sequences.iter().enumerate() {
        // A finished segment ends with the batch before the next one's first.
        let until = match sequences.get(at + 1) {
            Some(next) => Some(read_header(disk, directory, *next)?.first_batch),
            None => None,
        };
        segments.push(read_segment(disk, directory, *sequence, until, &mut next_batch, &mut replay)?);
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
    let next_batch = next_batch.unwrap_or(FIRST_BATCH);
    Ok(Recovered { salt: salt.unwrap_or(fresh_salt), segments, groups, next_batch })
}

fn create_first(disk: &dyn Disk, directory: &Path, salt: Salt) -> Result<Recovered, OpenLogError> {
    let start = segment::encode_start(1, salt, FIRST_BATCH, std::iter::empty());
    let file = segment::create(disk, directory, 1, &start);
    let file = file.map_err(io_error("create the first segment", directory))?;
    let bytes = start.len() as u64;
    let first = RecoveredSegment { sequence: 1, file, bytes, start_bytes: bytes };
    let groups = BTreeMap::new();
    Ok(Recovered { salt, segments: vec![first], groups, next_batch: FIRST_BATCH })
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

    /// Names the first frame in a damaged stretch that does not check.
    fn damaged(&mut self, stretch: Range<usize>, is_finished: bool) -> OpenLogError {
        let end = stretch.end;
        self.offset = stretch.start;
        loop {
            match self.peek() {
                Ok((.., location)) if self.offset < end => self.offset += location.bytes as usize,
                Ok(_) => return self.corrupt("a batch is missing here"),
                Err(bad) if is_finished => {
                    return self.corrupt(format!("{bad}, in a segment that was finished"));
                }
                Err(bad) => return self.corrupt(format!("{bad}, but a later write follows at byte {end}")),
            }
        }
    }

    fn peek(&self) -> Result<(FrameHeader, &'a [u8], Location), frame::BadFrame> {
        let (header, payload) = frame::decode(&self.bytes[self.offset..], self.salt)?;
        let bytes = (frame::HEADER_BYTES + payload.len()) as u32;
        Ok((header, payload, Location { segment: self.sequence, offset: self.offset as u64, bytes }))
    }
}

/// A segment's header, which must be one of this format and of the segment that the file's name says.
fn check_header(path: &Path, bytes: &[u8], sequence: u64) -> Result<segment::Header, OpenLogError> {
    let corrupt = |what: String| OpenLogError::Corrupt { path: path.to_owned(), offset: 0, what };
    let header = segment::decode_header(bytes).map_err(|bad| match bad {
        BadHeader::Newer(found) => {
            OpenLogError::NewerFormat { path: path.to_owned(), found, supported: segment::FORMAT_VERSION }
        }
        BadHeader::Other(what) => corrupt(what),
    })?;
    let stored = header.sequence;
    if stored != sequence {
        return Err(corrupt(format!("the header says segment {stored}, the file name {sequence}")));
    }
    Ok(header)
}

/// Reads a segment's header alone.
pub(super) fn read_header(
    disk: &dyn Disk,
    directory: &Path,
    sequence: u64,
) -> Result<segment::Header, OpenLogError> {
    let path = segment::path(directory, sequence);
    let file = disk.open(&path).map_err(io_error("open the segment", &path))?;
    let length = file.length().map_err(io_error("measure the segment", &path))?;
    let mut bytes = vec![0; length.min(segment::HEADER_BYTES as u64) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io_error("read the segment", &path))?;
    check_header(&path, &bytes, sequence)
}

/// `until` is the next segment's first batch, if there is a next one; `next_batch` the number of the one that comes next, once
/// a segment was read.
fn read_segment(
    disk: &dyn Disk,
    directory: &Path,
    sequence: u64,
    until: Option<u64>,
    next_batch: &mut Option<u64>,
    replay: &mut Replay,
) -> Result<RecoveredSegment, OpenLogError> {
    let path = segment::path(directory, sequence);
    let (file, bytes) = read_whole(disk, &path)?;
    let segment::Header { salt, first_batch, .. } = check_header(&path, &bytes, sequence)?;
    let offset = segment::HEADER_BYTES;
    let mut reading = Reading { path, sequence, bytes: &bytes, salt, offset };
    let is_first = replay.salt.is_none();
    if *replay.salt.get_or_insert(salt) != salt {
        reading.offset = 0;
        return Err(reading.corrupt("the segment belongs to another log (its salt differs)"));
    }
    if let Some(expected) = next_batch.filter(|expected| *expected != first_batch) {
        reading.offset = 0;
        return Err(
            reading.corrupt(format!("it begins with batch {first_batch}, where {expected} comes next"))
        );
    }
    read_checkpoint(&mut reading, is_first, replay)?;
    let start_bytes = reading.offset as u64;
    let mut batches = Batches::new(&bytes, salt, reading.offset, first_batch, until);
    for stretch in batches.by_ref() {
        match stretch {
            Stretch::Frames(frames) => read_frames(&mut reading, frames, replay)?,
            Stretch::Damaged(damaged) => return Err(reading.damaged(damaged, until.is_some())),
        }
    }

    let Batches { offset, next, torn, .. } = batches;
    *next_batch = Some(next);
    let path = reading.path;
    if torn {
        tracing::warn!(segment = %path.display(), offset, batch = next, "dropped a torn write at the log's end");
    }
    if until.is_none() {
        file.sync().map_err(io_error("sync the segment", &path))?;
    }
    Ok(RecoveredSegment { sequence, file, bytes: offset as u64, start_bytes })
}

/// Takes in the frames of a batch that checks as a whole.
fn read_frames(
    reading: &mut Reading<'_>,
    frames: Range<usize>,
    replay: &mut Replay,
) -> Result<(), OpenLogError> {
    reading.offset = frames.start;
    while reading.offset < frames.end {
        let (header, _, location) = reading.peek().map_err(|bad| reading.corrupt(bad))?;
        replay.apply(&header, location).map_err(|misfit| {
            reading.corrupt(format!("group {}: {:?} frame says: {misfit}", header.group, header.kind))
        })?;
        reading.offset += location.bytes as usize;
    }
    Ok(())
}

/// A segment's file and all of its bytes.
pub(super) fn read_whole(disk: &dyn Disk, path: &Path) -> Result<(Arc<dyn DiskFile>, Vec<u8>), OpenLogError> {
    let file = disk.open(path).map_err(io_error("open the segment", path))?;
    let length = file.length().map_err(io_error("measure the segment", path))?;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io_error("read the segment", path))?;
    Ok((file, bytes))
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
