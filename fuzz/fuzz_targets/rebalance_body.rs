//! Bytes as the body of a request for a rebalance.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = evenkeel_gateway::bad_input::rebalance_body(bytes);
});
