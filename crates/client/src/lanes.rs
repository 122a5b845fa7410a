//! Request ids, so that a write applies once however often it is sent.
//!
//! The cluster remembers the last answer per client id, hence a client id may have one request under way at a
//! time. A lane is such an id with its running sequence; a call takes one, keeps it over all its retries, and
//! gives it back. There are as many lanes as calls have ever run at once, at most [`LANES_MAX`]: more callers
//! wait. A call that is dropped half-way gives its lane back too: the next request on it has a higher sequence
//! and at worst supersedes the abandoned one, whose outcome nobody waits for.

use std::sync::Arc;

use evenkeel_protocol::v1::RequestId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls of one client that may run at once.
pub(crate) const LANES_MAX: usize = 4096;

#[derive(Debug)]
struct Lane {
    client_id: u64,
    sequence: u64,
}

/// Every lane of a client.
#[derive(Debug)]
pub(crate) struct Lanes {
    free: Mutex<Vec<Lane>>,
    permits: Arc<Semaphore>,
}

impl Lanes {
    pub(crate) fn new(lanes_max: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(lanes_max)) })
    }

    /// Takes a lane, waiting for one when all are in use, and moves it to its next request.
    pub(crate) async fn take(self: &Arc<Self>) -> Taken {
        // The semaphore is never closed; were it, running without a bound is better than not running.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let lane = self.free.lock().pop();
        let mut lane = lane.unwrap_or_else(|| Lane { client_id: rand::random(), sequence: 0 });
        lane.sequence += 1;
        Taken { lane, lanes: Arc::clone(self), _permit: permit }
    }
}

/// A lane in use by one call.
#[derive(Debug)]
pub(crate) struct Taken {
    lane: Lane,
    lanes: Arc<Lanes>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Taken {
    pub(crate) fn request_id(&self) -> RequestId {
        RequestId { client_id: self.lane.client_id, sequence: self.lane.sequence }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let lane = Lane { client_id: self.lane.client_id, sequence: self.lane.sequence };
        self.lanes.free.lock().push(lane);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn concurrent_calls_never_share_a_client_id() {
        let lanes = Lanes::new(8);
        let mut taken = Vec::new();
        for _ in 0..8 {
            taken.push(lanes.take().await);
        }
        let ids: HashSet<u64> = taken.iter().map(|t| t.request_id().client_id).collect();
        assert_eq!(ids.len(), 8);
        assert!(futures::FutureExt::now_or_never(lanes.take()).is_none(), "a ninth has to wait");
        taken.pop();
        assert!(futures::FutureExt::now_or_never(lanes.take()).is_some());
    }

    #[tokio::test]
    async fn a_lane_counts_its_requests() {
        let lanes = Lanes::new(1);
        let first = lanes.take().await.request_id();
        let second = lanes.take().await.request_id();
        assert_eq!(second, RequestId { sequence: first.sequence + 1, ..first });
    }
}
