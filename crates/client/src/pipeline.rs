//! Many writes under way at once on one stream to a gateway: what waits when the connection is ready goes in one message.
//!
//! A write takes a lane, an id of its own with a running sequence, until it is answered; its request id and its tag on
//! the stream come from there. When the stream breaks, or its gateway is silent, the next gateway gets every write that
//! has no answer, in the order in which they were submitted and with the same request ids: each applies once.
//!
//! Writes under way at the same time are applied in any order. Who needs one waits for the answer to the first.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, BatchResponse, BatchResult, DeleteResponse, PutResponse,
    RequestId, StreamedResult, StreamedResults, StreamedWrite, StreamedWrites, batch_operation,
    streamed_result,
};
use evenkeel_security::tls_problem;
use futures::Stream;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::backoff::Backoff;
use crate::client::{Client, Condition, records};
use crate::error::{ClientError, Retry, retry_advice, retry_advice_of_write};
use crate::gateways::Route;
use crate::lanes::LANES_MAX;

/// Writes in one message.
const MESSAGE_WRITES_MAX: usize = 512;
/// Bytes of keys and values in one message; the last write may exceed it.
const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// How often deadlines, silence and writes that wait to be sent again are looked at.
const LOOK_THROUGH: Duration = Duration::from_millis(10);
/// A tag's lower bits are the lane's index, the upper ones its sequence: an answer that comes too late fits nothing.
const LANE_BITS: u32 = 16;
const _: () = assert!(LANES_MAX <= 1 << LANE_BITS);

const CALL: &str = "write";

type Answer = Result<BatchResponse, ClientError>;

/// A handle to write through; clones share the stream and its bound.
#[derive(Clone, Debug)]
pub struct Pipeline {
    open: Arc<Open>,
}

/// Ends the stream when the last handle is dropped; what is under way then is still answered.
#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.driver.notify_one();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Of the connection, for more to send.
    sender: AtomicWaker,
    /// Tells the driver that the first write is under way, or that no handle is left.
    driver: Notify,
    room: Semaphore,
    call_timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    lanes: Vec<Lane>,
    free: Vec<usize>,
    /// Lanes whose writes are to be sent.
    queue: VecDeque<usize>,
    /// Lanes whose writes are to be sent again, and when.
    delayed: Vec<(Instant, usize)>,
    under_way: usize,
    submitted: u64,
    /// Which stream is the current one; those before send nothing more.
    stream: u64,
    closed: bool,
}

#[derive(Debug)]
struct Lane {
    client_id: u64,
    sequence: u64,
    write: Option<Write>,
}

#[derive(Debug)]
struct Write {
    /// Counts up over all lanes.
    number: u64,
    operations: Vec<BatchOperation>,
    reply: oneshot::Sender<Answer>,
    deadline: Instant,
    /// How often it was sent.
    attempts: u32,
    backoff: Backoff,
    last: String,
}

/// A write under way. Dropping it does not take the write back.
#[derive(Debug)]
pub struct Submitted {
    answer: oneshot::Receiver<Answer>,
    timeout: Duration,
}

impl Future for Submitted {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let timeout = self.timeout;
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            answer.unwrap_or_else(|_| Err(timed_out(timeout, 0, "the runtime that sent it has ended".into())))
        })
    }
}

fn timed_out(timeout: Duration, attempts: u32, last: String) -> ClientError {
    ClientError::DeadlineExceeded { call: CALL, timeout, attempts, last }
}

