//! W3C Trace Context, version 00 (<https://www.w3.org/TR/trace-context/>): which trace a request belongs to, and which span called.

use std::fmt;

use http::HeaderMap;

/// The header, and the gRPC metadata, that carries it.
pub const TRACEPARENT: &str = "traceparent";
/// As bytes: a trace's id and a span's.
pub(crate) const CONTEXT_BYTES: usize = 24;

/// A place in a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// Never all zeros.
    pub span_id: [u8; 8],
    /// Whether its spans are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Takes a `traceparent`; `None` for what is none, which is as if there were none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may say more; this much of them is fixed.
        let is_known = version == "00" && parts.next().is_none();
        let is_later = version != "00" && hex::<1>(version).is_some_and(|version| version != [0xff]);
        if !is_known && !is_later {
            return None;
        }
        let (trace_id, span_id) = (hex(trace)?, hex(span)?);
        let [flags] = hex::<1>(flags)?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }

    /// What a caller sent; `None` too when it sent several.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        Self::parse(only.to_str().ok()?)
    }

    pub(crate) fn to_bytes(self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..].copy_from_slice(&self.span_id);
        bytes
    }

    /// Of a request that is sampled.
    pub(crate) fn from_bytes(bytes: [u8; CONTEXT_BYTES]) -> Option<Self> {
        let (trace, span) = bytes.split_at(16);
        let (trace_id, span_id) = (trace.try_into().ok()?, span.try_into().ok()?);
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, sampled: true })
    }
}

/// As the header has it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Exactly `N` bytes in small letters, as the standard wants them.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_the_standard_has_it() {
        let context = TraceContext::parse(GIVEN).unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), GIVEN);
        assert_eq!(TraceContext::from_bytes(context.to_bytes()), Some(context));
        assert!(!TraceContext::parse(&GIVEN.replace("-01", "-00")).unwrap().sampled);
        assert!(TraceContext::parse(&GIVEN.replace("-01", "-03")).unwrap().sampled);
        let later = GIVEN.replacen("00", "cc", 1) + "-what-comes-later";
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn what_is_no_traceparent_is_as_none() {
        let bad = [
            String::new(),
            "00".into(),
            GIVEN.to_uppercase(),
            GIVEN.replacen("00", "ff", 1),
            format!("{GIVEN}-more"),
            GIVEN.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GIVEN.replace("b7ad6b7169203331", &"0".repeat(16)),
            GIVEN.replace("b7ad", "b7a"),
            GIVEN.replace('a', "é"),
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(&text), None, "{text:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, GIVEN.parse().unwrap());
        assert!(TraceContext::from_headers(&twice).is_some());
        twice.append(TRACEPARENT, GIVEN.parse().unwrap());
        assert_eq!(TraceContext::from_headers(&twice), None);
    }
}
