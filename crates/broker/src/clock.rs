//! The broker's clock: tokio's, so that whoever drives the runtime's time drives everything that waits or measures.

use std::time::Instant;

/// Now, for decisions and measurements.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
