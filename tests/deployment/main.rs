//! What an operator installs from `deploy/`: image and containers, chart, systemd units, Debian package; and the probes that
//! supervisors ask.
//!
//! Tests whose tool is not installed are skipped, loudly, unless `EVENKEEL_REQUIRE_DEPLOYMENT` is set. Image and package are
//! made of the static binary that `EVENKEEL_STATIC_BINARY` names, or that `deploy/static-binary.sh` has built.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod chart;
mod containers;
#[path = "../cluster/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the stories in tests/cluster use all of it")]
mod harness;
mod package;
mod probes;
mod supervised;
mod tools;
mod units;
