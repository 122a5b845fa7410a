//! One client's `WriteStream`: many writes under way at once, each answered under its tag.
//!
//! All of it is one stream of answers, which the client's connection polls: reading what the client sends, handing it to
//! the brokers' connections, and gathering what they answered happen there, without a task or a timer for each write. A
//! write that its leader answers takes this way alone. One with a setback goes on as a unary write does, parked and
//! replayed with the same request id, beside the others.
//!
//! A message of answers carries whatever is there when the connection takes it. The stream is bounded by not reading:
//! neither while as many writes are under way as may be, nor while the client does not take its answers.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::{Command, outcome};
use evenkeel_protocol::v1::{
    BatchResponse, RequestId, StreamedResult, StreamedResults, StreamedWrite, StreamedWrites, streamed_result,
};
use evenkeel_protocol::{NodeId, PartitionId};
use evenkeel_security::Admission;
use evenkeel_traces::{Kind, Span, begin};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};

use crate::metric_definitions::MethodMetrics;
use crate::options::Limits;
use crate::refusals::Refusal;
use crate::replay::{Replay, Setback};
use crate::topology::{SeenLeader, Topology};
use crate::write_stream::{Ended, Reply};
use crate::writes::{ANSWER_GRACE, ANSWER_USUAL_MAX, Attempt, Attempted, Router, applied};

/// Writes of one stream under way at once; what follows is not read until some are answered.
pub(crate) const STREAM_WRITES_MAX: usize = 4_096;
/// Bytes of commands of one stream under way at once; the last one may exceed it.
const STREAM_BYTES_MAX: usize = 16 << 20;
/// Answers in one message.
const MESSAGE_RESULTS_MAX: usize = 1_024;
/// How often writes that wait for an answer are looked through for those whose leader was replaced.
const LOOK_THROUGH: Duration = ANSWER_GRACE;

/// A write that its partition's leader was asked to do.
struct UnderWay {
    sent: Sent,
    target: NodeId,
    seen: SeenLeader,
    /// Another broker leads its partition since it was last looked at; the answer may still be on its way.
    overtaken: bool,
}

/// What is needed to send a write again and to answer it.
struct Sent {
    tag: u64,
    partition: PartitionId,
    id: RequestId,
    id_given: bool,
    operations: usize,
    command: Bytes,
    at: Instant,
    deadline: Instant,
    span: Span,
}

impl Sent {
    fn in_doubt(&self) -> Refusal {
        Refusal::OutcomeUnknown { partition: self.partition, id: self.id, id_given: self.id_given }
    }
}

type Outcome = Result<outcome::Outcome, Refusal>;

/// The answers to one client's writes.
pub(crate) struct StreamedAnswers<S> {
    router: Arc<Router>,
    limits: Limits,
    metrics: MethodMetrics,
    partitions_count: u32,
    /// `None` when the client sends no more.
    inbound: Option<S>,
    /// Read and not looked at yet.
    read: std::vec::IntoIter<StreamedWrite>,
    /// By number; numbers grow.
    under_way: BTreeMap<u64, UnderWay>,
    next_number: u64,
    /// Ends of those under way, hence no more than they.
    ends: mpsc::UnboundedReceiver<(u64, Ended)>,
    ends_to: mpsc::UnboundedSender<(u64, Ended)>,
    ended: Vec<(u64, Ended)>,
    replays: FuturesUnordered<BoxFuture<'static, (Sent, Outcome)>>,
    /// A permit for each write under way, replayed ones too.
    room: Option<OwnedSemaphorePermit>,
    bytes: usize,
    results: Vec<StreamedResult>,
    look_through: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    failure: Option<Status>,
    /// What the client was let in with; asked again for each message.
    admission: Option<Admission>,
    _open: OwnedSemaphorePermit,
}

