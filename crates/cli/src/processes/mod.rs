//! Brokers, gateways and whole clusters that run on this machine.

pub mod child_process;
pub mod demo;
mod demo_input;
pub mod dev;
pub mod file_limit;
pub mod free_ports;
pub mod local_cluster;
pub mod pid_file;
mod rebuild;
pub mod serve;
pub mod signals;