impl Pipeline {
    /// Opens no stream before the first write.
    pub(crate) fn open(client: &Client, under_way_max: usize) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            sender: AtomicWaker::new(),
            driver: Notify::new(),
            room: Semaphore::new(under_way_max.clamp(1, LANES_MAX)),
            call_timeout: client.inner().options.call_timeout,
        });
        let driver = Driver { client: client.clone(), shared: Arc::clone(&shared) };
        tokio::spawn(driver.run());
        Self { open: Arc::new(Open(shared)) }
    }

    /// Writes a record.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Option<Condition>,
    ) -> Result<PutResponse, ClientError> {
        let put = BatchPut { key: key.into(), value: value.into(), precondition: condition.map(Into::into) };
        let (written, result) = self.one(batch_operation::Operation::Put(put)).await?;
        let BatchResponse { partition_id, position, .. } = written;
        Ok(PutResponse { partition_id, position, version: result.version })
    }

    /// Deletes a record; deleting what is not there succeeds and says so.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        condition: Option<Condition>,
    ) -> Result<DeleteResponse, ClientError> {
        let delete = BatchDelete { key: key.into(), precondition: condition.map(Into::into) };
        let (written, result) = self.one(batch_operation::Operation::Delete(delete)).await?;
        let BatchResponse { partition_id, position, .. } = written;
        Ok(DeleteResponse { partition_id, position, existed: result.existed })
    }

    async fn one(
        &self,
        operation: batch_operation::Operation,
    ) -> Result<(BatchResponse, BatchResult), ClientError> {
        let written = self.submit(vec![BatchOperation { operation: Some(operation) }]).await.await?;
        match written.results.first() {
            Some(result) => Ok((written.clone(), *result)),
            None => Err(ClientError::refused(CALL, &Status::internal("a written write without a result"))),
        }
    }

    /// Several writes to one partition, all or none.
    ///
    /// # Errors
    /// As [`Client::batch`].
    pub async fn batch(&self, operations: Vec<BatchOperation>) -> Answer {
        self.submit(operations).await.await
    }

    /// Waits for room and sends; what is returned waits for the answer.
    pub async fn submit(&self, operations: Vec<BatchOperation>) -> Submitted {
        let shared = &self.open.0;
        if let Ok(room) = shared.room.acquire().await {
            // Given back when the write has its answer.
            room.forget();
        }
        let (reply, answer) = oneshot::channel();
        let first = {
            let mut state = shared.state.lock();
            let index = state.free.pop().unwrap_or_else(|| {
                state.lanes.push(Lane { client_id: rand::random(), sequence: 0, write: None });
                state.lanes.len() - 1
            });
            let number = state.submitted;
            state.submitted += 1;
            let lane = &mut state.lanes[index];
            lane.sequence += 1;
            lane.write = Some(Write {
                number,
                operations,
                reply,
                deadline: Instant::now() + shared.call_timeout,
                attempts: 0,
                backoff: Backoff::default(),
                last: String::new(),
            });
            state.queue.push_back(index);
            state.under_way += 1;
            state.under_way == 1
        };
        shared.sender.wake();
        if first {
            shared.driver.notify_one();
        }
        Submitted { answer, timeout: shared.call_timeout }
    }
}

impl State {
    /// Takes a lane's write out; the lane is free for another.
    fn take(&mut self, index: usize) -> Option<Write> {
        let write = self.lanes.get_mut(index)?.write.take()?;
        self.free.push(index);
        self.under_way -= 1;
        Some(write)
    }

    fn under_way(&self) -> impl Iterator<Item = (usize, &Write)> {
        self.lanes.iter().enumerate().filter_map(|(index, lane)| Some((index, lane.write.as_ref()?)))
    }

    /// The next message; `None` when nothing waits.
    fn next_message(&mut self) -> Option<StreamedWrites> {
        let mut writes = Vec::with_capacity(self.queue.len().min(MESSAGE_WRITES_MAX));
        let mut bytes = 0;
        while writes.len() < MESSAGE_WRITES_MAX && bytes < MESSAGE_BYTES_MAX {
            let Some(index) = self.queue.pop_front() else { break };
            let Some(Lane { client_id, sequence, write: Some(write) }) = self.lanes.get_mut(index) else {
                continue;
            };
            write.attempts += 1;
            bytes += write.operations.iter().map(bytes_of).sum::<usize>();
            writes.push(StreamedWrite {
                tag: *sequence << LANE_BITS | index as u64,
                operations: write.operations.clone(),
                request_id: Some(RequestId { client_id: *client_id, sequence: *sequence }),
            });
        }
        (!writes.is_empty()).then_some(StreamedWrites { writes })
    }

