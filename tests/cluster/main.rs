//! Evenkeel as its users meet it: real broker and gateway processes, real disks, real signals.
//!
//! Each module tells one story. `harness` starts clusters on ports of their own and bounds how many run at once;
//! every wait is for a condition, with a deadline that reports what was seen last.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod automatic;
mod bad_configuration;
mod bad_targets;
mod chaos;
mod commands;
mod connections;
mod dev_cluster;
mod documents;
mod draining;
mod failing_sync;
mod failover;
mod fixed_distribution;
mod formation;
mod full_disk;
mod harness;
mod http_errors;
mod importing;
mod leadership;
mod observing;
mod operating;
mod orderly_stop;
mod overload;
mod ownership;
mod plans;
mod rare_outcomes;
mod readme;
mod rebalancing;
mod rebuilding;
mod records;
mod recovery;
mod restart_risk;
mod resting;
mod run_outcomes;
mod run_takeover;
mod runs;
mod security;
mod streaming;
mod upgrading;
mod watching;
