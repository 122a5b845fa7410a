//! What a broker or gateway tells whoever supervises it.
//!
//! [`Progress`] is the one judgement of whether the process has started and still makes progress. Liveness probes ask it
//! over HTTP, and [`Systemd`] tells it to systemd; neither depends on other processes, and so never on a quorum.

mod progress;
mod systemd;

pub use progress::{Progress, STALLED_AFTER};
pub use systemd::Systemd;
