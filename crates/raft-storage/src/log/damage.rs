//! Finding out what a damaged log still holds, and which groups the damage concerns. Pure but for reading the segments.
//!
//! Strict recovery ([`super::recovery`]) stops at the first thing that does not check. This reads on behind it, to tell
//! the groups that are whole from those that may have lost something: these are forgotten and fetched from their peers.
//!
//! # Whose was the damaged frame?
//! Its own header says so, but may be what is damaged. It is believed only when the frame spans exactly what lies between
//! its neighbours and
//! - turning one bit of the header round, or naming another group, makes the checksum right: then that is what it was (a
//!   batch's own frame is nobody's); or
//! - it is an entry, and the one that its group had to append next, or one that the group had and that was moved forward.
//!
//! Else any group may have lost a frame, a vote even, that nothing else tells of: all groups are affected. So are they when
//! a segment is missing or its start does not check. A group that is thought whole must also agree with every checkpoint
//! and miss no entry, or it is affected too. In doubt more is fetched than was lost, never less.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::batches::{Batches, Stretch};
use super::entry_codec::log_id;
use super::frame::{self, FrameHeader, Kind, MOVED, Salt};
use super::group_index::{GroupIndex, GroupState, Location};
use super::log_error::OpenLogError;
use super::recovery::{Replay, io_error, read_header, read_whole};
use super::segment;
use crate::disk::{Disk, DiskFile};
use crate::types::GroupId;

/// Groups that may have lost something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    /// These, perhaps none; all others are whole.
    Groups(BTreeSet<GroupId>),
    /// The damage may concern any group.
    All,
}

impl Affected {
    /// Nothing is damaged.
    pub fn none() -> Self {
        Self::Groups(BTreeSet::new())
    }

    /// Whether this group may have lost something.
    pub fn contains(&self, group: GroupId) -> bool {
        match self {
            Self::Groups(groups) => groups.contains(&group),
            Self::All => true,
        }
    }

    /// Either's groups.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Groups(mut groups), Self::Groups(more)) => {
                groups.extend(more);
                Self::Groups(groups)
            }
            _ => Self::All,
        }
    }
}

impl fmt::Display for Affected {
    /// As the command line names them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("--all"),
            Self::Groups(groups) => {
                for (i, group) in groups.iter().enumerate() {
                    let separator = if i == 0 { "" } else { " " };
                    write!(f, "{separator}--partition {group}")?;
                }
                Ok(())
            }
        }
    }
}

/// What a log holds for sure.
pub(super) struct Surviving {
    pub salt: Salt,
    pub groups: BTreeMap<GroupId, GroupIndex>,
    pub files: BTreeMap<u64, Arc<dyn DiskFile>>,
    pub affected: Affected,
    /// Everything checks. Else, where no group is affected, what is damaged is nobody's.
    pub is_whole: bool,
}

impl Surviving {
    fn nothing() -> Self {
        let (groups, files) = Default::default();
        Self { salt: Salt(0), groups, files, affected: Affected::All, is_whole: false }
    }
}

/// Which groups of the log in `directory` may have lost something. Changes nothing.
///
/// # Errors
/// When the disk cannot be read, or a newer version wrote the log.
pub fn affected_groups(disk: &dyn Disk, directory: &Path) -> Result<Affected, OpenLogError> {
    Ok(surviving(disk, directory)?.affected)
}

/// Whether everything in the log of `directory` checks. Where it does not and no group is affected, the log has only to be
/// written anew. Changes nothing.
///
/// # Errors
/// When the disk cannot be read, or a newer version wrote the log.
pub fn is_whole(disk: &dyn Disk, directory: &Path) -> Result<bool, OpenLogError> {
    Ok(surviving(disk, directory)?.is_whole)
}

/// Reads the log, past what is damaged. Changes nothing.
pub(super) fn surviving(disk: &dyn Disk, directory: &Path) -> Result<Surviving, OpenLogError> {
    let names = disk.list(directory).map_err(io_error("list the directory", directory))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| segment::sequence_of(name)).collect();
    sequences.sort_unstable();
    if sequences.windows(2).any(|pair| pair[1] != pair[0] + 1) {
        return Ok(Surviving::nothing());
    }
    let mut reader = Reader {
        replay: Replay::new(disk, directory, &sequences)?,
        affected: BTreeSet::new(),
        files: BTreeMap::new(),
        next_batch: None,
        is_whole: true,
    };
    let mut headers = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        match read_header(disk, directory, sequence) {
            Ok(header) => headers.push(header),
            Err(OpenLogError::Corrupt { .. }) => return Ok(Surviving::nothing()),
            Err(error) => return Err(error),
        }
    }
    for (at, header) in headers.iter().enumerate() {
        let until = headers.get(at + 1).map(|next| next.first_batch);
        if !reader.read_segment(disk, directory, header, until)? {
            return Ok(Surviving::nothing());
        }
    }
    let Reader { replay, mut affected, files, is_whole, .. } = reader;
    let Replay { salt, mut groups, .. } = replay;
    affected.extend(groups.iter().filter(|(_, i)| i.first_missing().is_some()).map(|(group, _)| *group));
    groups.retain(|group, _| !affected.contains(group));
    let is_whole = is_whole && affected.is_empty();
    let affected = Affected::Groups(affected);
    Ok(Surviving { salt: salt.unwrap_or(Salt(0)), groups, files, affected, is_whole })
}

struct Reader {
    replay: Replay,
    affected: BTreeSet<GroupId>,
    files: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Once a segment was read.
    next_batch: Option<u64>,
    is_whole: bool,
}

