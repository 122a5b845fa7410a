//! One frame of the log: its layout, encoding, decoding and checksum.

use crate::types::GroupId;

/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 40;
/// Largest payload of a frame; the limits on client values lie far below.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const MAGIC: u8 = 0xE7;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An entry without content.
    Blank = 1,
    /// An entry whose payload is an encoded command.
    Command = 2,
    /// An entry whose payload is a membership in JSON.
    Membership = 3,
    /// The group's vote.
    Vote = 4,
    /// Entries after this log id are gone; with [`NO_LOG_ID`], all are.
    TruncateAfter = 5,
    /// Entries up to this log id are gone.
    Purge = 6,
    /// Entries up to this log id are committed; with [`NO_LOG_ID`], none is known to be.
    Committed = 7,
    /// Checkpoint: the state of one group where the segment begins.
    GroupState = 8,
    /// Checkpoint: its end; the index is the number of groups in it.
    CheckpointEnd = 9,
    /// What is written and synced at once begins; see [`super::batches`].
    Batch = 10,
}

/// Flag of an entry that was written before and moved forward.
pub const MOVED: u16 = 1;
/// Flag of a vote that a quorum granted.
pub const GRANTED: u16 = 2;
/// Flag of a position that is before every entry.
pub const NO_LOG_ID: u16 = 4;

const KNOWN_FLAGS: u16 = MOVED | GRANTED | NO_LOG_ID;

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Blank,
            2 => Self::Command,
            3 => Self::Membership,
            4 => Self::Vote,
            5 => Self::TruncateAfter,
            6 => Self::Purge,
            7 => Self::Committed,
            8 => Self::GroupState,
            9 => Self::CheckpointEnd,
            10 => Self::Batch,
            _ => return None,
        })
    }

    /// Whether the frame carries an entry.
    pub fn is_entry(self) -> bool {
        matches!(self, Self::Blank | Self::Command | Self::Membership)
    }
}

/// Everything in a frame but the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: Kind,
    pub flags: u16,
    pub group: GroupId,
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// Secret start value of a log's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub u64);

impl Salt {
    fn checksum_start(self) -> u32 {
        crc32c::crc32c(&self.0.to_le_bytes())
    }
}

impl FrameHeader {
    /// The header's bytes, checksum of header and payload included.
    pub fn encode(&self, salt: Salt, payload: &[u8]) -> [u8; HEADER_BYTES] {
        debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[8] = MAGIC;
        bytes[9] = self.kind as u8;
        bytes[10..12].copy_from_slice(&self.flags.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.group.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.term.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.node.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.index.to_le_bytes());
        let crc = crc32c::crc32c_append(salt.checksum_start(), &bytes[4..]);
        bytes[0..4].copy_from_slice(&crc32c::crc32c_append(crc, payload).to_le_bytes());
        bytes
    }

    /// Appends the whole frame to `buffer`.
    pub fn encode_to(&self, buffer: &mut Vec<u8>, salt: Salt, payload: &[u8]) {
        buffer.extend_from_slice(&self.encode(salt, payload));
        buffer.extend_from_slice(payload);
    }
}

impl FrameHeader {
    /// What a header says, whatever its checksum, if it could be one of a frame with so much payload.
    pub fn unchecked(bytes: &[u8; HEADER_BYTES], payload_bytes: usize) -> Option<Self> {
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        let kind = Kind::from_code(bytes[9]).filter(|_| flags & !KNOWN_FLAGS == 0)?;
        let fits = bytes[8] == MAGIC && read_u32(bytes, 4) as usize == payload_bytes;
        fits.then(|| Self::of(kind, flags, bytes))
    }

    /// `bytes` holds a whole header.
    fn of(kind: Kind, flags: u16, bytes: &[u8]) -> Self {
        Self {
            kind,
            flags,
            group: read_u32(bytes, 12),
            term: read_u64(bytes, 16),
            node: read_u64(bytes, 24),
            index: read_u64(bytes, 32),
        }
    }
}

/// Whether a frame of this kind may begin here; most bytes are ruled out by it.
pub fn could_be(kind: Kind, bytes: &[u8]) -> bool {
    bytes.get(8..10) == Some(&[MAGIC, kind as u8])
}

