//! Batches: what the committer writes and syncs at once, and how recovery tells a torn one from damage. Pure.
//!
//! A batch is a frame of its own kind, which says the batch's number, length and checksum, and then the frames that were
//! queued. Numbers grow by one through all segments; a segment's header says its first. The next batch is written only after
//! the one before is durable. So:
//! - a batch that does not check, with a later one behind it, was durable and is damaged;
//! - so is one that a later segment's first number says was there;
//! - any other is the log's end: nothing of it was acknowledged, whatever of it the disk kept, in whatever order.
//!
//! Bytes behind the last batch count for nothing: a segment is given room before it is written to.

use std::ops::Range;

use super::frame::{self, FrameHeader, HEADER_BYTES, Kind, Salt};
use super::segment;

/// What a batch's own frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub number: u64,
    /// Bytes of the frames in it.
    pub bytes: u64,
    /// CRC32C of them.
    pub checksum: u32,
}

impl BatchHeader {
    fn of(header: &FrameHeader) -> Option<Self> {
        let checksum = u32::try_from(header.node).ok()?;
        (header.kind == Kind::Batch).then_some(Self { number: header.index, bytes: header.term, checksum })
    }

    fn frame(&self) -> FrameHeader {
        let (term, node) = (self.bytes, u64::from(self.checksum));
        FrameHeader { kind: Kind::Batch, flags: 0, group: 0, term, node, index: self.number }
    }
}

/// Completes a batch that began with room for its header.
pub fn seal(batch: &mut [u8], number: u64, salt: Salt) {
    let Some((header, frames)) = batch.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    let sealed = BatchHeader { number, bytes: frames.len() as u64, checksum: crc32c::crc32c(frames) };
    *header = sealed.frame().encode(salt, &[]);
}

/// A stretch of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stretch {
    /// The frames of a batch that checks.
    Frames(Range<usize>),
    /// What was durable and does not check, batch headers included.
    Damaged(Range<usize>),
}

/// Goes through a segment's batches.
#[derive(Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    salt: Salt,
    /// Where the next batch begins. At the end: where the log goes on.
    pub offset: usize,
    /// Number of the next batch.
    pub next: u64,
    /// Number of the next segment's first batch; `None` for the last segment.
    until: Option<u64>,
    /// Whether a batch begins at the end of which not everything is there.
    pub torn: bool,
}

impl<'a> Batches<'a> {
    /// `offset` is behind the segment's checkpoint.
    pub fn new(bytes: &'a [u8], salt: Salt, offset: usize, first: u64, until: Option<u64>) -> Self {
        Self { bytes, salt, offset, next: first, until, torn: false }
    }

    fn header_at(&self, offset: usize) -> Option<BatchHeader> {
        let head = self.bytes.get(offset..)?.first_chunk::<HEADER_BYTES>()?;
        BatchHeader::of(&frame::decode_parts(head, &[], self.salt)?)
    }

    /// Where the frames of the batch at `offset` lie, as far as they are there, if it is the one that comes next.
    fn expected_at(&self, offset: usize) -> Option<(BatchHeader, Range<usize>)> {
        let header = self.header_at(offset).filter(|header| header.number == self.next)?;
        let from = offset + HEADER_BYTES;
        let end = usize::try_from(header.bytes).ok().and_then(|bytes| from.checked_add(bytes));
        Some((header, from..end.map_or(self.bytes.len(), |end| end.min(self.bytes.len()))))
    }

    /// The first batch at or behind `offset` that proves that the next one was durable.
    fn later(&self, offset: usize) -> Option<(usize, u64)> {
        let last = self.bytes.len().checked_sub(HEADER_BYTES)?;
        (offset..=last).filter(|at| frame::could_be(Kind::Batch, &self.bytes[*at..])).find_map(|at| {
            let number = self.header_at(at)?.number;
            (number > self.next && self.until.is_none_or(|until| number < until)).then_some((at, number))
        })
    }
}

impl Iterator for Batches<'_> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        if self.until.is_some_and(|until| self.next >= until) {
            return None;
        }
        let expected = self.expected_at(self.offset);
        if let Some((header, frames)) = &expected
            && frames.len() as u64 == header.bytes
            && crc32c::crc32c(&self.bytes[frames.clone()]) == header.checksum
        {
            (self.offset, self.next) = (frames.end, header.number + 1);
            return Some(Stretch::Frames(frames.clone()));
        }
        let from = self.offset;
        if let Some((at, number)) = self.later(from) {
            (self.offset, self.next) = (at, number);
            return Some(Stretch::Damaged(from..at));
        }
        let Some(until) = self.until else {
            self.torn = expected.is_some();
            return None;
        };
        // The last batches of a finished segment: where they ended is known only if no more than one is concerned.
        let end = match expected {
            Some((_, frames)) if until == self.next + 1 => frames.end,
            _ => self.bytes.len(),
        };
        (self.offset, self.next) = (end, until);
        Some(Stretch::Damaged(from..end))
    }
}

