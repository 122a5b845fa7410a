//! The log's state in memory, under one lock: the groups, the segments, and the batch that gathers.
//!
//! No I/O happens here. Callers queue frames; the committer takes the batch, writes it and reports back. A frame's
//! location is known when it is queued, because frames reach the disk exactly in that order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::entry_cache::{CachedEntry, EntryCache};
use super::entry_codec::EncodedEntry;
use super::frame::{self, FrameHeader, Kind, Salt};
use super::group_index::{GroupIndex, Location, Misfit, Slot, position_frame, vote_frame};
use super::log_error::{LogFailure, LogRefusal};
use super::recovery::{Recovered, RecoveredSegment};
use super::segment;
use crate::disk::DiskFile;
use crate::types::raft::{LogId, Vote};
use crate::types::{GroupId, TypeConfig};

/// Somebody who waits until what was queued is durable.
pub enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<Result<(), Arc<LogFailure>>>),
}

impl Waiter {
    /// Reports the outcome.
    pub fn complete(self, outcome: &Result<(), Arc<LogFailure>>) {
        match self {
            Self::Raft(callback) => {
                callback.io_completed(outcome.clone().map_err(|failure| LogRefusal::Failed(failure).into()));
            }
            // A caller that went away needs no answer.
            Self::Caller(sender) => drop(sender.send(outcome.clone())),
        }
    }
}

/// Live entries of a group in a segment.
#[derive(Debug, Default, Clone, Copy)]
struct LiveEntries {
    frames: u64,
    bytes: u64,
}

/// A segment file and what in it is still needed.
#[derive(Debug, Default)]
pub struct Segment {
    /// `None` until the committer has created it.
    pub file: Option<Arc<dyn DiskFile>>,
    /// Bytes queued for it so far.
    pub bytes: u64,
    /// Bytes of its header and checkpoint.
    pub start_bytes: u64,
    pub live_bytes: u64,
    live: BTreeMap<GroupId, LiveEntries>,
}

impl Segment {
    fn add(&mut self, group: GroupId, location: &Location) {
        let live = self.live.entry(group).or_default();
        live.frames += 1;
        live.bytes += u64::from(location.bytes);
        self.live_bytes += u64::from(location.bytes);
    }

    fn release(&mut self, group: GroupId, location: &Location) {
        let Some(live) = self.live.get_mut(&group) else { return };
        live.frames = live.frames.saturating_sub(1);
        live.bytes = live.bytes.saturating_sub(u64::from(location.bytes));
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(location.bytes));
        if live.frames == 0 {
            self.live.remove(&group);
        }
    }

    /// Bytes of frames behind the checkpoint.
    pub fn frame_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.start_bytes)
    }

    /// Groups with live entries here, and how many.
    pub fn live_groups(&self) -> impl Iterator<Item = (GroupId, u64)> {
        self.live.iter().map(|(group, live)| (*group, live.frames))
    }
}

/// A new segment to be created behind a batch.
pub struct Rotation {
    pub sequence: u64,
    pub start: Vec<u8>,
}

/// What the committer takes at once.
pub struct Batch {
    pub number: u64,
    pub bytes: Vec<u8>,
    pub frames: u64,
    pub waiters: Vec<Waiter>,
    /// Where the bytes go.
    pub segment: u64,
    pub offset: u64,
    pub file: Option<Arc<dyn DiskFile>>,
    /// After the batch is durable: the segment that comes next.
    pub rotation: Option<Rotation>,
    /// After the batch is durable: the oldest segment, when nothing in it is needed any more.
    pub deletable: Option<u64>,
}

/// See the module.
pub struct LogCore {
    pub salt: Salt,
    pub groups: BTreeMap<GroupId, GroupIndex>,
    pub segments: BTreeMap<u64, Segment>,
    /// The segment and offset of the next frame to be queued.
    open_segment: u64,
    open_offset: u64,
    segment_bytes_max: u64,
    /// What gathers. It begins with room for the batch's own frame.
    number: u64,
    bytes: Vec<u8>,
    frames: u64,
    waiters: Vec<Waiter>,
    flush_wanted: bool,
    /// Where the gathering batch begins.
    batch_start: (u64, u64),
    /// The other buffer, while no batch is being written.
    spare: Vec<u8>,
    committed_unwritten: Vec<GroupId>,
    cache: EntryCache,
    durable_batch: u64,
    /// Frames before this segment and offset are durable.
    pub durable_until: (u64, u64),
    pub failure: Option<Arc<LogFailure>>,
    pub closing: bool,
}

/// A buffer that grew beyond this is given back to the allocator after its batch.
const SPARE_BYTES_MAX: usize = 8 << 20;

