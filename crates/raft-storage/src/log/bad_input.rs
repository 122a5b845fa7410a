//! See [`crate::bad_input`].

use std::path::Path;

use super::batches;
use super::damage;
use super::frame::{self, FrameHeader, Kind, Salt};
use super::recovery;
use super::segment;
use crate::disk::Disk;

const SALT: Salt = Salt(0);
const KINDS: [Kind; 10] = [
    Kind::Blank,
    Kind::Command,
    Kind::Membership,
    Kind::Vote,
    Kind::TruncateAfter,
    Kind::Purge,
    Kind::Committed,
    Kind::GroupState,
    Kind::CheckpointEnd,
    Kind::Batch,
];
const FLAGS: [u16; 5] = [0, 0, frame::MOVED, frame::GRANTED, frame::NO_LOG_ID];
/// Numbers that are worth trying beside small ones.
const NUMBERS: [u64; 6] = [u64::MAX, u64::MAX - 1, 1 << 63, u32::MAX as u64, 1 << 32, 1 << 40];

pub fn frames(bytes: &[u8]) {
    let _ = frame::decode(bytes, SALT);
    let from = frame::find_valid(bytes, 0, SALT);
    assert!(from.is_none_or(|from| frame::decode(&bytes[from..], SALT).is_ok()));
}

/// Segments with right checksums whose frames, checkpoint included, are made of these bytes.
pub fn segments_of_fields(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = bytes.iter().copied();
    let mut segments = Vec::new();
    let mut next_batch = 1;
    for sequence in 1..=2 {
        let mut segment = segment::encode_start(sequence, SALT, next_batch, std::iter::empty());
        let mut checkpoint_is_open = fields.next().is_some_and(|byte| byte % 2 == 0);
        if checkpoint_is_open {
            // The checkpoint is made of them, too.
            segment.truncate(segment::HEADER_BYTES);
        }
        let frames = if sequence == 1 { bytes.len() / 24 } else { usize::MAX };
        let mut batch = vec![0; frame::HEADER_BYTES];
        for _ in 0..frames {
            let Some(kind) = fields.next() else { break };
            let mut number = || match fields.next().unwrap_or(0) {
                byte if byte >= 250 => NUMBERS[usize::from(byte - 250)],
                byte => u64::from(byte % 8),
            };
            let flags = FLAGS[number() as usize % FLAGS.len()];
            let group = number() as u32;
            let (term, node, index) = (number(), number(), number());
            let kind = KINDS[usize::from(kind) % KINDS.len()];
            let payload: Vec<u8> = match kind {
                Kind::GroupState => (0..12).flat_map(|_| number().to_le_bytes()).collect(),
                Kind::Command | Kind::Membership => (0..number() % 16).map(|byte| byte as u8).collect(),
                _ => Vec::new(),
            };
            let header = FrameHeader { kind, flags, group, term, node, index };
            if checkpoint_is_open && matches!(kind, Kind::GroupState | Kind::CheckpointEnd) {
                header.encode_to(&mut segment, SALT, &payload);
                checkpoint_is_open = kind != Kind::CheckpointEnd;
                continue;
            }
            checkpoint_is_open = false;
            header.encode_to(&mut batch, SALT, &payload);
            if index % 3 == 0 {
                batches::seal(&mut batch, next_batch, SALT);
                next_batch += 1;
                segment.append(&mut batch);
                batch.resize(frame::HEADER_BYTES, 0);
            }
        }
        if batch.len() > frame::HEADER_BYTES {
            batches::seal(&mut batch, next_batch, SALT);
            next_batch += 1;
            segment.append(&mut batch);
        }
        segments.push(segment);
    }
    segments
}

pub fn recover(disk: &dyn Disk, directory: &Path) {
    let affected = damage::affected_groups(disk, directory);
    let Ok(recovered) = recovery::recover(disk, directory, SALT) else { return };
    // What opens is whole, unless it is newer than what was looked at.
    assert_eq!(affected.ok(), Some(damage::Affected::none()));
    // What is recovered can be written down again.
    for (group, index) in &recovered.groups {
        let start = segment::encode_start(9, SALT, 1, std::iter::once((*group, index)));
        assert!(segment::decode_header(&start).is_ok());
    }
}