/// Where the last batch of an undamaged segment begins: whatever lies before was durable. `None` when nothing was written behind
/// its checkpoint, or it is no segment. For tools and tests that look at the disk of a stopped broker.
pub fn last_write(segment: &[u8]) -> Option<usize> {
    let segment::Header { salt, first_batch, .. } = segment::decode_header(segment).ok()?;
    let mut offset = segment::HEADER_BYTES;
    loop {
        let (header, payload) = frame::decode(segment.get(offset..)?, salt).ok()?;
        offset += HEADER_BYTES + payload.len();
        if header.kind == Kind::CheckpointEnd {
            break;
        }
    }
    Batches::new(segment, salt, offset, first_batch, None)
        .filter_map(|stretch| match stretch {
            Stretch::Frames(frames) => Some(frames.start - HEADER_BYTES),
            Stretch::Damaged(_) => None,
        })
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(3);

    /// Batches with these numbers, each with one frame, and where each begins.
    fn batches(numbers: Range<u64>) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for number in numbers {
            starts.push(bytes.len());
            let mut batch = vec![0; HEADER_BYTES];
            let header =
                FrameHeader { kind: Kind::Blank, flags: 0, group: 1, term: 1, node: 1, index: number };
            header.encode_to(&mut batch, SALT, b"");
            seal(&mut batch, number, SALT);
            bytes.extend(batch);
        }
        (bytes, starts)
    }

    fn walk(bytes: &[u8], first: u64, until: Option<u64>) -> (Vec<Stretch>, usize, u64, bool) {
        let mut walk = Batches::new(bytes, SALT, 0, first, until);
        let stretches = walk.by_ref().collect();
        (stretches, walk.offset, walk.next, walk.torn)
    }

    const ONE: usize = 2 * HEADER_BYTES;

    #[test]
    fn room_and_older_batches_behind_the_end_count_for_nothing() {
        let (mut bytes, _) = batches(7..10);
        let end = bytes.len();
        let whole: Vec<_> = (0..3).map(|n| Stretch::Frames(n * ONE + HEADER_BYTES..(n + 1) * ONE)).collect();
        bytes.extend([0; 500]);
        bytes.extend(batches(3..6).0);
        assert_eq!(walk(&bytes, 7, None), (whole.clone(), end, 10, false));
        assert_eq!(walk(&bytes, 7, Some(10)), (whole, end, 10, false));
    }

    #[test]
    fn whatever_is_left_of_the_last_batch_it_is_the_end() {
        let (bytes, starts) = batches(7..10);
        for at in starts[2]..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            let (stretches, end, next, _) = walk(&torn, 7, None);
            assert_eq!((stretches.len(), end, next), (2, starts[2], 9), "byte {at}");
        }
        let (.., torn) = walk(&bytes[..bytes.len() - 1], 7, None);
        assert!(torn);
    }

    #[test]
    fn a_batch_with_a_later_one_behind_it_is_damaged() {
        let (bytes, starts) = batches(7..10);
        for at in starts[0]..starts[2] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let (stretches, end, next, _) = walk(&damaged, 7, None);
            let hurt = at / ONE;
            assert_eq!(stretches[hurt], Stretch::Damaged(starts[hurt]..starts[hurt + 1]), "byte {at}");
            assert_eq!((stretches.len(), end, next), (3, bytes.len(), 10), "byte {at}");
        }
    }

    #[test]
    fn a_finished_segment_ends_where_the_next_begins() {
        let (bytes, starts) = batches(7..10);
        let mut damaged = bytes.clone();
        damaged[starts[2] + HEADER_BYTES] ^= 1;
        let (stretches, ..) = walk(&damaged, 7, Some(10));
        assert_eq!(stretches[2], Stretch::Damaged(starts[2]..bytes.len()));
        let (stretches, .., next, _) = walk(&bytes, 7, Some(12));
        assert_eq!((&stretches[3], next), (&Stretch::Damaged(bytes.len()..bytes.len()), 12));
    }

    #[test]
    fn a_batch_that_is_missing_before_a_later_one_is_damage_and_not_the_end() {
        let bytes = [batches(7..8).0, batches(9..10).0].concat();
        let (stretches, end, next, torn) = walk(&bytes, 7, None);
        assert_eq!(stretches[1], Stretch::Damaged(ONE..ONE));
        assert_eq!((stretches.len(), end, next, torn), (3, bytes.len(), 10, false));
    }
}