impl<S> StreamedAnswers<S>
where
    S: Stream<Item = Result<StreamedWrites, Status>> + Unpin,
{
    /// `open` is held as long as the stream is; `stopping` ends it once what was read is answered.
    pub(crate) fn new(
        router: Arc<Router>,
        limits: Limits,
        partitions_count: u32,
        (inbound, admission): (S, Option<Admission>),
        stopping: CancellationToken,
        open: OwnedSemaphorePermit,
    ) -> Self {
        let (ends_to, ends) = mpsc::unbounded_channel();
        Self {
            router,
            limits,
            metrics: MethodMetrics::new("WriteStream"),
            partitions_count,
            inbound: Some(inbound),
            read: Vec::new().into_iter(),
            under_way: BTreeMap::new(),
            next_number: 0,
            ends,
            ends_to,
            ended: Vec::new(),
            replays: FuturesUnordered::new(),
            room: None,
            bytes: 0,
            results: Vec::new(),
            look_through: Box::pin(tokio::time::sleep(LOOK_THROUGH)),
            stopping: Box::pin(stopping.cancelled_owned()),
            failure: None,
            admission,
            _open: open,
        }
    }

    fn is_full(&self) -> bool {
        self.under_way.len() + self.replays.len() >= STREAM_WRITES_MAX || self.bytes >= STREAM_BYTES_MAX
    }

    /// Starts what was read, and reads on, while there is room.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        loop {
            let now = Instant::now();
            let topology = Arc::clone(&self.router.topology.borrow());
            while self.results.len() < MESSAGE_RESULTS_MAX && !self.is_full() {
                let Some(write) = self.read.next() else { break };
                let (tag, started) = (write.tag, self.start(write, &topology, now));
                if let Err(refusal) = started {
                    self.answer(tag, now, Err(refusal));
                }
            }
            if self.read.len() > 0 || self.results.len() >= MESSAGE_RESULTS_MAX || self.is_full() {
                return;
            }
            let Some(inbound) = &mut self.inbound else { return };
            match inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(Err(denied)) = self.admission.as_ref().map(Admission::check) {
                        self.inbound = None;
                        self.failure = Some(denied.into());
                        return;
                    }
                    self.read = message.writes.into_iter();
                }
                Poll::Ready(Some(Err(status))) => {
                    self.inbound = None;
                    self.failure = Some(status);
                    return;
                }
                Poll::Ready(None) => {
                    self.inbound = None;
                    return;
                }
                Poll::Pending => return,
            }
        }
    }

    /// Hands a write to its leader's connection. An error means that nothing was sent.
    fn start(&mut self, write: StreamedWrite, topology: &Topology, now: Instant) -> Result<(), Refusal> {
        let StreamedWrite { tag, operations, request_id } = write;
        let partition = self.limits.check_batch(&operations, self.partitions_count)?;
        let room = self.router.admit()?;
        let id = request_id.unwrap_or_else(|| self.router.lanes.take().id());
        let count = operations.len();
        // A stream has no end, so each of its writes is a trace by itself.
        let mut span = begin(|| "evenkeel.v1.Records/WriteStream write".to_owned(), Kind::Server, None);
        span.set("evenkeel.partition", partition.0);
        let trace = evenkeel_traces::command::field(span.context()).into();
        let command = Command { request_id: Some(id), operations, trace, ..Command::default() };
        let command = Bytes::from(command.encode_to_vec());
        if !self.router.under_way.add(command.len()) {
            return Err(Refusal::BytesInFlightFull { bytes_max: self.router.under_way.bytes_max });
        }
        self.bytes += command.len();
        match &mut self.room {
            Some(all) => all.merge(room),
            None => self.room = Some(room),
        }
        let sent = Sent {
            tag,
            partition,
            id,
            id_given: request_id.is_some(),
            operations: count,
            command,
            at: now,
            deadline: now + self.router.park_timeout,
            span,
        };
        let (leader, seen) = topology
            .partition(partition)
            .map_or((None, (None, None)), |view| (Replay::default().target(view), view.seen()));
        let Some(target) = leader else {
            self.replay(sent, None);
            return Ok(());
        };
        let number = self.next_number;
        self.next_number += 1;
        let reply = Reply::Numbered(self.ends_to.clone(), number);
        let queued = (self.router.links.get(target))
            .is_some_and(|link| link.queue_write(partition, sent.command.clone(), reply));
        if queued {
            self.under_way.insert(number, UnderWay { sent, target, seen, overtaken: false });
        } else {
            self.replay_after(sent, target, seen, Setback::NotSent);
        }
        Ok(())
    }

    /// Goes on as a unary write does.
    fn replay(&self, sent: Sent, first: Option<Attempted>) {
        let router = Arc::clone(&self.router);
        self.replays.push(Box::pin(async move {
            let (doubt, deadline) = (sent.in_doubt(), sent.deadline);
            let outcome =
                router.send_until_known(sent.partition, &sent.command, doubt, deadline, first).await;
            (sent, outcome)
        }));
    }

    fn replay_after(&self, sent: Sent, target: NodeId, seen: SeenLeader, setback: Setback) {
        let attempt = Attempt::Setback(setback);
        self.replay(sent, Some(Attempted { target: Some(target), seen, attempt }));
    }

    fn gather_ends(&mut self, cx: &mut Context<'_>) {
        while self.results.len() < MESSAGE_RESULTS_MAX {
            let room = MESSAGE_RESULTS_MAX - self.results.len();
            let mut ended = std::mem::take(&mut self.ended);
            let Poll::Ready(_) = self.ends.poll_recv_many(cx, &mut ended, room) else { break };
            for (number, end) in ended.drain(..) {
                // Otherwise it was replayed meanwhile.
                let Some(UnderWay { sent, target, seen, .. }) = self.under_way.remove(&number) else {
                    continue;
                };
                match Attempt::from(end) {
                    Attempt::Known(outcome) => self.end(sent, Ok(outcome)),
                    Attempt::Refused(refusal) => self.end(sent, Err(refusal)),
                    attempt => self.replay(sent, Some(Attempted { target: Some(target), seen, attempt })),
                }
            }
            self.ended = ended;
        }
        while self.results.len() < MESSAGE_RESULTS_MAX {
            let Poll::Ready(Some((sent, outcome))) = self.replays.poll_next_unpin(cx) else { break };
            self.end(sent, outcome);
        }
    }

    /// Replays those whose leader was replaced some time ago, and answers those whose time is up.
    fn look_through(&mut self, cx: &mut Context<'_>) {
        while !self.under_way.is_empty() && self.look_through.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.look_through.as_mut().reset(now + LOOK_THROUGH);
            let topology = Arc::clone(&self.router.topology.borrow());
            let mut given_up = Vec::new();
            for (number, write) in &mut self.under_way {
                // Later ones are younger.
                if now < write.sent.at + ANSWER_USUAL_MAX {
                    break;
                }
                let view = topology.partition(write.sent.partition);
                let replaced = view.is_some_and(|view| view.is_led_by_other(write.target, write.seen));
                if now >= write.sent.deadline || (replaced && write.overtaken) {
                    given_up.push(*number);
                }
                write.overtaken = replaced;
            }
            for number in given_up {
                let Some(UnderWay { sent, target, seen, .. }) = self.under_way.remove(&number) else {
                    continue;
                };
                self.replay_after(sent, target, seen, Setback::NoAnswer);
            }
        }
    }

    fn end(&mut self, mut sent: Sent, outcome: Outcome) {
        if let Err(refusal) = &outcome {
            sent.span.fail(|| refusal.to_string());
        }
        self.bytes -= sent.command.len();
        self.router.under_way.give_back(sent.command.len());
        drop(self.room.as_mut().and_then(|room| room.split(1)));
        if !sent.id_given && !matches!(outcome, Err(Refusal::OutcomeUnknown { .. })) {
            self.router.lanes.settle(sent.id);
        }
        let written = outcome.and_then(applied).and_then(|applied| {
            if applied.results.len() != sent.operations {
                let detail = format!("{} results for {} operations", applied.results.len(), sent.operations);
                return Err(Refusal::BrokerMisbehaved { detail });
            }
            let outcome::Applied { position, results } = applied;
            Ok(BatchResponse { partition_id: sent.partition.0, position, results })
        });
        self.answer(sent.tag, sent.at, written);
    }

    fn answer(&mut self, tag: u64, began: Instant, written: Result<BatchResponse, Refusal>) {
        let code = written.as_ref().map_or_else(Refusal::code, |_| Code::Ok);
        self.metrics.record(code, began.elapsed());
        let result = match written {
            Ok(written) => streamed_result::Result::Written(written),
            Err(refusal) => streamed_result::Result::Error(refusal.into()),
        };
        self.results.push(StreamedResult { tag, result: Some(result) });
    }
}

impl<S> Stream for StreamedAnswers<S>
where
    S: Stream<Item = Result<StreamedWrites, Status>> + Unpin,
{
    type Item = Result<StreamedResults, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.inbound.is_some() && this.stopping.as_mut().poll(cx).is_ready() {
            this.inbound = None;
            this.failure = Some(Refusal::Stopping.into());
        }
        this.gather_ends(cx);
        this.take_in(cx);
        this.look_through(cx);
        if !this.replays.is_empty() {
            // Those that were begun just now.
            this.gather_ends(cx);
        }
        if !this.results.is_empty() {
            let results = std::mem::take(&mut this.results);
            return Poll::Ready(Some(Ok(StreamedResults { results })));
        }
        let idle = this.under_way.is_empty() && this.replays.is_empty() && this.read.len() == 0;
        if this.inbound.is_none() && idle {
            return Poll::Ready(this.failure.take().map(Err));
        }
        Poll::Pending
    }
}

impl<S> Drop for StreamedAnswers<S> {
    fn drop(&mut self) {
        self.router.under_way.give_back(self.bytes);
    }
}
