//! The bound on watches, of records and of the topology together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusals::Refusal;

/// Cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Watchers {
    room: Arc<Semaphore>,
    watchers_max: usize,
}

impl Watchers {
    pub(crate) fn new(watchers_max: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(watchers_max)), watchers_max }
    }

    /// Room for one watch until the permit is dropped.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.room)
            .try_acquire_owned()
            .map_err(|_| Refusal::TooManyWatchers { watchers_max: self.watchers_max })
    }
}
