//! Bytes as frames of the log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| evenkeel_raft_storage::bad_input::frames(bytes));
