//! See [`crate::bad_input`].

use std::path::Path;

use super::damage;
use super::frame::{self, FrameHeader, Kind, Salt};
use super::recovery;
use super::segment;
use crate::disk::Disk;

const SALT: Salt = Salt(0);
const KINDS: [Kind; 9] = [
    Kind::Blank,
    Kind::Command,
    Kind::Membership,
    Kind::Vote,
    Kind::TruncateAfter,
    Kind::Purge,
    Kind::Committed,
    Kind::GroupState,
    Kind::CheckpointEnd,
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
    for sequence in 1..=2 {
        let mut segment = segment::encode_start(sequence, SALT, std::iter::empty());
        if fields.next().is_some_and(|byte| byte % 2 == 0) {
            // The checkpoint is made of them, too.
            segment.truncate(segment::HEADER_BYTES);
        }
        let frames = if sequence == 1 { bytes.len() / 24 } else { usize::MAX };
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
            FrameHeader { kind, flags, group, term, node, index }.encode_to(&mut segment, SALT, &payload);
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
        let start = segment::encode_start(9, SALT, std::iter::once((*group, index)));
        assert!(segment::decode_header(&start).is_ok());
    }
}
