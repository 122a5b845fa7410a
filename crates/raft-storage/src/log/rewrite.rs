//! Laggard rewrite: moving the last live entries out of the oldest segment, so that it can be deleted.
//!
//! Only the oldest segment is ever deleted, so one idle group's entry would keep every later segment. The oldest is
//! emptied when little of it is alive, or when most of the log is dead and waits behind it; either way at most
//! about as much is rewritten as is freed. Votes and positions need no moving: each segment's checkpoint has them.

use std::collections::BTreeMap;

use metrics::counter;

use super::entry_codec;
use super::entry_source::{EntrySource, read_all};
use super::frame::MOVED;
use super::group_index::Location;
use super::log_core::{LogCore, Segment};
use super::log_error::LogFailure;
use super::segment;
use super::shared_log::LogShared;
use crate::metric_definitions as names;
use crate::types::GroupId;

/// Bytes moved in one round, so that appends do not wait long.
const ROUND_BYTES_MAX: u64 = 1 << 20;
/// The oldest segment is emptied when at most one byte in this many is alive.
const OLDEST_DEAD_RATIO: u64 = 4;
/// With this many finished segments, the oldest is emptied also when the whole log is mostly dead ...
const MOSTLY_DEAD_SEGMENTS_MIN: usize = 4;
/// ... that is, when at most one byte in this many is alive.
const MOSTLY_DEAD_RATIO: u64 = 2;

/// Whether the oldest segment should be emptied, given all segments and the one being written. Pure.
pub fn should_empty_oldest(segments: &BTreeMap<u64, Segment>, open_segment: u64) -> bool {
    let Some((sequence, oldest)) = segments.first_key_value() else { return false };
    if *sequence >= open_segment || oldest.live_bytes == 0 {
        return false;
    }
    if oldest.live_bytes * OLDEST_DEAD_RATIO <= oldest.frame_bytes() {
        return true;
    }
    let finished = || segments.range(..open_segment).map(|(_, segment)| segment);
    let bytes: u64 = finished().map(Segment::frame_bytes).sum();
    let live_bytes: u64 = finished().map(|segment| segment.live_bytes).sum();
    finished().count() >= MOSTLY_DEAD_SEGMENTS_MIN && live_bytes * MOSTLY_DEAD_RATIO <= bytes
}

struct Laggard {
    group: GroupId,
    location: Location,
    source: EntrySource,
}

fn choose(core: &LogCore) -> Vec<Laggard> {
    let mut chosen = Vec::new();
    let Some((sequence, oldest)) = core.segments.first_key_value() else { return chosen };
    let mut bytes = 0;
    for (group, frames) in oldest.live_groups() {
        let Some(index) = core.groups.get(&group) else { continue };
        let inside = index.entries().filter(|(_, slot)| slot.location.segment == *sequence);
        for (entry_index, slot) in inside.take(usize::try_from(frames).unwrap_or(usize::MAX)) {
            if bytes >= ROUND_BYTES_MAX {
                return chosen;
            }
            bytes += u64::from(slot.location.bytes);
            let Some(source) = EntrySource::of(core, entry_index, slot) else { continue };
            chosen.push(Laggard { group, location: slot.location, source });
        }
    }
    chosen
}

impl LogShared {
    /// Queues some entries of the oldest segment again, when it should be emptied. True when any was queued.
    pub(super) fn rewrite_laggards(&self) -> Result<bool, LogFailure> {
        let laggards = {
            let core = self.core.lock();
            if core.failure.is_some()
                || core.closing
                || !should_empty_oldest(&core.segments, core.written_segment())
            {
                return Ok(false);
            }
            choose(&core)
        };
        let salt = self.salt;
        let mut encoded = Vec::with_capacity(laggards.len());
        for Laggard { group, location, source } in laggards {
            let failed = |reason: String| LogFailure {
                action: "rewrite",
                path: segment::path(&self.options.directory, location.segment),
                reason,
            };
            let mut entries =
                read_all(vec![source], group, salt).map_err(|error| failed(error.to_string()))?;
            let Some(entry) = entries.pop() else { continue };
            let entry =
                entry_codec::encode(group, entry, MOVED, salt).map_err(|error| failed(error.to_string()))?;
            encoded.push((group, entry, location));
        }
        let mut core = self.core.lock();
        let moved: u64 =
            encoded.into_iter().map(|(group, entry, from)| core.move_forward(group, entry, from)).sum();
        drop(core);
        counter!(names::LOG_REWRITTEN_BYTES).increment(moved);
        Ok(moved > 0)
    }
}
