//! Bookkeeping of the entries kept in memory: first in, first out, within a byte budget over all groups.
//!
//! The payloads themselves sit in the groups' indexes. An entry is never evicted before it is durable: until then
//! memory is the only place to read it from.

use std::collections::VecDeque;

use super::group_index::Location;
use crate::types::GroupId;

/// Bytes of memory charged for an entry besides its payload, gone or not: this bounds the queue.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// An entry that was put in the cache and may have left it since.
#[derive(Debug)]
pub struct CachedEntry {
    pub group: GroupId,
    pub index: u64,
    pub location: Location,
    /// Number of the batch that makes the entry durable.
    pub batch: u64,
}

/// See the module.
#[derive(Debug)]
pub struct EntryCache {
    queue: VecDeque<CachedEntry>,
    payload_bytes: u64,
    bytes_max: u64,
}

impl EntryCache {
    /// An empty cache with this budget.
    pub fn new(bytes_max: u64) -> Self {
        Self { queue: VecDeque::new(), payload_bytes: 0, bytes_max }
    }

    /// Notes that the entry's payload is now kept.
    pub fn added(&mut self, entry: CachedEntry) {
        self.payload_bytes += entry.location.payload_bytes();
        self.queue.push_back(entry);
    }

    /// Notes that a payload of this location is no longer kept.
    pub fn removed(&mut self, location: &Location) {
        self.payload_bytes = self.payload_bytes.saturating_sub(location.payload_bytes());
    }

    /// The next entry to evict, while the cache is over its budget and the oldest entry is durable.
    pub fn next_to_evict(&mut self, durable_batch: u64) -> Option<CachedEntry> {
        let charged = self.payload_bytes + self.queue.len() as u64 * ENTRY_OVERHEAD_BYTES;
        if charged <= self.bytes_max || self.queue.front()?.batch > durable_batch {
            return None;
        }
        self.queue.pop_front()
    }
}
