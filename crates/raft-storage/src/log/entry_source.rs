//! Where an entry can be read from, and reading it without the log's lock.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::entry_codec::decode_payload;
use super::frame::{self, Salt};
use super::group_index::{Location, Slot};
use super::log_core::LogCore;
use crate::disk::DiskFile;
use crate::types::GroupId;
use crate::types::raft::{Entry, LogId};

/// Stored entries that lie at most this far apart in a segment are read at once ...
const READ_GAP_BYTES_MAX: u64 = 4 << 10;
/// ... up to this much.
const READ_BYTES_MAX: u64 = 1 << 20;

/// An entry, or where it is stored. Stays valid when the entry is purged or its segment deleted meanwhile.
pub enum EntrySource {
    Cached(Entry),
    Stored { log_id: LogId, location: Location, file: Arc<dyn DiskFile> },
}

impl EntrySource {
    /// The source of the entry in `slot`.
    pub fn of(core: &LogCore, index: u64, slot: &Slot) -> Option<Self> {
        let log_id = LogId::new(slot.leader, index);
        if let Some(payload) = &slot.cached {
            return Some(Self::Cached(Entry { log_id, payload: payload.clone() }));
        }
        let file = core.segments.get(&slot.location.segment)?.file.clone()?;
        Some(Self::Stored { log_id, location: slot.location, file })
    }
}

/// Reads all sources of a group, in order, checking every stored frame.
pub fn read_all(sources: Vec<EntrySource>, group: GroupId, salt: Salt) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(sources.len());
    let mut next = 0;
    while let Some(source) = sources.get(next) {
        match source {
            EntrySource::Cached(entry) => {
                entries.push(entry.clone());
                next += 1;
            }
            EntrySource::Stored { location, file, .. } => {
                let run = run_length(&sources[next..]);
                let start = location.offset;
                let end = match &sources[next + run - 1] {
                    EntrySource::Stored { location, .. } => location.offset + u64::from(location.bytes),
                    EntrySource::Cached(_) => start,
                };
                let mut buffer = vec![0; (end - start) as usize];
                file.read_exact_at(&mut buffer, start)?;
                let buffer = Bytes::from(buffer);
                for source in &sources[next..next + run] {
                    if let EntrySource::Stored { log_id, location, .. } = source {
                        let from = (location.offset - start) as usize;
                        entries.push(decode(
                            &buffer.slice(from..from + location.bytes as usize),
                            log_id,
                            group,
                            salt,
                            location,
                        )?);
                    }
                }
                next += run;
            }
        }
    }
    Ok(entries)
}

/// How many sources, from the first on, are stored close enough together to be read at once. At least 1.
fn run_length(sources: &[EntrySource]) -> usize {
    let mut first_offset = None;
    let mut previous: Option<Location> = None;
    let mut length = 0;
    for source in sources {
        let EntrySource::Stored { location, .. } = source else { break };
        let begin = *first_offset.get_or_insert(location.offset);
        if let Some(previous) = previous {
            let previous_end = previous.offset + u64::from(previous.bytes);
            let is_near = location.segment == previous.segment
                && location.offset >= previous_end
                && location.offset - previous_end <= READ_GAP_BYTES_MAX
                && location.offset + u64::from(location.bytes) - begin <= READ_BYTES_MAX;
            if !is_near {
                break;
            }
        }
        previous = Some(*location);
        length += 1;
    }
    length.max(1)
}

fn decode(
    bytes: &Bytes,
    log_id: &LogId,
    group: GroupId,
    salt: Salt,
    location: &Location,
) -> io::Result<Entry> {
    let damaged = |what: String| {
        let Location { segment, offset, .. } = location;
        let message =
            format!("log segment {segment}, byte {offset}: entry {log_id} of group {group}: {what}");
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let (header, payload) = frame::decode(bytes, salt).map_err(|bad| damaged(bad.to_string()))?;
    let leader = log_id.committed_leader_id();
    let found = (header.group, header.term, header.node, header.index);
    if !header.kind.is_entry() || found != (group, leader.term, leader.node_id, log_id.index) {
        return Err(damaged(format!("another frame lies there: {header:?}")));
    }
    let payload =
        decode_payload(&header, bytes.slice_ref(payload)).map_err(|error| damaged(error.to_string()))?;
    Ok(Entry { log_id: *log_id, payload })
}
