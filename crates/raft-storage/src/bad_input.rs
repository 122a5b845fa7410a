//! Ways in for bytes that nobody vouches for, as property tests and the fuzz targets in `fuzz/` take them.
//!
//! None may panic, nor take more memory than a small multiple of what it was given, whatever lengths the bytes claim.

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::faulty_disk::FaultyDisk;
use crate::log::bad_input as log;
use crate::state_store::StateStore;
use crate::types::GroupId;

const DIRECTORY: &str = "/log";

/// The bytes as frames of a log.
pub fn frames(bytes: &[u8]) {
    log::frames(bytes);
}

/// The bytes as the only segment of a log that is recovered.
pub fn segment(bytes: &[u8]) {
    recover(&[bytes.to_vec()]);
}

/// The bytes as the fields of frames whose checksums are right, in two segments: what only a program with a bug writes.
pub fn well_formed_frames(bytes: &[u8]) {
    recover(&log::segments_of_fields(bytes));
}

fn recover(segments: &[Vec<u8>]) {
    let disk = FaultyDisk::new();
    for (sequence, bytes) in (1..).zip(segments) {
        disk.set_content(&Path::new(DIRECTORY).join(format!("{sequence:020}.log")), bytes.clone());
    }
    log::recover(&disk, Path::new(DIRECTORY));
}

/// The bytes as a snapshot that a peer sends, cut into chunks.
///
/// # Errors
/// When they are none.
pub async fn snapshot(store: &StateStore, partition: GroupId, bytes: &[u8]) -> io::Result<()> {
    let mut receiver = store.snapshot_receiver(partition)?;
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    for chunk in [first, rest] {
        receiver.push(Bytes::copy_from_slice(chunk)).await?;
    }
    receiver.finish().await.map(drop)
}