impl LogCore {
    /// The state after recovery.
    pub fn new(recovered: Recovered, segment_bytes_max: u64, cache_bytes_max: u64) -> Self {
        let Recovered { salt, segments, groups, next_batch } = recovered;
        let mut segments: BTreeMap<u64, Segment> = (segments.into_iter())
            .map(|found| {
                let RecoveredSegment { sequence, file, bytes, start_bytes } = found;
                (sequence, Segment { file: Some(file), bytes, start_bytes, ..Segment::default() })
            })
            .collect();
        for (group, index) in &groups {
            for (_, slot) in index.entries() {
                if let Some(segment) = segments.get_mut(&slot.location.segment) {
                    segment.add(*group, &slot.location);
                }
            }
        }
        let (open_segment, open_offset) =
            segments.last_key_value().map_or((1, 0), |(sequence, segment)| (*sequence, segment.bytes));
        Self {
            salt,
            groups,
            segments,
            open_segment,
            open_offset,
            segment_bytes_max,
            number: next_batch,
            bytes: Vec::new(),
            frames: 0,
            waiters: Vec::new(),
            flush_wanted: false,
            batch_start: (open_segment, open_offset),
            spare: Vec::new(),
            committed_unwritten: Vec::new(),
            cache: EntryCache::new(cache_bytes_max),
            durable_batch: next_batch.saturating_sub(1),
            durable_until: (open_segment, open_offset),
            failure: None,
            closing: false,
        }
    }

    /// Refuses once the log failed or closes.
    pub fn check_usable(&self) -> Result<(), LogRefusal> {
        match &self.failure {
            Some(failure) => Err(LogRefusal::Failed(failure.clone())),
            None if self.closing => Err(LogRefusal::Closed),
            None => Ok(()),
        }
    }

    /// Bytes that gather.
    pub fn queued_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The segment that the next batch goes to.
    pub fn written_segment(&self) -> u64 {
        self.batch_start.0
    }

    /// Whether anybody waits or anything but a riding committed position is queued.
    pub fn has_batch(&self) -> bool {
        !self.bytes.is_empty() || !self.waiters.is_empty() || self.flush_wanted
    }

    fn queue(&mut self, header: &[u8; frame::HEADER_BYTES], body: &[u8]) -> Location {
        if self.bytes.is_empty() {
            self.bytes.resize(frame::HEADER_BYTES, 0);
            self.open_offset += frame::HEADER_BYTES as u64;
        }
        let bytes = (frame::HEADER_BYTES + body.len()) as u32;
        let location = Location { segment: self.open_segment, offset: self.open_offset, bytes };
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(body);
        self.frames += 1;
        self.open_offset += u64::from(bytes);
        location
    }

    fn queue_frame(&mut self, header: &FrameHeader) {
        let header = header.encode(self.salt, &[]);
        self.queue(&header, &[]);
    }

    /// Queues entries; `waiter` is told when they are durable. All or none.
    pub fn append(
        &mut self,
        group: GroupId,
        entries: Vec<EncodedEntry>,
        waiter: Waiter,
    ) -> Result<(), (Waiter, Misfit)> {
        // No group may come to be without a frame: recovery would not know of it.
        let first = entries.first().map_or(0, |encoded| encoded.entry.log_id.index);
        if let (Some(index), false) = (self.groups.get(&group), entries.is_empty())
            && let Err(misfit) = index.check_append(first)
        {
            return Err((waiter, misfit));
        }
        let found = entries.iter().map(|encoded| encoded.entry.log_id.index);
        if let Some((found, expected)) = found.zip(first..).find(|(found, expected)| found != expected) {
            return Err((waiter, Misfit::Gap { expected, found }));
        }
        for encoded in entries {
            let location = self.queue(&encoded.header, &encoded.body);
            let entry = encoded.entry;
            let index = self.groups.entry(group).or_default();
            index.push(&entry.log_id, location, Some(entry.payload));
            self.keep(group, entry.log_id.index, location);
        }
        self.waiters.push(waiter);
        self.evict();
        Ok(())
    }

    /// Notes a new location of a live entry whose payload is in its slot.
    fn keep(&mut self, group: GroupId, index: u64, location: Location) {
        self.segments.entry(location.segment).or_default().add(group, &location);
        self.cache.added(CachedEntry { group, index, location, batch: self.number });
    }

    /// Queues an entry again, if it still lies where it was read; returns the bytes queued.
    pub fn move_forward(&mut self, group: GroupId, encoded: EncodedEntry, from: Location) -> u64 {
        let log_id = encoded.entry.log_id;
        let slot = self.groups.get(&group).and_then(|index| index.slot(log_id.index));
        if slot.is_none_or(|slot| slot.location != from) {
            return 0;
        }
        let location = self.queue(&encoded.header, &encoded.body);
        let Some(index) = self.groups.get_mut(&group) else { return 0 };
        // It was durable where it lay, and stays so until the new place is.
        index.moved_through = index.moved_through.max(Some(log_id.index));
        let Some(slot) = index.slot_mut(log_id.index) else { return 0 };
        slot.location = location;
        if slot.cached.replace(encoded.entry.payload).is_some() {
            self.cache.removed(&from);
        }
        if let Some(segment) = self.segments.get_mut(&from.segment) {
            segment.release(group, &from);
        }
        self.keep(group, log_id.index, location);
        u64::from(location.bytes)
    }

    /// Queues a vote.
    pub fn save_vote(&mut self, group: GroupId, vote: Vote, waiter: Waiter) {
        self.queue_frame(&vote_frame(group, &vote));
        self.groups.entry(group).or_default().vote = Some(vote);
        self.waiters.push(waiter);
    }

