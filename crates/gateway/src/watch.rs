//! Watches: one stream of changes to the client out of one watch per partition at its leader.
//!
//! When a leader goes away, the partition's watch goes on at the next one after the last delivered position, so
//! the client sees no gap and no change twice. Nothing is buffered here: the client's stream is polled by its
//! connection, and polls the brokers' streams in turn, so a slow client holds the brokers back through HTTP/2
//! flow control.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::{BrokerWatchRequest, BrokerWatchResponse, broker_watch_response};
use evenkeel_protocol::v1::{WatchRequest, WatchResponse};
use evenkeel_protocol::{NodeId, PartitionId};
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::watch as published;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::reads::call_setback;
use crate::refusals::Refusal;
use crate::replay::{Next, Replay, Setback};
use crate::topology::{SeenLeader, SharedTopology};
use crate::writes::Router;

/// A watch whose partition could not be watched anywhere for this long ends; the client may resume it.
const UNWATCHABLE_MAX: Duration = Duration::from_secs(60);
/// A broker that has not accepted a watch by then is asked again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Changes of all the partitions asked for, until `stopping`.
pub(crate) fn changes(
    router: &Arc<Router>,
    request: &WatchRequest,
    partitions_count: u32,
    stopping: CancellationToken,
) -> Result<impl Stream<Item = Result<WatchResponse, Refusal>> + Send + use<>, Refusal> {
    let starts = starts(request, partitions_count)?;
    let watches = starts.into_iter().map(|(partition, after)| {
        let watch = PartitionWatch {
            router: Arc::clone(router),
            topology: router.topology.clone(),
            partition,
            prefix: request.prefix.clone(),
            after,
            told: false,
            open: None,
            replay: Replay::default(),
            last_open_at: Instant::now(),
        };
        Box::pin(stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            let item = watch.next().await;
            let goes_on = item.is_ok();
            Some((item, goes_on.then_some(watch)))
        }))
    });
    let stopped = stream::once(async { Err(Refusal::Stopping) });
    Ok(stream::select_all(watches).take_until(stopping.cancelled_owned()).chain(stopped))
}

/// Which partitions to watch, each after which position.
fn starts(
    request: &WatchRequest,
    partitions_count: u32,
) -> Result<BTreeMap<PartitionId, Option<u64>>, Refusal> {
    let asked: BTreeSet<u32> = if request.partition_ids.is_empty() {
        (1..=partitions_count).collect()
    } else {
        request.partition_ids.iter().copied().collect()
    };
    let named = asked.iter().copied().chain(request.after.iter().map(|after| after.partition_id));
    for partition in named {
        if partition == 0 || partition > partitions_count {
            return Err(Refusal::UnknownPartition { partition, partitions_count });
        }
    }
    let mut starts: BTreeMap<PartitionId, Option<u64>> =
        asked.into_iter().map(|partition| (PartitionId(partition), None)).collect();
    for (index, after) in request.after.iter().enumerate() {
        let problem = match starts.get_mut(&PartitionId(after.partition_id)) {
            Some(start @ None) => {
                *start = Some(after.position);
                continue;
            }
            Some(Some(_)) => "is named twice in after; give one position",
            None => "is named in after but not in partition_ids; add it there",
        };
        let problem = format!("partition {} {problem}", after.partition_id);
        return Err(Refusal::invalid("BAD_AFTER", format!("after[{index}]"), problem));
    }
    Ok(starts)
}

struct OpenWatch {
    node: NodeId,
    /// Who led by the published view when it was opened; a hint may have been newer.
    seen: SeenLeader,
    changes: Streaming<BrokerWatchResponse>,
}

struct PartitionWatch {
    router: Arc<Router>,
    topology: published::Receiver<SharedTopology>,
    partition: PartitionId,
    prefix: Bytes,
    /// Everything up to here has been delivered.
    after: Option<u64>,
    /// Whether the client has been told any position.
    told: bool,
    open: Option<OpenWatch>,
    replay: Replay,
    last_open_at: Instant,
}

