//! Waiting for conditions instead of for time.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for anything that works, even in a debug build on two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(40);
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Polls until `probe` answers `Ok`; panics with the last `Err` when `PATIENCE` runs out.
pub async fn wait_until<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::from("not asked yet");
    while Instant::now() < deadline {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => last = state,
            Err(_) => break,
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    panic!("waited {PATIENCE:?} in vain for {what}; last seen: {last}");
}
