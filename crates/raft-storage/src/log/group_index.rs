//! What the log knows of one group: vote, positions, and where each entry lies. Pure state, no I/O.
//!
//! The same transitions serve a running log and its recovery, so that both agree on what a frame means.

use std::collections::VecDeque;

use super::entry_codec;
use super::frame::{self, GRANTED, Kind, NO_LOG_ID, Salt, read_u64};
use crate::types::GroupId;
use crate::types::raft::{CommittedLeaderId, LogId, Payload, Vote};

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Sequence number of the segment; they begin at 1.
    pub segment: u64,
    pub offset: u64,
    /// Length of the whole frame.
    pub bytes: u32,
}

impl Location {
    /// Stands for an entry that a checkpoint announces and a later frame must deliver.
    const MISSING: Location = Location { segment: 0, offset: 0, bytes: frame::HEADER_BYTES as u32 };

    /// Bytes of the frame's payload.
    pub fn payload_bytes(&self) -> u64 {
        u64::from(self.bytes) - frame::HEADER_BYTES as u64
    }

    /// Whether no frame has delivered the entry.
    pub fn is_missing(&self) -> bool {
        *self == Self::MISSING
    }
}

/// One entry of a group.
#[derive(Debug, Clone)]
pub struct Slot {
    pub leader: CommittedLeaderId,
    pub location: Location,
    /// Payload bytes of the group up to and including this entry, counted from an arbitrary start.
    bytes_through: u64,
    /// The payload while it is in the cache.
    pub cached: Option<Payload>,
}

/// A step that does not fit the group's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("entry {found} where {expected} must come next")]
    Gap { expected: u64, found: u64 },
    #[error("moved entry {0}, which the log does not hold")]
    MovedUnknown(LogId),
    #[error("a checkpoint that contradicts the log before it")]
    Checkpoint,
    #[error("an entry after which none can come")]
    LastOfAll,
    #[error("a malformed checkpoint")]
    MalformedCheckpoint,
}

/// See the module.
#[derive(Debug, Default)]
pub struct GroupIndex {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Whether `committed` changed since a frame said so.
    pub committed_unwritten: bool,
    /// Entries up to this one were durable before they were queued again behind others.
    pub moved_through: Option<u64>,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Payload bytes up to the first slot, on the same count as the slots' own.
    bytes_before: u64,
}

impl GroupIndex {
    /// Index of the first and the last entry, when there is one.
    pub fn range(&self) -> Option<(u64, u64)> {
        (!self.slots.is_empty()).then(|| (self.first, self.first + self.slots.len() as u64 - 1))
    }

    /// The last entry, or the last purged one.
    pub fn last_log_id(&self) -> Option<LogId> {
        match (self.range(), self.slots.back()) {
            (Some((_, last)), Some(slot)) => Some(LogId::new(slot.leader, last)),
            _ => self.purged,
        }
    }

    /// The last entry that is durable when all frames before this segment and offset are, or the last purged one.
    pub fn durable(&self, until: (u64, u64)) -> Option<LogId> {
        let is_durable = |index, slot: &Slot| {
            (slot.location.segment, slot.location.offset) < until || Some(index) <= self.moved_through
        };
        let mut entries =
            self.slots.iter().enumerate().map(|(at, slot)| (self.first + at as u64, slot)).rev();
        let last = entries.find(|(index, slot)| is_durable(*index, slot));
        last.map(|(index, slot)| LogId::new(slot.leader, index)).or(self.purged)
    }