    /// Everything without an answer is to be sent, on a new stream.
    fn begin_stream(&mut self) -> u64 {
        self.delayed.clear();
        let mut lanes: Vec<(u64, usize)> =
            self.under_way().map(|(index, write)| (write.number, index)).collect();
        lanes.sort_unstable();
        self.queue = lanes.into_iter().map(|(_, index)| index).collect();
        self.stream += 1;
        self.stream
    }
}

fn bytes_of(operation: &BatchOperation) -> usize {
    match &operation.operation {
        Some(batch_operation::Operation::Put(put)) => put.key.len() + put.value.len(),
        Some(batch_operation::Operation::Delete(delete)) => delete.key.len(),
        None => 0,
    }
}

impl Shared {
    /// Tells these answers, without the lock held.
    fn tell(&self, answers: Vec<(Write, Answer)>) {
        self.room.add_permits(answers.len());
        for (write, answer) in answers {
            // Nobody may wait for it any more.
            let _ = write.reply.send(answer);
        }
    }

    /// Answers what a message tells; says how many writes are to be sent again.
    fn settle(&self, message: StreamedResults) -> u64 {
        let mut again = 0;
        let mut answers = Vec::with_capacity(message.results.len());
        {
            let mut state = self.state.lock();
            for StreamedResult { tag, result } in message.results {
                let (index, sequence) = ((tag & ((1 << LANE_BITS) - 1)) as usize, tag >> LANE_BITS);
                let lane = state.lanes.get_mut(index).filter(|lane| lane.sequence == sequence);
                let Some(write) = lane.and_then(|lane| lane.write.as_mut()) else { continue };
                let answer = match result {
                    Some(streamed_result::Result::Written(written)) => Ok(written),
                    Some(streamed_result::Result::Error(error)) => {
                        if let Retry::After(asked) = retry_advice_of_write(&error) {
                            let wait = write.backoff.next_delay(rand::random(), asked);
                            write.last = format!("{:?}: {}", Code::from(error.code), error.message);
                            state.delayed.push((Instant::now() + wait, index));
                            again += 1;
                            continue;
                        }
                        Err(ClientError::refused_write(CALL, error))
                    }
                    None => Err(ClientError::refused(CALL, &Status::internal("an answer without a result"))),
                };
                answers.extend(state.take(index).map(|write| (write, answer)));
            }
        }
        self.tell(answers);
        again
    }

    /// Answers those whose time is up, and sends those again that waited for it.
    fn look_through(&self) {
        let now = Instant::now();
        let mut answers = Vec::new();
        let due = {
            let mut state = self.state.lock();
            let late: Vec<usize> = state
                .under_way()
                .filter(|(_, write)| write.deadline <= now)
                .map(|(index, _)| index)
                .collect();
            for index in late {
                if let Some(mut write) = state.take(index) {
                    state.delayed.retain(|(_, delayed)| *delayed != index);
                    let last = std::mem::take(&mut write.last);
                    let last = if last.is_empty() { "no answer".into() } else { last };
                    let error = timed_out(self.call_timeout, write.attempts, last);
                    answers.push((write, Err(error)));
                }
            }
            let (due, later) = std::mem::take(&mut state.delayed).into_iter().partition(|(at, _)| *at <= now);
            state.delayed = later;
            let due: Vec<(Instant, usize)> = due;
            state.queue.extend(due.iter().map(|(_, index)| *index));
            !due.is_empty()
        };
        self.tell(answers);
        if due {
            self.sender.wake();
        }
    }

    /// Answers everything under way with this error.
    fn refuse_all(&self, error: &ClientError) {
        let answers = {
            let mut state = self.state.lock();
            let all: Vec<usize> = state.under_way().map(|(index, _)| index).collect();
            all.into_iter().filter_map(|index| state.take(index)).map(|w| (w, Err(error.clone()))).collect()
        };
        self.tell(answers);
    }

