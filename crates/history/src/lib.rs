//! Judges what clients of Evenkeel saw: whether it could have come from one store that does one thing at a time.
//!
//! Tests record every operation with the time of its call and of its answer ([`History`]), and what watchers were told
//! ([`WatchLog`]); [`History::check`] looks for an order of each key's operations that explains every answer
//! (linearizability, [`Violation`]), [`WatchLog::check`] compares deliveries with acknowledgements. Nothing here does
//! I/O or reads a clock, so the same judge serves simulations and real processes.
//!
//! An operation without an answer stays *open*: its effect may come at any time after its call, or never.

mod history;
mod linearizability;
mod operation;
mod register;
mod report;
mod watch_log;

pub use history::{History, OperationId};
pub use linearizability::Violation;
pub use operation::{Answer, Condition, Operation, Request, Stored};
pub use watch_log::{Change, Delivery, WatchLog, WatchViolation};
