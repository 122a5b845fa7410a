//! The shared write-ahead log of a broker: all its Raft groups append to one stream of frames.
//!
//! # Layout
//!
//! The log is a directory of segments `<sequence, 20 digits>.log`, numbered without gaps. A segment is a header
//! ([`segment`]), a checkpoint (the state of every group when the segment began: vote, committed, purged, range of
//! entries), then batches ([`batches`]) of frames ([`frame`]) in the order in which they were queued:
//!
//! ```text
//! segment = header checkpoint batch* room
//! header  = magic[8] version:u32 crc:u32 sequence:u64 salt:u64 first_batch:u64
//! batch   = a frame that says number, length and checksum of what follows; frame*
//! frame   = crc:u32 length:u32 magic:u8 kind:u8 flags:u16 group:u32 term:u64 node:u64 index:u64 payload[length]
//! ```
//!
//! Numbers are little-endian; `crc` is CRC32C over the log's random salt and everything behind the `crc` field. The
//! salt keeps a client's value from passing for a frame. A command's payload is written as it came.
//!
//! # Positions
//!
//! For every group `purged ≤ snapshot ≤ applied ≤ committed ≤ flushed ≤ appended`. The log keeps purged, committed
//! (a hint for restart, never ahead of the truth), flushed (what [`committer`] has reported) and appended; snapshot
//! and applied belong to the state machine, which makes them durable before it lets the log purge.
//!
//! # Durability
//!
//! One committer takes everything queued, writes it with one call, syncs once and then completes every caller;
//! meanwhile the next batch gathers. It writes into room that the segment was given before, a megabyte at a time, so that
//! most syncs find the file's length and blocks as they were and the file system has only the data to write. A segment's
//! header and checkpoint are durable before its name is, and its name before its first frame. Votes, appends and truncations are reported when durable; purges and committed
//! positions ride with the next batch. A batch that finds the disk full waits for room; any other failed write, and any
//! failed sync, ends the log: nothing is retried, everything fails.
//!
//! # Recovery
//!
//! A batch that does not check, with no later one anywhere, is a torn write: it was never acknowledged, and the log goes on in
//! its place. Anything else that does not check is corruption and stops the start ([`recovery`]). What it concerns is told by
//! [`damage`]; [`forget`] writes the log anew without it.
//!
//! # Space
//!
//! A segment is deleted, oldest first, when no live entry is in it; since every segment begins with a checkpoint,
//! votes and positions never hold an old one back. Entries of slow or idle groups that do are written again at the
//! end of the log ([`rewrite`]).
//!
//! # Cost of an append
//!
//! Under load one fdatasync is shared by every append that queued during the previous one; alone, one each. The
//! payload is copied once, into the batch; readers share it from the cache without a copy. One small allocation per
//! call, none per entry. Checksums are computed before the one lock is taken; under it an append takes a copy and
//! about 100 ns per entry.

pub(crate) mod bad_input;
mod batches;
mod committer;
mod damage;
mod entry_cache;
mod entry_codec;
mod entry_source;
mod forget;
mod frame;
mod group_index;
mod group_log;
mod log_core;
mod log_error;
mod recovery;
mod rewrite;
mod segment;
mod shared_log;

#[cfg(test)]
mod tests;

pub use batches::last_write;
pub use damage::{Affected, affected_groups, is_whole};
pub use forget::{ForgetError, copy_without};
pub use group_log::GroupLog;
pub use log_error::{LogFailure, LogRefusal, OpenLogError};
pub use shared_log::{CommitterDriver, LogOptions, SharedLog};
