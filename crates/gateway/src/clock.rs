//! The gateway's clock: tokio's, so that whoever drives the runtime's time drives everything that waits or measures.

use std::time::Instant;

/// Now, for decisions and measurements.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
