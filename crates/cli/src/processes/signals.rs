//! When the person, or the system, wants a process to end.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

use crate::output::outcome::Failure;

/// Resolves on SIGINT or SIGTERM, with its name. The handlers are in place when this returns.
pub fn stop_requested() -> Result<impl Future<Output = &'static str> + Send + 'static, Failure> {
    let cannot = |error| Failure::new(1, format!("signal handler: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}