    /// Notes a committed position; its frame goes with the next batch.
    pub fn save_committed(&mut self, group: GroupId, committed: Option<LogId>) {
        let index = self.groups.entry(group).or_default();
        index.committed = committed;
        if !std::mem::replace(&mut index.committed_unwritten, true) {
            self.committed_unwritten.push(group);
        }
    }

    fn queue_committed(&mut self, group: GroupId) {
        let Some(index) = self.groups.get_mut(&group) else { return };
        if std::mem::take(&mut index.committed_unwritten) {
            let committed = index.committed;
            self.queue_frame(&position_frame(Kind::Committed, group, committed.as_ref()));
        }
    }

    /// Queues a truncation. Returns the removed entries, to be dropped without the lock.
    pub fn truncate_after(&mut self, group: GroupId, last: Option<&LogId>, waiter: Waiter) -> VecDeque<Slot> {
        self.queue_frame(&position_frame(Kind::TruncateAfter, group, last));
        let removed = self.groups.entry(group).or_default().truncate_after(last.map(|log_id| log_id.index));
        self.release(group, &removed);
        self.waiters.push(waiter);
        removed
    }

    /// Queues a purge. Returns the removed entries, to be dropped without the lock.
    pub fn purge(&mut self, group: GroupId, upto: LogId) -> VecDeque<Slot> {
        // First, so that no crash leaves more purged than committed.
        self.queue_committed(group);
        self.queue_frame(&position_frame(Kind::Purge, group, Some(&upto)));
        let removed = self.groups.entry(group).or_default().purge(upto);
        self.release(group, &removed);
        removed
    }

    fn release(&mut self, group: GroupId, removed: &VecDeque<Slot>) {
        for slot in removed {
            if let Some(segment) = self.segments.get_mut(&slot.location.segment) {
                segment.release(group, &slot.location);
            }
            if slot.cached.is_some() {
                self.cache.removed(&slot.location);
            }
        }
    }

    fn evict(&mut self) {
        while let Some(victim) = self.cache.next_to_evict(self.durable_batch) {
            let slot = self.groups.get_mut(&victim.group).and_then(|index| index.slot_mut(victim.index));
            if let Some(slot) = slot.filter(|slot| slot.location == victim.location)
                && slot.cached.take().is_some()
            {
                self.cache.removed(&victim.location);
            }
        }
    }

    /// Takes what gathered, committed positions included, and starts the next batch. When the segment is full
    /// behind it, the batch carries the next segment's start: the state of the groups at exactly this point.
    pub fn take_batch(&mut self) -> Batch {
        for group in std::mem::take(&mut self.committed_unwritten) {
            self.queue_committed(group);
        }
        self.flush_wanted = false;
        // A batch without frames is not written, and takes no number.
        let next = self.number + u64::from(!self.bytes.is_empty());
        let (segment, offset) = self.batch_start;
        let written_to = self.segments.entry(segment).or_default();
        written_to.bytes = self.open_offset;
        let file = written_to.file.clone();
        let rotation = (self.open_offset >= self.segment_bytes_max).then(|| {
            let sequence = segment + 1;
            let groups = self.groups.iter().map(|(group, index)| (*group, index));
            let start = segment::encode_start(sequence, self.salt, next, groups);
            (self.open_segment, self.open_offset) = (sequence, start.len() as u64);
            let start_bytes = start.len() as u64;
            self.segments.insert(sequence, Segment { bytes: start_bytes, start_bytes, ..Segment::default() });
            Rotation { sequence, start }
        });
        self.batch_start = (self.open_segment, self.open_offset);
        let deletable = self.take_deletable();
        let batch = Batch {
            number: next - 1,
            bytes: std::mem::replace(&mut self.bytes, std::mem::take(&mut self.spare)),
            frames: std::mem::take(&mut self.frames),
            waiters: std::mem::take(&mut self.waiters),
            segment,
            offset,
            file,
            rotation,
            deletable,
        };
        self.number = next;
        batch
    }

    /// Forgets the oldest segment, when nothing in it is needed as of the end of what is queued, and returns it.
    pub fn take_deletable(&mut self) -> Option<u64> {
        let (sequence, oldest) = self.segments.first_key_value()?;
        let sequence = *sequence;
        if sequence >= self.batch_start.0 || oldest.live_bytes > 0 || oldest.file.is_none() {
            return None;
        }
        self.segments.remove(&sequence);
        Some(sequence)
    }

    /// Notes that the batch is durable and takes its buffer back.
    pub fn batch_durable(&mut self, number: u64, mut buffer: Vec<u8>) {
        self.durable_batch = number;
        buffer.clear();
        if buffer.capacity() <= SPARE_BYTES_MAX {
            self.spare = buffer;
        }
        self.evict();
    }

    /// `waiter` is told when everything queued so far is durable.
    pub fn wait(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    /// Makes a batch due even if only committed positions wait to ride with one.
    pub fn flush_all(&mut self) {
        self.flush_wanted = true;
    }

    /// Everybody who waits for what gathers; for when the log failed.
    pub fn take_waiters(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiters)
    }
}