    /// The entry's slot, when the log holds it.
    pub fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Like [`GroupIndex::slot`], to change it.
    pub fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// All entries with their indexes, ascending.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Slot)> {
        (self.first..).zip(&self.slots)
    }

    /// Whether an entry with this index may be appended now. An empty log that was never purged takes any.
    pub fn check_append(&self, index: u64) -> Result<(), Misfit> {
        let expected = match (self.range(), &self.purged) {
            (Some((_, last)), _) => last + 1,
            (None, Some(purged)) => purged.index + 1,
            (None, None) => return Ok(()),
        };
        if index == expected { Ok(()) } else { Err(Misfit::Gap { expected, found: index }) }
    }

    /// Adds an entry for which [`GroupIndex::check_append`] was asked.
    pub fn push(&mut self, log_id: &LogId, location: Location, cached: Option<Payload>) {
        debug_assert!(self.check_append(log_id.index).is_ok());
        if self.slots.is_empty() {
            self.first = log_id.index;
        }
        let bytes_through = self.bytes_through_last() + location.payload_bytes();
        self.slots.push_back(Slot { leader: *log_id.committed_leader_id(), location, bytes_through, cached });
    }

    /// Removes the entries after `last`, all when `None`, and returns them.
    pub fn truncate_after(&mut self, last: Option<u64>) -> VecDeque<Slot> {
        self.moved_through = self.moved_through.min(last);
        let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.first));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.slots.len());
        self.slots.split_off(keep)
    }

    /// Removes the entries up to `upto` and returns them.
    pub fn purge(&mut self, upto: LogId) -> VecDeque<Slot> {
        if self.purged.as_ref().is_some_and(|purged| purged.index >= upto.index) {
            return VecDeque::new();
        }
        let gone = (upto.index + 1).saturating_sub(self.first);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.slots.len());
        let kept = self.slots.split_off(gone);
        let removed = std::mem::replace(&mut self.slots, kept);
        if let Some(last) = removed.back() {
            self.bytes_before = last.bytes_through;
        }
        self.first += removed.len() as u64;
        self.purged = Some(upto);
        removed
    }

    /// Whether the group has this entry, or one at its index of which no more is known yet.
    pub fn may_have(&self, log_id: &LogId) -> bool {
        let slot = self.slot(log_id.index);
        slot.is_some_and(|slot| slot.location.is_missing() || slot.leader == *log_id.committed_leader_id())
    }

    /// Notes that the entry now lies at `location`; returns where it lay.
    pub fn relocate(&mut self, log_id: &LogId, location: Location) -> Result<Location, Misfit> {
        let leader = *log_id.committed_leader_id();
        let known = self.may_have(log_id);
        let slot = self.slot_mut(log_id.index).filter(|_| known).ok_or(Misfit::MovedUnknown(*log_id))?;
        slot.leader = leader;
        Ok(std::mem::replace(&mut slot.location, location))
    }

    /// Payload bytes of the entries after `index`; of all entries when `None`. Constant time.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        let Some(index) = index else { return self.bytes_through_last() - self.bytes_before };
        match self.range() {
            Some((first, _)) if index < first => self.bytes_through_last() - self.bytes_before,
            Some((_, last)) if index < last => {
                let through = self.slot(index).map_or(self.bytes_before, |slot| slot.bytes_through);
                self.bytes_through_last() - through
            }
            _ => 0,
        }
    }

    fn bytes_through_last(&self) -> u64 {
        self.slots.back().map_or(self.bytes_before, |slot| slot.bytes_through)
    }

    /// Counts payload bytes anew, after moved entries filled what a checkpoint announced.
    pub fn recount_bytes(&mut self) {
        let mut through = self.bytes_before;
        for slot in &mut self.slots {
            through += slot.location.payload_bytes();
            slot.bytes_through = through;
        }
    }

    /// Index of the first entry that no frame has delivered.
    pub fn first_missing(&self) -> Option<u64> {
        self.entries().find(|(_, slot)| slot.location.is_missing()).map(|(index, _)| index)
    }
}

const STATE_BYTES: usize = 96;
const HAS_VOTE: u64 = 1;
const VOTE_GRANTED: u64 = 2;
const HAS_COMMITTED: u64 = 4;
const HAS_PURGED: u64 = 8;
const HAS_ENTRIES: u64 = 16;

/// No entry has a larger index: after the last one another must be able to come.
pub const INDEX_MAX: u64 = u64::MAX - 2;
/// Entries that a checkpoint may announce beyond those that the log can hold: they were purged meanwhile, and the segments
/// that held them are deleted.
const PURGED_SINCE_MAX: u64 = 1 << 24;

/// A group's state as a checkpoint carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    range: Option<(u64, u64)>,
}

impl GroupState {
    /// The state of the group now.
    pub fn of(index: &GroupIndex) -> Self {
        let GroupIndex { vote, committed, purged, .. } = *index;
        Self { vote, committed, purged, range: index.range() }
    }