impl Reader {
    /// `false` when what is found may concern any group.
    fn read_segment(
        &mut self,
        disk: &dyn Disk,
        directory: &Path,
        header: &segment::Header,
        until: Option<u64>,
    ) -> Result<bool, OpenLogError> {
        let segment::Header { sequence, salt, first_batch } = *header;
        let (file, bytes) = read_whole(disk, &segment::path(directory, sequence))?;
        self.files.insert(sequence, file);
        let is_first = self.replay.salt.is_none();
        if *self.replay.salt.get_or_insert(salt) != salt
            || self.next_batch.is_some_and(|expected| expected != first_batch)
        {
            return Ok(false);
        }
        let Some(offset) = self.read_checkpoint(&bytes, salt, is_first) else { return Ok(false) };
        let mut batches = Batches::new(&bytes, salt, offset, first_batch, until);
        for stretch in batches.by_ref() {
            self.is_whole &= matches!(stretch, Stretch::Frames(_));
            // An empty stretch is where whole batches are missing.
            if let Stretch::Damaged(missing) = &stretch
                && missing.is_empty()
            {
                return Ok(false);
            }
            let (Stretch::Frames(frames) | Stretch::Damaged(frames)) = stretch;
            if !self.read_frames(&bytes[..frames.end], frames.start, sequence, salt) {
                return Ok(false);
            }
        }
        self.next_batch = Some(batches.next);
        Ok(true)
    }

    /// Reads frames from `offset` on, past those that do not check; `false` when it is not known whose these were.
    fn read_frames(&mut self, bytes: &[u8], mut offset: usize, sequence: u64, salt: Salt) -> bool {
        while offset < bytes.len() {
            match frame::decode(&bytes[offset..], salt) {
                Ok((FrameHeader { kind: Kind::Batch, .. }, _)) => offset += frame::HEADER_BYTES,
                Ok((header, payload)) => {
                    let length = frame::HEADER_BYTES + payload.len();
                    let location =
                        Location { segment: sequence, offset: offset as u64, bytes: length as u32 };
                    if !self.affected.contains(&header.group) && self.replay.apply(&header, location).is_err()
                    {
                        self.affected.insert(header.group);
                    }
                    offset += length;
                }
                Err(_) => {
                    let end = frame::find_valid(bytes, offset + 1, salt).unwrap_or(bytes.len());
                    match owner(&bytes[offset..end], salt, &self.replay.groups) {
                        Some(Owner::Nobody) => {}
                        Some(Owner::Group(group)) => {
                            self.affected.insert(group);
                        }
                        None => return false,
                    }
                    offset = end;
                }
            }
        }
        true
    }

    /// Offset behind the checkpoint; `None` when it is damaged.
    fn read_checkpoint(&mut self, bytes: &[u8], salt: Salt, is_first: bool) -> Option<usize> {
        let mut offset = segment::HEADER_BYTES;
        let mut named = BTreeSet::new();
        loop {
            let (header, payload) = frame::decode(bytes.get(offset..)?, salt).ok()?;
            offset += frame::HEADER_BYTES + payload.len();
            match header.kind {
                Kind::GroupState => {
                    let state = GroupState::decode(payload).ok()?;
                    named.insert(header.group);
                    if is_first {
                        let index = state.into_index(self.replay.frames_max).ok()?;
                        self.replay.groups.insert(header.group, index);
                    } else if self.replay.groups.get(&header.group).map(GroupState::of) != Some(state) {
                        self.affected.insert(header.group);
                    }
                }
                Kind::CheckpointEnd if header.index == named.len() as u64 => {
                    // A group whose every frame was lost is in the checkpoint only; one that is not in it came from nowhere.
                    self.affected.extend(self.replay.groups.keys().filter(|group| !named.contains(group)));
                    return Some(offset);
                }
                _ => return None,
            }
        }
    }
}

/// Whose a damaged frame was.
enum Owner {
    /// It was a batch's own.
    Nobody,
    Group(GroupId),
}

/// Whose the damaged bytes between two good frames were, if they are one frame and there is no doubt.
fn owner(bytes: &[u8], salt: Salt, groups: &BTreeMap<GroupId, GroupIndex>) -> Option<Owner> {
    if bytes.len() < frame::HEADER_BYTES || bytes.len() > frame::HEADER_BYTES + frame::PAYLOAD_BYTES_MAX {
        return None;
    }
    let (head, payload) = bytes.split_at(frame::HEADER_BYTES);
    let mut tried = [0; frame::HEADER_BYTES];
    tried.copy_from_slice(head);
    for bit in 0..frame::HEADER_BYTES * 8 {
        tried[bit / 8] ^= 1 << (bit % 8);
        if let Some(header) = frame::decode_parts(&tried, payload, salt) {
            return Some(match header.kind {
                Kind::Batch => Owner::Nobody,
                _ => Owner::Group(header.group),
            });
        }
        tried[bit / 8] ^= 1 << (bit % 8);
    }
    let claimed = FrameHeader::unchecked(&tried, payload.len())?;
    for group in groups.keys() {
        tried[12..16].copy_from_slice(&group.to_le_bytes());
        if frame::decode_parts(&tried, payload, salt).is_some() {
            return Some(Owner::Group(*group));
        }
    }
    let index = groups.get(&claimed.group)?;
    let term_before = index.last_log_id().map_or(0, |last| last.committed_leader_id().term);
    let comes_next = claimed.index == index.last_log_id().map_or(0, |last| last.index + 1);
    let is = |flags| claimed.kind.is_entry() && claimed.flags == flags;
    let appended = is(0) && comes_next && claimed.term >= term_before;
    let moved = is(MOVED) && index.may_have(&log_id(claimed.term, claimed.node, claimed.index));
    (appended || moved).then_some(Owner::Group(claimed.group))
}
