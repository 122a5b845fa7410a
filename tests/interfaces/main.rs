//! What the gateway serves to programs that are not ours: Zeebe's Python client and a validator of OpenAPI documents, both
//! unmodified from PyPI, in front of real processes.
//!
//! Tests that need Python or what PyPI has are skipped, loudly, where they are not to be had, unless
//! `EVENKEEL_REQUIRE_PYZEEBE` is set.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod exporting;
#[path = "../cluster/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the stories in tests/cluster use all of it")]
mod harness;
mod http_records;
mod openapi;
mod python;
mod traces;
mod zeebe_client;