    /// Appends the state's frame to a checkpoint.
    pub fn encode_to(&self, buffer: &mut Vec<u8>, group: GroupId, salt: Salt) {
        let mut flags = 0;
        let mut numbers = [0_u64; STATE_BYTES / 8];
        if let Some(vote) = &self.vote {
            flags |= HAS_VOTE | if vote.committed { VOTE_GRANTED } else { 0 };
            numbers[1..3].copy_from_slice(&[vote.leader_id.term, vote.leader_id.node_id]);
        }
        for (log_id, flag, at) in [(&self.committed, HAS_COMMITTED, 3), (&self.purged, HAS_PURGED, 6)] {
            if let Some(log_id) = log_id {
                flags |= flag;
                let leader = log_id.committed_leader_id();
                numbers[at..at + 3].copy_from_slice(&[leader.term, leader.node_id, log_id.index]);
            }
        }
        if let Some((first, last)) = self.range {
            flags |= HAS_ENTRIES;
            numbers[9..11].copy_from_slice(&[first, last]);
        }
        numbers[0] = flags;
        let mut payload = [0; STATE_BYTES];
        for (bytes, number) in payload.chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        frame::FrameHeader { kind: Kind::GroupState, flags: 0, group, term: 0, node: 0, index: 0 }
            .encode_to(buffer, salt, &payload);
    }

    /// Reads the payload of a checkpoint's frame.
    pub fn decode(payload: &[u8]) -> Result<Self, Misfit> {
        if payload.len() != STATE_BYTES {
            return Err(Misfit::MalformedCheckpoint);
        }
        let number = |at: usize| read_u64(payload, at * 8);
        let flags = number(0);
        let log_id = |flag, at| {
            (flags & flag != 0).then(|| entry_codec::log_id(number(at), number(at + 1), number(at + 2)))
        };
        let range = (flags & HAS_ENTRIES != 0).then(|| (number(9), number(10)));
        if range.is_some_and(|(first, last)| first > last || last > INDEX_MAX) {
            return Err(Misfit::MalformedCheckpoint);
        }
        let (committed, purged) = (log_id(HAS_COMMITTED, 3), log_id(HAS_PURGED, 6));
        if [committed, purged].into_iter().flatten().any(|position| position.index > INDEX_MAX) {
            return Err(Misfit::MalformedCheckpoint);
        }
        Ok(Self {
            vote: (flags & HAS_VOTE != 0).then(|| Vote {
                leader_id: entry_codec::leader_id(number(1), number(2)),
                committed: flags & VOTE_GRANTED != 0,
            }),
            committed,
            purged,
            range,
        })
    }

    /// The index of a group known only from a checkpoint: its entries are yet to be delivered by moved frames. Refuses to
    /// announce more of them than the log can hold frames.
    pub fn into_index(self, frames_max: u64) -> Result<GroupIndex, Misfit> {
        if self.range.is_some_and(|(first, last)| last - first >= frames_max.saturating_add(PURGED_SINCE_MAX))
        {
            return Err(Misfit::MalformedCheckpoint);
        }

        let missing = || Slot {
            leader: entry_codec::leader_id(0, 0),
            location: Location::MISSING,
            bytes_through: 0,
            cached: None,
        };
        let (first, slots) = match self.range {
            Some((first, last)) => (first, (first..=last).map(|_| missing()).collect()),
            None => (0, VecDeque::new()),
        };
        let Self { vote, committed, purged, .. } = self;
        Ok(GroupIndex { vote, committed, purged, first, slots, ..GroupIndex::default() })
    }
}

/// The frame of a position: its header.
pub fn position_frame(kind: Kind, group: GroupId, position: Option<&LogId>) -> frame::FrameHeader {
    match position {
        Some(log_id) => {
            let leader = log_id.committed_leader_id();
            let (term, node) = (leader.term, leader.node_id);
            frame::FrameHeader { kind, flags: 0, group, term, node, index: log_id.index }
        }
        None => frame::FrameHeader { kind, flags: NO_LOG_ID, group, term: 0, node: 0, index: 0 },
    }
}

/// The frame of a vote: its header.
pub fn vote_frame(group: GroupId, vote: &Vote) -> frame::FrameHeader {
    let flags = if vote.committed { GRANTED } else { 0 };
    let (term, node) = (vote.leader_id.term, vote.leader_id.node_id);
    frame::FrameHeader { kind: Kind::Vote, flags, group, term, node, index: 0 }
}
