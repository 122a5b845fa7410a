//! Names and help texts of this crate's metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

/// Duration of one sync of the log, seconds.
pub const LOG_FSYNC_SECONDS: &str = "evenkeel_log_fsync_seconds";
/// Bytes that one sync made durable.
pub const LOG_BATCH_BYTES: &str = "evenkeel_log_batch_bytes";
/// Frames that one sync made durable.
pub const LOG_BATCH_FRAMES: &str = "evenkeel_log_batch_frames";
/// Segment files of the log.
pub const LOG_SEGMENTS: &str = "evenkeel_log_segments";
/// Bytes written to the log, rewritten ones included.
pub const LOG_APPENDED_BYTES: &str = "evenkeel_log_appended_bytes_total";
/// Bytes written again so that old segments could go.
pub const LOG_REWRITTEN_BYTES: &str = "evenkeel_log_rewritten_bytes_total";
/// Duration of one commit of applied entries, seconds.
pub const APPLY_SECONDS: &str = "evenkeel_apply_seconds";
/// Partitions whose applied entries went into one commit.
pub const APPLY_BATCH_PARTITIONS: &str = "evenkeel_apply_batch_partitions";
/// Duration of one flush of committed rows from memory into the state database, seconds.
pub const STATE_FLUSH_SECONDS: &str = "evenkeel_state_flush_seconds";
/// Bytes of committed rows that only memory and the log have.
pub const STATE_UNFLUSHED_BYTES: &str = "evenkeel_state_unflushed_bytes";

/// Registers the help texts with the recorder that is installed.
pub fn describe_metrics() {
    describe_histogram!(LOG_FSYNC_SECONDS, Unit::Seconds, "Duration of one sync of the shared log");
    describe_histogram!(LOG_BATCH_BYTES, Unit::Bytes, "Bytes made durable by one sync of the shared log");
    describe_histogram!(LOG_BATCH_FRAMES, Unit::Count, "Frames made durable by one sync of the shared log");
    describe_histogram!(
        APPLY_SECONDS,
        Unit::Seconds,
        "Duration of one commit of applied entries to the state store"
    );
    describe_histogram!(
        APPLY_BATCH_PARTITIONS,
        Unit::Count,
        "Partitions whose applied entries went into one commit"
    );
    describe_histogram!(
        STATE_FLUSH_SECONDS,
        Unit::Seconds,
        "Duration of one flush of applied rows from memory into the state database"
    );
    describe_gauge!(
        STATE_UNFLUSHED_BYTES,
        Unit::Bytes,
        "Applied rows that are in memory and in the log, but not yet in the state database"
    );
    describe_gauge!(LOG_SEGMENTS, Unit::Count, "Segment files of the shared log");
    describe_counter!(LOG_APPENDED_BYTES, Unit::Bytes, "Bytes written to the shared log");
    describe_counter!(
        LOG_REWRITTEN_BYTES,
        Unit::Bytes,
        "Bytes of slow groups written again to the shared log so that old segments could be deleted"
    );
    // Present from the start, so that a rate over it begins at 0.
    counter!(LOG_REWRITTEN_BYTES).increment(0);
}
