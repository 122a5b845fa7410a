//! Bytes as what brokers and gateways say among themselves.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| evenkeel_broker::bad_input::messages(bytes));
