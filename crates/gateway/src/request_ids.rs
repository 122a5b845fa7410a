//! Request ids for clients that give none.
//!
//! A *lane* is a random client id with a growing sequence and at most one request under way, as the request-id
//! contract demands. A lane whose request ended without a known outcome is thrown away: its request may still
//! be applied later, and a newer sequence on the same client id would make the two depend on each other.

use evenkeel_protocol::v1::RequestId;
use parking_lot::Mutex;

/// Idle lanes. The most recently used is taken first, so that brokers remember few clients.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    idle: Mutex<Vec<RequestId>>,
}

/// A lane with a request under way; dropped without [`Lane::settle`], it is discarded.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    lanes: &'a Lanes,
    id: RequestId,
}

impl Lanes {
    /// An idle lane, or a new one.
    pub(crate) fn take(&self) -> Lane<'_> {
        let idle = self.idle.lock().pop();
        let id = idle.unwrap_or_else(|| RequestId { client_id: rand::random(), sequence: 1 });
        Lane { lanes: self, id }
    }

    /// The outcome of the request with this id is known: its lane may carry the next one.
    pub(crate) fn settle(&self, id: RequestId) {
        self.idle.lock().push(RequestId { client_id: id.client_id, sequence: id.sequence + 1 });
    }
}

impl Lane<'_> {
    /// The id for this lane's request and all its replays.
    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// The outcome is known: the lane may carry the next request.
    pub(crate) fn settle(self) {
        self.lanes.settle(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settled_lane_goes_on_with_the_next_sequence() {
        let lanes = Lanes::default();
        let first = lanes.take();
        let id = first.id();
        first.settle();
        assert_eq!(lanes.take().id(), RequestId { client_id: id.client_id, sequence: id.sequence + 1 });
    }

    #[test]
    fn concurrent_requests_never_share_a_lane_and_an_unsettled_lane_is_not_reused() {
        let lanes = Lanes::default();
        let (discarded, settled) = {
            let (unsettled, settled) = (lanes.take(), lanes.take());
            (unsettled.id().client_id, settled)
        };
        assert_ne!(settled.id().client_id, discarded);
        settled.settle();
        assert_ne!(lanes.take().id().client_id, discarded);
        assert_ne!(lanes.take().id().client_id, discarded);
    }
}
