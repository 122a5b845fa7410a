//! The way of a read: to the partition's leader, asked again elsewhere after a setback; or, when the client
//! accepts a stale answer, to any replica that can be reached.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1::refused::Reason;
use evenkeel_protocol::internal::v1::{NotLeader, Refused};
use evenkeel_protocol::{NodeId, PartitionId};
use rand::seq::SliceRandom;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Status};

use crate::broker_link::BrokerLink;
use crate::metric_definitions;
use crate::refusals::Refusal;
use crate::replay::{Next, Replay, Setback};
use crate::topology::Topology;
use crate::writes::{Router, sheds};

/// A broker that has not answered a read by then is asked again, or another one is: reads change nothing.
const READ_ATTEMPT_MAX: Duration = Duration::from_secs(1);

/// What is asked of a broker, as part of the trace at hand.
pub(crate) fn traced<T>(ask: T) -> Request<T> {
    let mut request = Request::new(ask);
    if let Some(trace) = evenkeel_traces::current().and_then(|trace| trace.to_string().parse().ok()) {
        request.metadata_mut().insert(evenkeel_traces::TRACEPARENT, trace);
    }
    request
}

/// What a broker says to a read.
pub(crate) enum Answer<T> {
    Value(T),
    NotLeader(NotLeader),
    Refused(Refused),
}

impl Router {
    /// Asks until a broker answers with a value, or `deadline`.
    pub(crate) async fn read<T, F>(
        &self,
        partition: PartitionId,
        stale: bool,
        deadline: Instant,
        call: impl Fn(Arc<BrokerLink>) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Answer<T>, Status>>,
    {
        let mut replay = Replay::default();
        let mut candidates =
            if stale { reachable_replicas(&self.topology.borrow(), partition) } else { Vec::new() };
        loop {
            let (leader, seen) = self.target(&replay, partition);
            let target = candidates.pop().or(leader);
            let setback = match target.and_then(|node| self.links.get(node)) {
                None => Setback::NoLeader,
                Some(link) => {
                    let until = (Instant::now() + READ_ATTEMPT_MAX).min(deadline);
                    match timeout_at(until, call(Arc::clone(link))).await {
                        Ok(Ok(Answer::Value(value))) => return Ok(value),
                        Ok(answer) => setback_of(answer)?,
                        Err(_) => Setback::NoAnswer,
                    }
                }
            };
            if sheds(setback, partition) && candidates.is_empty() {
                return Err(Refusal::BrokerOverloaded { partition });
            }
            if Instant::now() >= deadline {
                return Err(gave_up(partition, setback));
            }
            metric_definitions::replays(setback.reason()).increment(1);
            evenkeel_traces::event("replayed", setback.reason());
            if !candidates.is_empty() {
                continue;
            }
            if let Next::Wait(pause) = replay.after(setback, target, rand::random()) {
                self.wait_for_leader_change(partition, seen, pause, deadline).await;
                if Instant::now() >= deadline {
                    return Err(gave_up(partition, setback));
                }
            }
        }
    }
}

/// Why an answer without a value is worth another attempt; an error when it is not.
fn setback_of<T>(answer: Result<Answer<T>, Status>) -> Result<Setback, Refusal> {
    match answer {
        Ok(Answer::NotLeader(not)) => Ok(Setback::NotLeader { hint: not.leader.map(NodeId), term: not.term }),
        Ok(Answer::Refused(refused)) => match refused.reason() {
            Reason::Malformed | Reason::TooLarge => Err(Refusal::BrokerMisbehaved { detail: refused.detail }),
            Reason::Overloaded => Ok(Setback::Overloaded),
            Reason::DiskFull => Ok(Setback::DiskFull),
            Reason::Stopped | Reason::UnknownPartition => Ok(Setback::Stopped),
            Reason::UnknownOutcome | Reason::Storage | Reason::Unspecified => Ok(Setback::NoAnswer),
        },
        Ok(Answer::Value(_)) => Ok(Setback::NoAnswer),
        Err(status) => call_setback(&status),
    }
}

/// A call's failure: another broker may help, unless the broker did not understand it.
pub(crate) fn call_setback(status: &Status) -> Result<Setback, Refusal> {
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange | Code::Internal => {
            // A connection that breaks in mid-answer surfaces as INTERNAL with a transport error below it.
            if std::error::Error::source(status).is_some() {
                return Ok(Setback::Disconnected);
            }
            Err(Refusal::BrokerMisbehaved { detail: status.message().to_owned() })
        }
        _ => Ok(Setback::Disconnected),
    }
}

fn gave_up(partition: PartitionId, last: Setback) -> Refusal {
    match last {
        Setback::NoAnswer | Setback::UnknownOutcome => Refusal::ReadTimedOut { partition },
        last => Refusal::Unavailable { partition, last: last.reason() },
    }
}

/// In random order, so that stale reads spread.
fn reachable_replicas(topology: &Topology, partition: PartitionId) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = topology.partition(partition).map_or_else(Vec::new, |view| {
        let reachable = |node: &NodeId| topology.broker(*node).is_some_and(|broker| broker.reachable);
        view.replicas.iter().copied().filter(reachable).collect()
    });
    nodes.shuffle(&mut rand::rng());
    nodes
}