impl PartitionWatch {
    /// The next changes, across as many leaders as it takes; after an error the watch is over.
    async fn next(&mut self) -> Result<WatchResponse, Refusal> {
        loop {
            let setback = match &mut self.open {
                None => match self.open().await {
                    Ok(open) => {
                        self.open = Some(open);
                        continue;
                    }
                    Err((asked, setback)) => {
                        self.pause_after(setback?, asked).await?;
                        continue;
                    }
                },
                Some(open) => {
                    let node = open.node;
                    let replaced = replaced(&mut self.topology, self.partition, node, open.seen);
                    let received = tokio::select! {
                        biased;
                        received = open.changes.message() => received,
                        () = replaced => Ok(None),
                    };
                    let answer = match received {
                        Ok(Some(message)) => message.result,
                        Ok(None) => None,
                        Err(status) => {
                            call_setback(&status)?;
                            None
                        }
                    };
                    match answer {
                        Some(broker_watch_response::Result::Changes(changes)) => {
                            self.last_open_at = Instant::now();
                            self.replay = Replay::default();
                            if let Some(fresh) = self.undelivered(changes) {
                                return Ok(fresh);
                            }
                            continue;
                        }
                        Some(broker_watch_response::Result::OutOfRange(range)) => {
                            return Err(Refusal::OutOfRange {
                                partition: self.partition,
                                first_available_position: range.first_available_position,
                            });
                        }
                        Some(broker_watch_response::Result::NotLeader(not)) => {
                            (Setback::NotLeader { hint: not.leader.map(NodeId), term: not.term }, node)
                        }
                        Some(broker_watch_response::Result::Refused(_)) => (Setback::Stopped, node),
                        None => (Setback::Disconnected, node),
                    }
                }
            };
            self.open = None;
            let (setback, node) = setback;
            self.pause_after(setback, Some(node)).await?;
        }
    }

    async fn open(&self) -> Result<OpenWatch, (Option<NodeId>, Result<Setback, Refusal>)> {
        let (target, seen) = self.router.target(&self.replay, self.partition);
        let Some((node, link)) = target.and_then(|node| Some((node, self.router.links.get(node)?))) else {
            return Err((target, Ok(Setback::NoLeader)));
        };
        let request = BrokerWatchRequest {
            partition_id: self.partition.0,
            prefix: self.prefix.clone(),
            after_position: self.after,
        };
        match timeout(OPEN_TIMEOUT, link.watch_client().watch(request)).await {
            Ok(Ok(response)) => Ok(OpenWatch { node, seen, changes: response.into_inner() }),
            Ok(Err(status)) => Err((target, call_setback(&status))),
            Err(_) => Err((target, Ok(Setback::NoAnswer))),
        }
    }

    async fn pause_after(&mut self, setback: Setback, asked: Option<NodeId>) -> Result<(), Refusal> {
        let give_up_at = self.last_open_at + UNWATCHABLE_MAX;
        if Instant::now() >= give_up_at {
            return Err(Refusal::Unavailable { partition: self.partition, last: setback.reason() });
        }
        let (_, seen) = self.router.target(&self.replay, self.partition);
        if let Next::Wait(pause) = self.replay.after(setback, asked, rand::random()) {
            self.router.wait_for_leader_change(self.partition, seen, pause, give_up_at).await;
        }
        Ok(())
    }

    /// What of `changes` the client has not had yet; `None` when that is nothing new.
    fn undelivered(&mut self, mut changes: WatchResponse) -> Option<WatchResponse> {
        let after = self.after;
        if let Some(after) = after {
            changes.events.retain(|event| event.record.as_ref().is_some_and(|r| r.position > after));
            changes.position = changes.position.max(after);
        }
        let news = !self.told || !changes.events.is_empty() || after < Some(changes.position);
        self.after = Some(changes.position);
        self.told = true;
        changes.partition_id = self.partition.0;
        news.then_some(changes)
    }
}

/// Ends when another broker than `node` has come to lead since `seen`: an isolated old leader would never tell.
async fn replaced(
    topology: &mut published::Receiver<SharedTopology>,
    partition: PartitionId,
    node: NodeId,
    seen: SeenLeader,
) {
    let other_leads =
        topology.wait_for(|view| view.partition(partition).is_some_and(|p| p.is_led_by_other(node, seen)));
    if other_leads.await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_protocol::v1::PartitionPosition;

    fn request(partition_ids: &[u32], after: &[(u32, u64)]) -> WatchRequest {
        WatchRequest {
            prefix: Bytes::new(),
            partition_ids: partition_ids.to_vec(),
            after: after
                .iter()
                .map(|&(partition_id, position)| PartitionPosition { partition_id, position })
                .collect(),
        }
    }

    #[test]
    fn a_watch_covers_what_was_asked_for_and_refuses_contradictions() {
        let all = starts(&request(&[], &[(2, 7)]), 3).unwrap();
        let expected = [(PartitionId(1), None), (PartitionId(2), Some(7)), (PartitionId(3), None)];
        assert_eq!(all.into_iter().collect::<Vec<_>>(), expected);
        assert!(matches!(
            starts(&request(&[4], &[]), 3),
            Err(Refusal::UnknownPartition { partition: 4, partitions_count: 3 })
        ));
        for bad in [request(&[1], &[(2, 7)]), request(&[], &[(1, 1), (1, 2)])] {
            assert!(matches!(starts(&bad, 3), Err(Refusal::Invalid { reason: "BAD_AFTER", .. })));
        }
    }
}