/// The header of a frame that consists of these parts, if it checks.
pub fn decode_parts(head: &[u8; HEADER_BYTES], payload: &[u8], salt: Salt) -> Option<FrameHeader> {
    let header = FrameHeader::unchecked(head, payload.len())?;
    let crc = crc32c::crc32c_append(salt.checksum_start(), &head[4..]);
    (crc32c::crc32c_append(crc, payload) == read_u32(head, 0)).then_some(header)
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("the file ends inside a frame header ({0} of {HEADER_BYTES} bytes)")]
    ShortHeader(usize),
    #[error("no frame begins here")]
    NoMagic,
    #[error("unknown frame kind {0} or flags {1:#x}")]
    UnknownKind(u8, u16),
    #[error("the frame claims a payload of {0} bytes, more than the limit")]
    Oversized(u32),
    #[error("the file ends inside a frame's payload ({have} of {length} bytes)")]
    ShortPayload { have: usize, length: u32 },
    #[error("checksum {stored:#010x} is stored, {computed:#010x} is right")]
    Checksum { stored: u32, computed: u32 },
}

/// Reads the frame at the start of `bytes`: its header and its payload.
pub fn decode(bytes: &[u8], salt: Salt) -> Result<(FrameHeader, &[u8]), BadFrame> {
    if bytes.len() < HEADER_BYTES {
        return Err(BadFrame::ShortHeader(bytes.len()));
    }
    if bytes[8] != MAGIC {
        return Err(BadFrame::NoMagic);
    }
    let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
    let kind = Kind::from_code(bytes[9]).filter(|_| flags & !KNOWN_FLAGS == 0);
    let kind = kind.ok_or(BadFrame::UnknownKind(bytes[9], flags))?;
    let length = read_u32(bytes, 4);
    if length as usize > PAYLOAD_BYTES_MAX {
        return Err(BadFrame::Oversized(length));
    }
    let end = HEADER_BYTES + length as usize;
    if bytes.len() < end {
        return Err(BadFrame::ShortPayload { have: bytes.len() - HEADER_BYTES, length });
    }
    let stored = read_u32(bytes, 0);
    let computed = crc32c::crc32c_append(salt.checksum_start(), &bytes[4..end]);
    if stored != computed {
        return Err(BadFrame::Checksum { stored, computed });
    }
    Ok((FrameHeader::of(kind, flags, bytes), &bytes[HEADER_BYTES..end]))
}

/// Offset of the first valid frame in `bytes` at or after `from`.
pub fn find_valid(bytes: &[u8], from: usize, salt: Salt) -> Option<usize> {
    (from..bytes.len().saturating_sub(HEADER_BYTES - 1))
        .find(|&offset| decode(&bytes[offset..], salt).is_ok())
}

/// Little-endian number at `offset`; the caller has checked the length.
pub fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}

/// Little-endian number at `offset`; the caller has checked the length.
pub fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(7);

    fn frame(payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { kind: Kind::Command, flags: 0, group: 3, term: 5, node: 1, index: 9 };
        let mut bytes = Vec::new();
        header.encode_to(&mut bytes, SALT, payload);
        bytes
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let bytes = frame(b"value");
        let (header, payload) = decode(&bytes, SALT).unwrap();
        assert_eq!(
            (header.kind, header.group, header.term, header.node, header.index),
            (Kind::Command, 3, 5, 1, 9)
        );
        assert_eq!(payload, b"value");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = frame(b"value");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, SALT).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let good = frame(b"value");
        for length in 0..good.len() {
            assert!(decode(&good[..length], SALT).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_frame_of_another_log_inside_a_value_is_not_taken_for_a_frame() {
        let mut inner = Vec::new();
        let header = FrameHeader { kind: Kind::Blank, flags: 0, group: 3, term: 5, node: 1, index: 9 };
        header.encode_to(&mut inner, Salt(8), b"");
        let bytes = frame(&inner);
        assert_eq!(find_valid(&bytes, 1, SALT), None);
        assert_eq!(find_valid(&bytes, 0, SALT), Some(0));
    }
}
