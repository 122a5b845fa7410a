//! The trace of a write, at the end of its encoded command.
//!
//! `Command.trace` has the highest field number, so an encoder writes it last: a tag byte, a length byte and 24 bytes. A leader
//! puts its own span in place of the gateway's, in a copy of the same length, and followers find that.

use crate::context::{CONTEXT_BYTES, TraceContext};

/// Field 15, length-delimited.
const TAG: u8 = 15 << 3 | 2;
const FIELD_BYTES: usize = 2 + CONTEXT_BYTES;

/// What `Command.trace` holds for this trace; empty, which is not encoded, for one that is not sampled.
#[must_use]
pub fn field(context: Option<TraceContext>) -> Vec<u8> {
    context.filter(|context| context.sampled).map_or_else(Vec::new, |context| context.to_bytes().to_vec())
}

/// The trace that an encoded command belongs to, if it is sampled.
#[must_use]
pub fn trace_of(command: &[u8]) -> Option<TraceContext> {
    let at = command.len().checked_sub(FIELD_BYTES)?;
    let (before, field) = command.split_at(at);
    let [TAG, length, bytes @ ..] = field else { return None };
    // A value may end in the same bytes.
    if usize::from(*length) != CONTEXT_BYTES || !is_whole(before) {
        return None;
    }
    TraceContext::from_bytes(bytes.try_into().ok()?)
}

/// A copy of a command that [`trace_of`] found a trace in, with another span.
#[must_use]
pub fn with_span(command: &[u8], span: TraceContext) -> Vec<u8> {
    let mut copy = command.to_vec();
    if let Some(at) = copy.len().checked_sub(CONTEXT_BYTES) {
        copy[at..].copy_from_slice(&span.to_bytes());
    }
    copy
}

/// Whether these are whole fields, all of them length-delimited as a command's are.
fn is_whole(mut bytes: &[u8]) -> bool {
    while let Some((tag, rest)) = bytes.split_first() {
        if tag & 0b1000_0111 != 2 {
            return false;
        }
        let Some((length, rest)) = varint(rest) else { return false };
        let Some(rest) = usize::try_from(length).ok().and_then(|length| rest.get(length..)) else {
            return false;
        };
        bytes = rest;
    }
    true
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: TraceContext = TraceContext { trace_id: [7; 16], span_id: [9; 8], sampled: true };

    fn tail(context: TraceContext) -> Vec<u8> {
        [&[TAG, 24][..], &field(Some(context))].concat()
    }

    #[test]
    fn the_trace_of_a_command_is_found_and_its_span_replaced() {
        let operation = [0x12, 3, b'a', b'b', b'c'];
        let command = [&operation[..], &tail(SAMPLED)].concat();
        assert_eq!(trace_of(&command), Some(SAMPLED));
        let mine = TraceContext { span_id: [1; 8], ..SAMPLED };
        let replaced = with_span(&command, mine);
        assert_eq!(replaced.len(), command.len());
        assert_eq!(trace_of(&replaced), Some(mine));
        assert_eq!(replaced[..operation.len()], operation);
    }

    #[test]
    fn a_value_that_ends_in_the_same_bytes_is_no_trace() {
        let value = tail(SAMPLED);
        let command = [&[0x12, value.len() as u8][..], &value].concat();
        assert_eq!(trace_of(&command), None);
        assert_eq!(trace_of(&tail(TraceContext { span_id: [0; 8], ..SAMPLED })), None);
        for bytes in [&b""[..], b"\x12", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
            assert_eq!(trace_of(bytes), None);
            assert_eq!(trace_of(&[bytes, &value].concat()).is_some(), bytes.is_empty());
        }
        assert!(field(Some(TraceContext { sampled: false, ..SAMPLED })).is_empty());
        assert!(field(None).is_empty());
    }
}
