//! One bidirectional `Write` stream to a broker: frames out, results back, matched by tag.
//!
//! A frame carries whatever waits when the connection is ready for more, up to a bound; there is no timer, so a
//! lone write leaves at once and a busy stream batches by itself. The frame stream is polled by the HTTP/2
//! connection directly: between a request's task and the socket there is one queue and no other task.
//!
//! Every write ends in exactly one way: with the broker's result, as *not sent* (it never left this process), or
//! as *unknown* (its frame was handed to the connection and no result came).

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use evenkeel_protocol::PartitionId;
use evenkeel_protocol::internal::v1::{Write, WriteFrame, WriteResultFrame, write_result};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait for one broker's connection.
const QUEUE_WRITES_MAX: usize = 16_384;
/// A frame is closed when it holds this many writes…
const FRAME_WRITES_MAX: usize = 512;
/// …or this many bytes of commands; the last one may exceed it, so that a single large command passes.
const FRAME_BYTES_MAX: usize = 512 << 10;

/// How a write on this stream ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The broker answered.
    Answered(write_result::Result),
    /// It never left this process.
    NotSent,
    /// It was on its way when the stream broke.
    Unknown,
}

/// Where the end of a write is told.
#[derive(Debug)]
pub(crate) enum Reply {
    /// To the one request that waits for it.
    One(oneshot::Sender<Ended>),
    /// To a client's stream, which has many under way and numbers them.
    Numbered(mpsc::UnboundedSender<(u64, Ended)>, u64),
}

impl Reply {
    /// The requester may have given up; then nobody needs the answer.
    fn send(self, ended: Ended) {
        match self {
            Self::One(reply) => drop(reply.send(ended)),
            Self::Numbered(replies, number) => drop(replies.send((number, ended))),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::One(reply) => reply.is_closed(),
            Self::Numbered(replies, _) => replies.is_closed(),
        }
    }
}

struct Queued {
    write: Write,
    reply: Reply,
}

#[derive(Default)]
struct Waiting {
    replies: HashMap<u64, Reply>,
    closed: bool,
}

/// The sending side; lives as long as its connection.
pub(crate) struct WriteStream {
    queue: mpsc::Sender<Queued>,
    waiting: Arc<Mutex<Waiting>>,
    next_tag: AtomicU64,
}

/// The frames, for the connection to poll.
pub(crate) struct Frames {
    queue: mpsc::Receiver<Queued>,
    /// Room to receive into; empty between polls.
    received: Vec<Queued>,
    /// Taken from the queue and too many bytes for the last frame.
    taken: VecDeque<Queued>,
    waiting: Arc<Mutex<Waiting>>,
}

/// A stream that is not connected yet.
pub(crate) fn open() -> (WriteStream, Frames) {
    let (sender, receiver) = mpsc::channel(QUEUE_WRITES_MAX);
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let stream = WriteStream { queue: sender, waiting: Arc::clone(&waiting), next_tag: AtomicU64::new(1) };
    (stream, Frames { queue: receiver, received: Vec::new(), taken: VecDeque::new(), waiting })
}

impl WriteStream {
    /// Queues a command; `None` when the stream is closed or its queue is full.
    pub(crate) fn send(&self, partition: PartitionId, command: Bytes) -> Option<Outstanding> {
        let (reply, answer) = oneshot::channel();
        let tag = self.queue(partition, command, Reply::One(reply))?;
        Some(Outstanding { answer, tag, waiting: Arc::clone(&self.waiting), ended: false })
    }

    /// Queues a command whose end is told to `reply`; answers its tag, or `None` when the stream is closed or its queue is
    /// full: then nothing is told.
    pub(crate) fn queue(&self, partition: PartitionId, command: Bytes, reply: Reply) -> Option<u64> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let write = Write { tag, partition_id: partition.0, command };
        self.queue.try_send(Queued { write, reply }).ok()?;
        Some(tag)
    }

    /// Hands results to those who wait until the stream ends, then ends everyone left as unknown.
    pub(crate) async fn deliver<S, E>(&self, mut results: S) -> Option<E>
    where
        S: Stream<Item = Result<WriteResultFrame, E>> + Unpin,
    {
        let failure = loop {
            match results.next().await {
                Some(Ok(frame)) => self.settle(frame),
                Some(Err(failure)) => break Some(failure),
                None => break None,
            }
        };
        self.close();
        failure
    }

    fn settle(&self, frame: WriteResultFrame) {
        let mut waiting = self.waiting.lock();
        for result in frame.results {
            let Some(reply) = waiting.replies.remove(&result.tag) else { continue };
            reply.send(result.result.map_or(Ended::Unknown, Ended::Answered));
        }
    }

    /// Refuses what comes and ends what waits as unknown.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        for (_, reply) in waiting.replies.drain() {
            reply.send(Ended::Unknown);
        }
    }
}

