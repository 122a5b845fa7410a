//! The way of a write: to its partition's leader in one hop, and when that fails, parked and replayed with the
//! same request id until the outcome is known or time is up. Clients see no error while a leader changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::refused::Reason;
use evenkeel_protocol::internal::v1::{Command, outcome, write_result};
use evenkeel_protocol::v1::{BatchOperation, RequestId};
use evenkeel_protocol::{NodeId, PartitionId, SYSTEM_GROUP};
use metrics::Gauge;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::broker_link::BrokerLinks;
use crate::byte_budget::{ByteBudget, HeldBytes};
use crate::metric_definitions;
use crate::options::{Options, bound};
use crate::refusals::Refusal;
use crate::replay::{Next, Replay, Setback};
use crate::request_ids::Lanes;
use crate::topology::{SeenLeader, SharedTopology};
use crate::write_stream::{Ended, Outstanding};

/// An answer that takes longer is also watched for a change of leader, which a dead broker never reports.
pub(crate) const ANSWER_USUAL_MAX: Duration = Duration::from_millis(50);
/// After another broker leads, the old one's answer may still be on its way.
pub(crate) const ANSWER_GRACE: Duration = Duration::from_millis(20);

/// How long a write waits for a leader with room on its disk.
const DISK_FULL_PATIENCE: Duration = Duration::from_secs(1);

/// Commands under way at once: a broker that takes writes and never answers must not fill the memory.
const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;

/// Knows who leads what and how to reach them. Shared by every request.
pub(crate) struct Router {
    pub(crate) topology: watch::Receiver<SharedTopology>,
    pub(crate) links: BrokerLinks,
    pub(crate) lanes: Lanes,
    /// Commands of all writes under way, parked or not.
    pub(crate) under_way: ByteBudget,
    /// Commands of those that wait for a leader.
    parked: ByteBudget,
    parked_count: Gauge,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    pub(crate) park_timeout: Duration,
}

/// Counts a request as parked while it exists.
struct Parked<'a> {
    count: &'a Gauge,
    _bytes: HeldBytes<'a>,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.count.decrement(1.0);
    }
}

impl Router {
    pub(crate) fn new(
        options: &Options,
        topology: watch::Receiver<SharedTopology>,
        links: BrokerLinks,
    ) -> Self {
        let in_flight_max = bound(options.routing.in_flight_max);
        Self {
            topology,
            links,
            lanes: Lanes::default(),
            under_way: ByteBudget::new(IN_FLIGHT_BYTES_MAX.max(2 * bound(options.limits.batch_bytes_max))),
            parked: ByteBudget::new(bound(options.routing.parked_bytes_max)),
            parked_count: metric_definitions::parked(),
            in_flight: Arc::new(Semaphore::new(in_flight_max)),
            in_flight_max,
            park_timeout: options.routing.park_timeout,
        }
    }

