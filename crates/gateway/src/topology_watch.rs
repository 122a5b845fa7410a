//! One watcher of the topology: follows what is published and queues what it has not been told.
//!
//! The queue is bounded. Who does not read it holds nobody back and misses nothing that still matters: once there is
//! room again, a snapshot takes the place of all that did not fit.

use evenkeel_protocol::v1::TopologyEvent;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::refusals::Refusal;
use crate::topology::SharedTopology;
use crate::topology_events::{events, snapshot};

/// Events waiting for one watcher. A leader change of every partition of a large cluster is better told as a snapshot.
pub(crate) const QUEUE_EVENTS_MAX: usize = 256;

/// What a watcher is told: an event, or as the last word why there are no more.
pub(crate) type Told = Result<TopologyEvent, Refusal>;

/// Follows `topology` until the watcher goes away or `stopping`.
pub(crate) async fn follow(
    mut topology: watch::Receiver<SharedTopology>,
    out: mpsc::Sender<Told>,
    stopping: CancellationToken,
) {
    tokio::select! {
        () = tell(&mut topology, &out) => {}
        () = stopping.cancelled() => {
            // Without room for it the end of the stream says as much.
            let _ = out.try_send(Err(Refusal::Stopping));
        }
    }
}

async fn tell(topology: &mut watch::Receiver<SharedTopology>, out: &mpsc::Sender<Told>) {
    let mut told = topology.borrow_and_update().clone();
    if out.send(Ok(snapshot(&told))).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            changed = topology.changed() => if changed.is_err() { return },
            () = out.closed() => return,
        }
        let seen = topology.borrow_and_update().clone();
        let news = events(&told, &seen);
        told = seen;
        match out.try_reserve_many(news.len()) {
            Ok(permits) => {
                for (permit, event) in permits.zip(news) {
                    permit.send(Ok(event));
                }
            }
            Err(mpsc::error::TrySendError::Closed(())) => return,
            Err(mpsc::error::TrySendError::Full(())) => {
                let Ok(room) = out.reserve().await else { return };
                told = topology.borrow_and_update().clone();
                room.send(Ok(snapshot(&told)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_protocol::v1::topology_event::Event;
    use evenkeel_protocol::{Epoch, NodeId, PartitionId};

    use super::*;
    use crate::topology::{PartitionView, Topology};

    fn led_in(term: u64) -> Topology {
        let node = NodeId(term % 3);
        let partition = PartitionView {
            id: PartitionId(1),
            leader: Some(node),
            epoch: Some(Epoch { term, node }),
            primary: None,
            replicas: Vec::new(),
            records: 0,
            counted: true,
        };
        Topology { partitions_count: 1, partitions: vec![partition], ..Topology::default() }
    }

    fn term_of(told: Told) -> (bool, u64) {
        match told.unwrap().event.unwrap() {
            Event::Snapshot(view) => (true, view.partitions[0].epoch.unwrap().term),
            Event::LeaderChanged(changed) => (false, changed.epoch.unwrap().term),
            Event::BrokerChanged(changed) => panic!("no broker changed: {changed:?}"),
        }
    }

    /// Lets the follower run until it waits for the next change.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_read_gets_what_was_queued_and_then_a_snapshot() {
        const QUEUE: usize = 4;
        let (publish, topology) = watch::channel(Arc::new(led_in(1)));
        let (out, mut told) = mpsc::channel(QUEUE);
        let follower = tokio::spawn(follow(topology, out, CancellationToken::new()));
        for term in 2..=50 {
            settle().await;
            publish.send_replace(Arc::new(led_in(term)));
        }
        settle().await;
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(_, term)| *term < 50) {
            seen.push(term_of(told.recv().await.unwrap()));
        }
        assert_eq!(seen, [(true, 1), (false, 2), (false, 3), (false, 4), (true, 50)]);
        // And from there on event by event again.
        publish.send_replace(Arc::new(led_in(51)));
        assert_eq!(term_of(told.recv().await.unwrap()), (false, 51));
        drop(told);
        follower.await.unwrap();
    }

    #[tokio::test]
    async fn changes_that_do_not_fit_the_queue_together_are_told_as_one_snapshot() {
        let two = |term| {
            let mut view = led_in(term);
            let second = PartitionView { id: PartitionId(2), ..view.partitions[0].clone() };
            view.partitions.push(second);
            Arc::new(view)
        };
        let (publish, topology) = watch::channel(two(1));
        let (out, mut told) = mpsc::channel(1);
        tokio::spawn(follow(topology, out, CancellationToken::new()));
        assert_eq!(term_of(told.recv().await.unwrap()), (true, 1));
        publish.send_replace(two(2));
        assert_eq!(term_of(told.recv().await.unwrap()), (true, 2));
    }

    #[tokio::test]
    async fn a_stopping_gateway_says_so_as_its_last_word() {
        let (_publish, topology) = watch::channel(Arc::new(led_in(1)));
        let (out, mut told) = mpsc::channel(2);
        let stopping = CancellationToken::new();
        tokio::spawn(follow(topology, out, stopping.clone()));
        assert_eq!(term_of(told.recv().await.unwrap()), (true, 1));
        stopping.cancel();
        assert!(matches!(told.recv().await, Some(Err(Refusal::Stopping))));
        assert!(told.recv().await.is_none());
    }
}