    fn is_idle(&self) -> bool {
        self.state.lock().under_way == 0
    }

    fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.under_way == 0
    }
}

/// What one stream sends, for its connection to poll.
struct Outgoing {
    shared: Arc<Shared>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = StreamedWrites;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamedWrites>> {
        let mut state = self.shared.state.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        // With the lock held, so that one stream's never takes the place of its successor's.
        self.shared.sender.register(cx.waker());
        match state.next_message() {
            Some(message) => Poll::Ready(Some(message)),
            None if state.closed && state.under_way == 0 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Keeps one stream open while there is something to write.
struct Driver {
    client: Client,
    shared: Arc<Shared>,
}

impl Driver {
    async fn run(self) {
        let inner = self.client.inner();
        let mut backoff = Backoff::default();
        let mut route = inner.gateways.first();
        let mut failures = 0;
        loop {
            while self.shared.is_idle() {
                if self.shared.is_over() {
                    return;
                }
                self.shared.driver.notified().await;
            }
            let (answered, status) = self.stream(route).await;
            let Some(status) = status else { continue };
            if answered {
                (failures, backoff) = (0, Backoff::default());
            }
            failures += 1;
            let advice = retry_advice(&status);
            let distrust = tls_problem(&status).filter(|problem| problem.is_about_trust);
            if let Some(problem) = distrust.or_else(|| inner.gateways.refusal()) {
                self.shared.refuse_all(&ClientError::NotTrusted { call: CALL, detail: problem.sentence });
            } else if advice == Retry::Never {
                self.shared.refuse_all(&ClientError::refused(CALL, &status));
            }
            if status.code() != Code::ResourceExhausted {
                inner.gateways.failed(route);
            }
            let under_way = self.shared.state.lock().under_way as u64;
            inner.retries.fetch_add(under_way, Relaxed);
            route = inner.gateways.next(route);
            let asked = if let Retry::After(asked) = advice { asked } else { None };
            // Another gateway may take it at once: only a full round without success is a reason to wait.
            if failures >= inner.gateways.count() {
                tracing::debug!(%status, "write stream ended; opening another");
                tokio::time::sleep(backoff.next_delay(rand::random(), asked)).await;
            }
            self.shared.look_through();
        }
    }

    /// Whether anything was answered on one stream, and why it ended; `None` when nothing is left to write.
    async fn stream(&self, route: Route) -> (bool, Option<Status>) {
        let inner = self.client.inner();
        let stream = self.shared.state.lock().begin_stream();
        let mut request = Request::new(Outgoing { shared: Arc::clone(&self.shared), stream });
        if let Some(token) = &inner.options.token {
            request.metadata_mut().insert("authorization", token.header().clone());
        }
        let patience = inner.options.attempt_timeout;
        let silent = || Status::deadline_exceeded(format!("no answer within {patience:?}"));
        let mut client = records(inner.gateways.channel(route));
        let mut answers = match tokio::time::timeout(patience, client.write_stream(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return (false, Some(status)),
            Err(_) => return (false, Some(silent())),
        };
        let mut answered = false;
        let mut heard = Instant::now();
        let mut look = tokio::time::interval(LOOK_THROUGH);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let idle = self.shared.is_idle();
            if self.shared.is_over() {
                return (answered, None);
            }
            tokio::select! {
                message = answers.message() => match message {
                    Ok(Some(message)) => {
                        if !answered {
                            inner.gateways.answered(route);
                            answered = true;
                        }
                        heard = Instant::now();
                        inner.retries.fetch_add(self.shared.settle(message), Relaxed);
                    }
                    Ok(None) => return (answered, Some(Status::unavailable("the gateway ended the stream"))),
                    Err(status) => return (answered, Some(status)),
                },
                () = self.shared.driver.notified() => heard = Instant::now(),
                _ = look.tick(), if !idle => {
                    if heard.elapsed() > patience {
                        return (answered, Some(silent()));
                    }
                    self.shared.look_through();
                }
            }
        }
    }
}