    /// Room for one more request; held while it is under way.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.in_flight)
            .try_acquire_owned()
            .map_err(|_| Refusal::TooManyInFlight { in_flight_max: self.in_flight_max })
    }

    /// The cluster's partitions count, waiting for the first broker if need be.
    pub(crate) async fn partitions_count(&self, deadline: Instant) -> Result<u32, Refusal> {
        let known = self.topology.borrow().partitions_count;
        if known != 0 {
            return Ok(known);
        }
        let mut topology = self.topology.clone();
        match timeout_at(deadline, topology.wait_for(|view| view.partitions_count != 0)).await {
            Ok(Ok(view)) => Ok(view.partitions_count),
            Ok(Err(_)) | Err(_) => Err(Refusal::NoTopology),
        }
    }

    /// Writes `operations`, all of `partition`, at most once, and tells what came of it.
    pub(crate) async fn write(
        &self,
        partition: PartitionId,
        request_id: Option<RequestId>,
        operations: Vec<BatchOperation>,
        deadline: Instant,
    ) -> Result<outcome::Applied, Refusal> {
        let (id, lane) = match request_id {
            Some(id) => (id, None),
            None => {
                let lane = self.lanes.take();
                (lane.id(), Some(lane))
            }
        };
        let trace = evenkeel_traces::command::field(evenkeel_traces::current()).into();
        let command = Command { request_id: Some(id), operations, trace, ..Default::default() };
        let command = Bytes::from(command.encode_to_vec());
        evenkeel_traces::note("evenkeel.partition", partition.0);
        let _bytes = self
            .under_way
            .take(command.len())
            .ok_or(Refusal::BytesInFlightFull { bytes_max: self.under_way.bytes_max })?;
        let in_doubt = Refusal::OutcomeUnknown { partition, id, id_given: lane.is_none() };
        let result = self.send_until_known(partition, &command, in_doubt, deadline, None).await;
        if let Some(lane) = lane
            && !matches!(result, Err(Refusal::OutcomeUnknown { .. }))
        {
            lane.settle();
        }
        applied(result?)
    }

    /// Sends a command until its outcome is known or `deadline`. `first` is what the first attempt has brought already.
    pub(crate) async fn send_until_known(
        &self,
        partition: PartitionId,
        command: &Bytes,
        in_doubt: Refusal,
        deadline: Instant,
        mut first: Option<Attempted>,
    ) -> Result<outcome::Outcome, Refusal> {
        let mut replay = Replay::default();
        let mut parked: Option<Parked<'_>> = None;
        let mut full_since = None;
        loop {
            let attempted = match first.take() {
                Some(first) => first,
                None => self.attempt_at_leader(&replay, partition, command, deadline).await,
            };
            let Attempted { target, seen, attempt } = attempted;
            let setback = match target {
                None => Setback::NoLeader,
                Some(node) => match attempt {
                    Attempt::Known(outcome) => return Ok(outcome),
                    Attempt::Refused(refusal) => return Err(refusal),
                    Attempt::DiskFull(detail) => {
                        // Its leader hands over where it can; where it cannot, waiting longer helps nobody.
                        if full_since.get_or_insert_with(Instant::now).elapsed() >= DISK_FULL_PATIENCE {
                            let full = Refusal::DiskFull { partition, broker: node, detail };
                            return Err(if replay.outcome_unknown() { in_doubt } else { full });
                        }
                        Setback::DiskFull
                    }
                    Attempt::Setback(setback) => setback,
                },
            };
            let next = replay.after(setback, target, rand::random());
            if sheds(setback, partition) && !replay.outcome_unknown() {
                return Err(Refusal::BrokerOverloaded { partition });
            }
            if Instant::now() >= deadline {
                let written_not = Refusal::Unavailable { partition, last: setback.reason() };
                return Err(if replay.outcome_unknown() { in_doubt } else { written_not });
            }
            metric_definitions::replays(setback.reason()).increment(1);
            evenkeel_traces::event("replayed", setback.reason());
            let Next::Wait(pause) = next else { continue };
            if parked.is_none() {
                parked = self.park(command.len());
                if parked.is_none() {
                    // "Full" would promise that nothing was written.
                    let full = Refusal::ParkedFull { partition, parked_bytes_max: self.parked.bytes_max };
                    return Err(if replay.outcome_unknown() { in_doubt } else { full });
                }
            }
            self.wait_for_leader_change(partition, seen, pause, deadline).await;
            if Instant::now() >= deadline {
                let written_not = Refusal::Unavailable { partition, last: setback.reason() };
                return Err(if replay.outcome_unknown() { in_doubt } else { written_not });
            }
        }
    }

    fn park(&self, bytes: usize) -> Option<Parked<'_>> {
        let held = self.parked.take(bytes)?;
        self.parked_count.increment(1.0);
        Some(Parked { count: &self.parked_count, _bytes: held })
    }

    /// Whom to ask now, and who leads by the published view.
    pub(crate) fn target(&self, replay: &Replay, partition: PartitionId) -> (Option<NodeId>, SeenLeader) {
        let topology = self.topology.borrow();
        match topology.partition(partition) {
            Some(view) => (replay.target(view), view.seen()),
            None => (None, (None, None)),
        }
    }

    async fn attempt_at_leader(
        &self,
        replay: &Replay,
        partition: PartitionId,
        command: &Bytes,
        deadline: Instant,
    ) -> Attempted {
        let (target, seen) = self.target(replay, partition);
        let attempt = match target {
            Some(node) => self.attempt(node, seen, partition, command, deadline).await,
            None => Attempt::Setback(Setback::NoLeader),
        };
        Attempted { target, seen, attempt }
    }

    async fn attempt(
        &self,
        node: NodeId,
        seen: SeenLeader,
        partition: PartitionId,
        command: &Bytes,
        deadline: Instant,
    ) -> Attempt {
        let outstanding = self.links.get(node).and_then(|link| link.write(partition, command.clone()));
        let Some(mut outstanding) = outstanding else { return Attempt::Setback(Setback::NotSent) };
        let usual = (Instant::now() + ANSWER_USUAL_MAX).min(deadline);
        let ended = match timeout_at(usual, &mut outstanding).await {
            Ok(ended) => Some(ended),
            Err(_) => self.await_slow_answer(&mut outstanding, (node, seen), partition, deadline).await,
        };
        ended.map_or(Attempt::Setback(Setback::NoAnswer), Attempt::from)
    }

    /// Waits on until another broker leads the partition (then a moment more) or the deadline.
    async fn await_slow_answer(
        &self,
        outstanding: &mut Outstanding,
        (node, seen): (NodeId, SeenLeader),
        partition: PartitionId,
        deadline: Instant,
    ) -> Option<Ended> {
        let mut topology = self.topology.clone();
        let replaced = async {
            let moved = topology
                .wait_for(|view| view.partition(partition).is_some_and(|p| p.is_led_by_other(node, seen)));
            if moved.await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(ANSWER_GRACE).await;
        };
        tokio::select! {
            biased;
            ended = outstanding => Some(ended),
            () = replaced => None,
            () = sleep_until(deadline) => None,
        }
    }

    /// Returns when the partition's leader differs from `seen`, or after `pause`.
    pub(crate) async fn wait_for_leader_change(
        &self,
        partition: PartitionId,
        seen: SeenLeader,
        pause: Duration,
        deadline: Instant,
    ) {
        let mut topology = self.topology.clone();
        let changed = topology.wait_for(|view| {
            view.partition(partition).is_some_and(|p| p.leader.is_some() && p.seen() != seen)
        });
        let until = (Instant::now() + pause).min(deadline);
        // A closed topology means that the gateway stops; the pause still bounds the rate of attempts.
        let stopped = timeout_at(until, changed).await.is_ok_and(|changed| changed.is_err());
        if stopped {
            sleep_until(until).await;
        }
    }
}

