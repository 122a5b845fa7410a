//! What an operator asks of a running cluster, and of this program, one module for each command.

mod assessment;
pub mod audit;
pub mod authority;
pub mod check;
pub mod configuration;
pub mod context;
pub mod doctor;
pub mod drain;
pub mod health;
pub mod installed;
pub mod ownership;
pub mod partitions;
pub mod pre_stop;
pub mod probe;
pub mod rebalance;
pub mod records;
pub mod shell;
pub mod status;
pub mod tls;
pub mod token;
pub mod top;
mod waiting;
