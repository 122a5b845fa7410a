//! The whole gateway over real sockets, in front of brokers that misbehave on demand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod cluster_over_http;
mod draining;
mod esc;
mod fake_cluster;
mod following;
mod grpc_tools;
mod harness;
mod http_ports;
mod reading;
mod streaming;
mod topology_watching;
mod watching;
mod writing;
