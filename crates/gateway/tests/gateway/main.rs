//! The whole gateway over real sockets, in front of brokers that misbehave on demand.

mod fake_cluster;
mod harness;
mod http_ports;
mod reading;
mod watching;
mod writing;
