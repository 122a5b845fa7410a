//! Whether the process has started, and whether its main loop still goes round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A main loop goes round at least every second. One that has not for so long hangs, and only a restart helps.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Cheap handle: the process's main loop beats, supervisors look.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// Of the last beat, since `origin`.
    beat_ms: AtomicU64,
    started: watch::Sender<bool>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Of a process that has not started yet.
    #[must_use]
    pub fn new() -> Self {
        let (started, _) = watch::channel(false);
        Self(Arc::new(Inner { origin: Instant::now(), beat_ms: AtomicU64::new(0), started }))
    }

    /// The main loop went round.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.0.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.beat_ms.fetch_max(elapsed, Ordering::Relaxed);
    }

    /// Everything that comes before serving is done, such as replaying the log; from now on the main loop must go round.
    pub fn start(&self) {
        self.beat();
        self.0.started.send_replace(true);
    }

    /// Whether [`Progress::start`] was called.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.0.started.borrow()
    }

    /// Returns once the process has started.
    pub async fn started(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.started.subscribe().wait_for(|started| *started).await;
    }

    /// How long ago the main loop last went round.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let beat = Duration::from_millis(self.0.beat_ms.load(Ordering::Relaxed));
        self.0.origin.elapsed().saturating_sub(beat)
    }

    /// Whether the process makes progress. Before it has started there is no main loop to judge by, and a restart would
    /// only have it begin anew.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.has_started() || self.silence() < STALLED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_is_alive_until_it_has_started_and_then_as_long_as_it_beats() {
        let progress = Progress::new();
        tokio::time::advance(STALLED_AFTER * 10).await;
        assert!(progress.is_alive() && !progress.has_started());

        progress.start();
        progress.started().await;
        tokio::time::advance(STALLED_AFTER - Duration::from_millis(1)).await;
        assert!(progress.is_alive());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!progress.is_alive());

        progress.beat();
        assert!(progress.is_alive() && progress.silence() < Duration::from_millis(2));
    }
}
