//! When a replica lacks too much to be given leadership. Gateways plan by this and leaders check it again before they
//! hand over: one rule, so that a plan and its run agree.
//!
//! The limit is in bytes, because bytes are what has to be sent before writes are held back; how many entries they make
//! does not matter. Who decides sets it: a request its `replicationLagThreshold`, a broker that stops its
//! `transfer.lag_bytes_max`.

/// What the lag of a replica says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagVerdict {
    /// It may lead once it has caught up.
    WithinLimit,
    /// It lacks more than the limit, or more than the leader's log still holds.
    TooHigh,
    /// It has not answered this leader yet, so nobody knows what it lacks.
    NotReplicating,
}

/// Judges a replica that lacks so many entries and bytes. Entries are `None` while it has not answered its leader, bytes
/// while they are not known: also when it needs entries that the leader's log does not hold any more.
#[must_use]
pub fn judge_lag(entries: Option<u64>, bytes: Option<u64>, bytes_max: u64) -> LagVerdict {
    match (entries, bytes) {
        (_, Some(bytes)) if bytes <= bytes_max => LagVerdict::WithinLimit,
        // No entries are no bytes.
        (Some(0), None) => LagVerdict::WithinLimit,
        (_, Some(_)) | (Some(_), None) => LagVerdict::TooHigh,
        (None, None) => LagVerdict::NotReplicating,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_decide_and_entries_do_not() {
        let table = [
            ((Some(0), Some(0)), LagVerdict::WithinLimit),
            ((Some(1_000_000), Some(100)), LagVerdict::WithinLimit),
            ((Some(1), Some(101)), LagVerdict::TooHigh),
            ((Some(0), None), LagVerdict::WithinLimit),
            ((Some(1), None), LagVerdict::TooHigh),
            ((None, None), LagVerdict::NotReplicating),
            ((None, Some(100)), LagVerdict::WithinLimit),
            ((None, Some(101)), LagVerdict::TooHigh),
        ];
        for ((entries, bytes), expected) in table {
            assert_eq!(judge_lag(entries, bytes, 100), expected, "{entries:?} {bytes:?}");
        }
    }
}
