//! The way to a cluster: where it is, its HTTP ports, and the operator's side of its API.

pub mod actuator;
pub mod cluster_api;
pub mod connection;
pub mod contexts;
#[cfg(test)]
pub mod fake_gateway;
pub mod http;
pub mod server_events;
