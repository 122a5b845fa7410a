//! What an operator asks of a running cluster, one module for each command.

pub mod audit;
pub mod authority;
pub mod drain;
pub mod ownership;
pub mod rebalance;
pub mod records;
pub mod status;
pub mod tls;
pub mod token;
