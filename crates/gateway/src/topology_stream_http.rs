//! The cluster as it changes, as server-sent events.
//!
//! ```text
//! event: snapshot    the whole cluster: first, and whenever its shape changed
//! event: changed     the brokers and partitions that are different now, each as a whole
//! ```
//!
//! Lag and record counts change with every write: what changes within [`TELL_INTERVAL`] is told together, so a stream
//! costs the same under any load, and who reads slowly is told less often.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::Stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster_json::{ClusterJson, cluster};
use crate::http::{HttpState, problem_with};
use crate::topology::SharedTopology;

/// Streams open at once.
const STREAMS_MAX: usize = 64;
/// The least time between two events of a stream.
const TELL_INTERVAL: Duration = Duration::from_millis(250);
/// So that proxies do not take a quiet cluster for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How many streams there may still be. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TopologyStreams(Arc<Semaphore>);

impl Default for TopologyStreams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

pub(crate) fn routes() -> Router<HttpState> {
    Router::new().route("/cluster/v2/topology/events", get(events))
}

async fn events(State(state): State<HttpState>, uri: Uri) -> Response {
    let Ok(permit) = Arc::clone(&state.topology_streams.0).try_acquire_owned() else {
        let detail =
            format!("{STREAMS_MAX} streams of the topology are open already; close some, or ask again later");
        return problem_with(StatusCode::SERVICE_UNAVAILABLE, &uri, detail, json!({"reason": "TOO_MANY"}));
    };
    let follower =
        Follower { topology: state.topology, told: None, stopping: state.stopping, _permit: permit };
    Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

struct Follower {
    topology: watch::Receiver<SharedTopology>,
    told: Option<ClusterJson>,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut this| async move {
            let event = this.next_event().await?;
            Some((Ok(event), this))
        })
    }

    async fn next_event(&mut self) -> Option<Event> {
        loop {
            if self.told.is_some() {
                let stopping = self.stopping.clone();
                tokio::select! {
                    () = stopping.cancelled() => return None,
                    changed = self.wait() => if changed.is_err() { return None },
                }
            }
            let now = cluster(&self.topology.borrow_and_update());
            let news = news(self.told.as_ref(), &now);
            self.told = Some(now);
            match news {
                Some(Ok(event)) => return Some(event),
                Some(Err(error)) => tracing::error!("the topology has no JSON form: {error}"),
                None => {}
            }
        }
    }

    async fn wait(&mut self) -> Result<(), watch::error::RecvError> {
        sleep(TELL_INTERVAL).await;
        self.topology.changed().await
    }
}

/// What is to be told of a cluster, where anything is.
fn news(told: Option<&ClusterJson>, now: &ClusterJson) -> Option<Result<Event, axum::Error>> {
    match told.filter(|told| told.has_frame_of(now)) {
        None => Some(Event::default().event("snapshot").json_data(now)),
        Some(told) => {
            let brokers = different(&told.brokers, &now.brokers);
            let partitions = different(&told.partitions, &now.partitions);
            let anything = !brokers.is_empty() || !partitions.is_empty();
            let changed = json!({"brokers": brokers, "partitions": partitions});
            anything.then(|| Event::default().event("changed").json_data(changed))
        }
    }
}

/// Those that are not as before.
fn different<'a, T: PartialEq + Serialize>(before: &[T], now: &'a [T]) -> Vec<&'a T> {
    before.iter().zip(now).filter(|(before, now)| before != now).map(|(_, now)| now).collect()
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::{Epoch, NodeId, PartitionId};

    use super::*;
    use crate::topology::{PartitionView, Topology};

    fn led_by(leaders: &[u64]) -> ClusterJson {
        let partition = |(id, leader): (u32, &u64)| PartitionView {
            id: PartitionId(id),
            leader: Some(NodeId(*leader)),
            epoch: Some(Epoch { term: 1, node: NodeId(*leader) }),
            primary: None,
            replicas: Vec::new(),
            records: 0,
            counted: true,
        };
        let partitions = (1..).zip(leaders).map(partition).collect();
        cluster(&Topology { partitions_count: leaders.len() as u32, partitions, ..Topology::default() })
    }

    /// Name and data, as they go over the wire.
    async fn wire(event: Option<Result<Event, axum::Error>>) -> Option<String> {
        let stream = futures::stream::iter([Ok::<_, Infallible>(event?.unwrap())]);
        let body = Sse::new(stream).into_response().into_body();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn only_what_is_different_is_told_and_everything_when_the_shape_changed() {
        let (one, other, larger) = (led_by(&[0, 0]), led_by(&[0, 1]), led_by(&[0, 1, 2]));
        assert!(wire(news(None, &one)).await.unwrap().starts_with("event: snapshot\n"));
        assert_eq!(wire(news(Some(&one), &one)).await, None);
        let changed = wire(news(Some(&one), &other)).await.unwrap();
        assert!(changed.starts_with("event: changed\n"), "{changed}");
        assert!(changed.contains("\"partitionId\":2") && !changed.contains("\"partitionId\":1"), "{changed}");
        assert!(wire(news(Some(&other), &larger)).await.unwrap().starts_with("event: snapshot\n"));
    }
}
