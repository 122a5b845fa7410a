//! Where work that waits for a disk is done, so that it holds up no task of the runtime.

use std::io;

/// Cheap to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// On the runtime's blocking threads.
    Threads,
    /// In place: in a simulation everything runs on one thread, in an order that the seed decides.
    InPlace,
}

impl Offload {
    /// Does the work and returns what it brought.
    ///
    /// # Errors
    /// When the work panicked, or the runtime is stopping.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
            Self::InPlace => Ok(work()),
        }
    }
}
