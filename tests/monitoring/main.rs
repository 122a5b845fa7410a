//! What operators see: the dashboard, recording rules, alerts and runbooks are held to their rules, and asked of a real
//! Prometheus that scrapes a cluster of real processes.
//!
//! Tests that need Prometheus are skipped, loudly, where it is not installed, unless `EVENKEEL_REQUIRE_PROMETHEUS` is set.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod compose;
mod dashboard;
mod dashboard_json;
#[path = "../cluster/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the stories in tests/cluster use all of it")]
mod harness;
mod live;
mod prometheus;
mod promql;
mod rules;
mod runbooks;

use std::path::{Path, PathBuf};

/// A path from the root of the repository.
fn at_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).canonicalize().unwrap_or_else(|error| {
        panic!("{path}: {error}");
    })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(at_root(path)).unwrap()
}
