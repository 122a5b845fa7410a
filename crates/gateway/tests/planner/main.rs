//! The rebalance planner: golden traces, properties, and years of failures and returns.

#![allow(clippy::unwrap_used)]

mod even_count;
mod failures_and_returns;
mod plans;
mod records;
mod size;
mod traces;
mod world;