/// Whether a request goes back to its client at once: asking an overloaded broker again from here would keep it so. What
/// the cluster keeps about itself is little, and asked again.
pub(crate) fn sheds(setback: Setback, partition: PartitionId) -> bool {
    setback == Setback::Overloaded && partition != SYSTEM_GROUP
}

/// What a known outcome means for whoever asked.
pub(crate) fn applied(outcome: outcome::Outcome) -> Result<outcome::Applied, Refusal> {
    match outcome {
        outcome::Outcome::Applied(applied) => Ok(applied),
        outcome::Outcome::PreconditionFailed(failed) => Err(Refusal::PreconditionFailed {
            operation: failed.operation,
            current_version: failed.current_version,
        }),
        outcome::Outcome::Superseded(newer) => {
            Err(Refusal::Superseded { last_sequence: newer.last_sequence })
        }
        outcome::Outcome::Malformed(malformed) => Err(Refusal::BrokerMisbehaved { detail: malformed.reason }),
    }
}

/// One attempt: who was asked, who led by the published view, and what came of it.
pub(crate) struct Attempted {
    pub(crate) target: Option<NodeId>,
    pub(crate) seen: SeenLeader,
    pub(crate) attempt: Attempt,
}

/// What one attempt brought.
pub(crate) enum Attempt {
    Known(outcome::Outcome),
    Refused(Refusal),
    DiskFull(String),
    Setback(Setback),
}

impl From<Ended> for Attempt {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::NotSent => Self::Setback(Setback::NotSent),
            Ended::Unknown => Self::Setback(Setback::Disconnected),
            Ended::Answered(result) => Self::from(result),
        }
    }
}

impl From<write_result::Result> for Attempt {
    fn from(result: write_result::Result) -> Self {
        match result {
            write_result::Result::Outcome(outcome) => match outcome.outcome {
                Some(outcome) => Self::Known(outcome),
                None => Self::Setback(Setback::UnknownOutcome),
            },
            write_result::Result::NotLeader(not) => {
                Self::Setback(Setback::NotLeader { hint: not.leader.map(NodeId), term: not.term })
            }
            write_result::Result::Refused(refused) => match refused.reason() {
                Reason::Overloaded => Self::Setback(Setback::Overloaded),
                Reason::DiskFull => Self::DiskFull(refused.detail),
                Reason::Stopped | Reason::UnknownPartition => Self::Setback(Setback::Stopped),
                Reason::TooLarge => {
                    Self::Refused(Refusal::invalid("BATCH_TOO_LARGE", "operations", refused.detail))
                }
                Reason::Malformed => Self::Refused(Refusal::BrokerMisbehaved { detail: refused.detail }),
                Reason::UnknownOutcome | Reason::Storage | Reason::Unspecified => {
                    Self::Setback(Setback::UnknownOutcome)
                }
            },
        }
    }
}