impl Stream for Frames {
    type Item = WriteFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WriteFrame>> {
        let this = &mut *self;
        while this.taken.is_empty() {
            let taken = this.queue.poll_recv_many(cx, &mut this.received, FRAME_WRITES_MAX);
            if std::task::ready!(taken) == 0 {
                return Poll::Ready(None);
            }
            // Whoever has given up needs no answer: not sending is the best outcome.
            this.taken.extend(this.received.drain(..).filter(|queued| !queued.reply.is_closed()));
        }
        let mut bytes = 0;
        let fits = |queued: &Queued| {
            let begun = bytes < FRAME_BYTES_MAX;
            bytes += queued.write.command.len();
            begun
        };
        let count = this.taken.iter().map(fits).take_while(|fits| *fits).count();
        let mut waiting = this.waiting.lock();
        if waiting.closed {
            drop(waiting);
            this.taken.drain(..).for_each(|queued| queued.reply.send(Ended::NotSent));
            return Poll::Ready(None);
        }
        let mut writes = Vec::with_capacity(count);
        for Queued { write, reply } in this.taken.drain(..count) {
            waiting.replies.insert(write.tag, reply);
            writes.push(write);
        }
        Poll::Ready(Some(WriteFrame { writes }))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.queue.close();
        self.taken.drain(..).for_each(|queued| queued.reply.send(Ended::NotSent));
        while let Ok(queued) = self.queue.try_recv() {
            queued.reply.send(Ended::NotSent);
        }
    }
}

/// A write under way. Dropping it forgets its tag, so that giving up leaves nothing behind.
pub(crate) struct Outstanding {
    answer: oneshot::Receiver<Ended>,
    tag: u64,
    waiting: Arc<Mutex<Waiting>>,
    ended: bool,
}

impl Future for Outstanding {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            self.ended = true;
            answer.unwrap_or(Ended::Unknown)
        })
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if !self.ended {
            self.waiting.lock().replies.remove(&self.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_protocol::internal::v1::{NotLeader, WriteResult};
    use futures::FutureExt;

    fn command(byte: u8, length: usize) -> Bytes {
        Bytes::from(vec![byte; length])
    }

    fn answer(tag: u64) -> WriteResult {
        WriteResult {
            tag,
            result: Some(write_result::Result::NotLeader(NotLeader { leader: None, term: tag })),
        }
    }

    #[tokio::test]
    async fn what_waits_leaves_in_one_frame_and_answers_match_in_any_order() {
        let (stream, mut frames) = open();
        let first = stream.send(PartitionId(1), command(1, 10)).unwrap();
        let second = stream.send(PartitionId(2), command(2, 10)).unwrap();
        let frame = frames.next().await.unwrap();
        let tags: Vec<u64> = frame.writes.iter().map(|write| write.tag).collect();
        assert_eq!(tags.len(), 2);
        stream.settle(WriteResultFrame { results: vec![answer(tags[1]), answer(tags[0])] });
        for (outstanding, tag) in [(first, tags[0]), (second, tags[1])] {
            let Ended::Answered(write_result::Result::NotLeader(result)) = outstanding.await else {
                panic!()
            };
            assert_eq!(result.term, tag);
        }
    }

    #[tokio::test]
    async fn a_frame_is_bounded_by_bytes() {
        let (stream, mut frames) = open();
        let outstanding: Vec<_> =
            (0..4).map(|i| stream.send(PartitionId(1), command(i, FRAME_BYTES_MAX / 2)).unwrap()).collect();
        assert_eq!(frames.next().await.unwrap().writes.len(), 2);
        assert_eq!(frames.next().await.unwrap().writes.len(), 2);
        drop(outstanding);
    }

    #[tokio::test]
    async fn a_broken_stream_tells_sent_from_not_sent() {
        let (stream, mut frames) = open();
        let sent = stream.send(PartitionId(1), command(1, 1)).unwrap();
        frames.next().await.unwrap();
        let queued = stream.send(PartitionId(1), command(2, 1)).unwrap();
        stream.close();
        drop(frames);
        assert!(matches!(sent.await, Ended::Unknown));
        assert!(matches!(queued.await, Ended::NotSent));
        assert!(stream.send(PartitionId(1), command(3, 1)).is_none());
    }

    #[tokio::test]
    async fn giving_up_leaves_nothing_behind() {
        let (stream, mut frames) = open();
        let sent = stream.send(PartitionId(1), command(1, 1)).unwrap();
        frames.next().await.unwrap();
        drop(sent);
        drop(stream.send(PartitionId(1), command(2, 1)).unwrap());
        assert!(frames.next().now_or_never().is_none(), "an abandoned write must not be sent");
        assert!(stream.waiting.lock().replies.is_empty());
    }
}
