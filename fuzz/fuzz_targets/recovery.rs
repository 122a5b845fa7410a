//! Bytes as a segment of the log, and as the fields of frames whose checksums are right.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    evenkeel_raft_storage::bad_input::segment(bytes);
    evenkeel_raft_storage::bad_input::well_formed_frames(bytes);
});
