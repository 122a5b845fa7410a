//! One bidirectional stream to a broker: frames of requests out, frames of answers back, matched by tag. Writes and gets
//! have one each.
//!
//! A frame carries whatever waits when the connection is ready for more, up to a bound; there is no timer, so a
//! lone request leaves at once and a busy stream batches by itself. The frame stream is polled by the HTTP/2
//! connection directly: between a request's task and the socket there is one queue and no other task.
//!
//! Every request ends in exactly one way: with the broker's answer, as *not sent* (it never left this process), or
//! as *unknown* (its frame was handed to the connection and no answer came).

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for one broker's connection.
const QUEUE_MAX: usize = 16_384;
/// A frame is closed when it holds this many requests…
const FRAME_REQUESTS_MAX: usize = 512;
/// …or this many bytes of them; the last one may exceed it, so that a single large one passes.
const FRAME_BYTES_MAX: usize = 512 << 10;

/// What goes over a stream.
pub(crate) trait Exchange {
    type Request;
    type Frame;
    type Answer;
    type AnswerFrame;

    /// What the request counts for towards a frame's bytes.
    fn bytes(request: &Self::Request) -> usize;
    /// One frame of requests, each with its tag.
    fn frame(requests: impl ExactSizeIterator<Item = (u64, Self::Request)>) -> Self::Frame;
    /// The answers of a frame by tag; `None` for one that says nothing.
    fn answers(frame: Self::AnswerFrame) -> impl Iterator<Item = (u64, Option<Self::Answer>)>;
}

/// How a request on this stream ended.
#[derive(Debug)]
pub(crate) enum Ended<A> {
    /// The broker answered.
    Answered(A),
    /// It never left this process.
    NotSent,
    /// It was on its way when the stream broke.
    Unknown,
}

/// Where the end of a request is told.
#[derive(Debug)]
pub(crate) enum Reply<A> {
    /// To the one that waits for it.
    One(oneshot::Sender<Ended<A>>),
    /// To a client's stream, which has many under way and numbers them.
    Numbered(mpsc::UnboundedSender<(u64, Ended<A>)>, u64),
}

impl<A> Reply<A> {
    /// The requester may have given up; then nobody needs the answer.
    fn send(self, ended: Ended<A>) {
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

struct Queued<X: Exchange> {
    tag: u64,
    request: X::Request,
    reply: Reply<X::Answer>,
}

struct Waiting<A> {
    replies: HashMap<u64, Reply<A>>,
    closed: bool,
}

/// The sending side; lives as long as its connection.
pub(crate) struct TaggedStream<X: Exchange> {
    queue: mpsc::Sender<Queued<X>>,
    waiting: Arc<Mutex<Waiting<X::Answer>>>,
    next_tag: AtomicU64,
}

/// The frames, for the connection to poll.
pub(crate) struct Frames<X: Exchange> {
    queue: mpsc::Receiver<Queued<X>>,
    /// Room to receive into; empty between polls.
    received: Vec<Queued<X>>,
    /// Taken from the queue and too many bytes for the last frame.
    taken: VecDeque<Queued<X>>,
    waiting: Arc<Mutex<Waiting<X::Answer>>>,
}

/// A stream that is not connected yet.
pub(crate) fn open<X: Exchange>() -> (TaggedStream<X>, Frames<X>) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let waiting = Arc::new(Mutex::new(Waiting { replies: HashMap::new(), closed: false }));
    let stream = TaggedStream { queue: sender, waiting: Arc::clone(&waiting), next_tag: AtomicU64::new(1) };
    (stream, Frames { queue: receiver, received: Vec::new(), taken: VecDeque::new(), waiting })
}

impl<X: Exchange> TaggedStream<X> {
    /// Queues a request; `None` when the stream is closed or its queue is full.
    pub(crate) fn send(&self, request: X::Request) -> Option<Outstanding<X::Answer>> {
        let (reply, answer) = oneshot::channel();
        let tag = self.queue(request, Reply::One(reply))?;
        Some(Outstanding { answer, tag, waiting: Arc::clone(&self.waiting), ended: false })
    }

    /// Queues a request whose end is told to `reply`; answers its tag, or `None` when the stream is closed or its queue is
    /// full: then nothing is told.
    pub(crate) fn queue(&self, request: X::Request, reply: Reply<X::Answer>) -> Option<u64> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(Queued { tag, request, reply }).ok()?;
        Some(tag)
    }

    /// Hands answers to those who wait until the stream ends, then ends everyone left as unknown.
    pub(crate) async fn deliver<S, E>(&self, mut answers: S) -> Option<E>
    where
        S: Stream<Item = Result<X::AnswerFrame, E>> + Unpin,
    {
        let failure = loop {
            match answers.next().await {
                Some(Ok(frame)) => self.settle(frame),
                Some(Err(failure)) => break Some(failure),
                None => break None,
            }
        };
        self.close();
        failure
    }

    fn settle(&self, frame: X::AnswerFrame) {
        let mut waiting = self.waiting.lock();
        for (tag, answer) in X::answers(frame) {
            let Some(reply) = waiting.replies.remove(&tag) else { continue };
            reply.send(answer.map_or(Ended::Unknown, Ended::Answered));
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

// Nothing in it is pinned.
impl<X: Exchange> Unpin for Frames<X> {}

impl<X: Exchange> Stream for Frames<X> {
    type Item = X::Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<X::Frame>> {
        let this = &mut *self;
        while this.taken.is_empty() {
            let taken = this.queue.poll_recv_many(cx, &mut this.received, FRAME_REQUESTS_MAX);
            if std::task::ready!(taken) == 0 {
                return Poll::Ready(None);
            }
            // Whoever has given up needs no answer: not sending is the best outcome.
            this.taken.extend(this.received.drain(..).filter(|queued| !queued.reply.is_closed()));
        }
        let mut bytes = 0;
        let fits = |queued: &Queued<X>| {
            let begun = bytes < FRAME_BYTES_MAX;
            bytes += X::bytes(&queued.request);
            begun
        };
        let count = this.taken.iter().map(fits).take_while(|fits| *fits).count();
        let mut waiting = this.waiting.lock();
        if waiting.closed {
            drop(waiting);
            this.taken.drain(..).for_each(|queued| queued.reply.send(Ended::NotSent));
            return Poll::Ready(None);
        }
        let sent = this.taken.drain(..count).map(|Queued { tag, request, reply }| {
            waiting.replies.insert(tag, reply);
            (tag, request)
        });
        Poll::Ready(Some(X::frame(sent)))
    }
}

impl<X: Exchange> Drop for Frames<X> {
    fn drop(&mut self) {
        self.queue.close();
        self.taken.drain(..).for_each(|queued| queued.reply.send(Ended::NotSent));
        while let Ok(queued) = self.queue.try_recv() {
            queued.reply.send(Ended::NotSent);
        }
    }
}

/// A request under way. Dropping it forgets its tag, so that giving up leaves nothing behind.
pub(crate) struct Outstanding<A> {
    answer: oneshot::Receiver<Ended<A>>,
    tag: u64,
    waiting: Arc<Mutex<Waiting<A>>>,
    ended: bool,
}

impl<A> Future for Outstanding<A> {
    type Output = Ended<A>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<A>> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            self.ended = true;
            answer.unwrap_or(Ended::Unknown)
        })
    }
}

impl<A> Drop for Outstanding<A> {
    fn drop(&mut self) {
        if !self.ended {
            self.waiting.lock().replies.remove(&self.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use evenkeel_protocol::PartitionId;
    use evenkeel_protocol::internal::v1::{NotLeader, WriteResult, WriteResultFrame, write_result};
    use futures::FutureExt;

    use super::*;
    use crate::write_stream::Writes;

    fn write(partition: u32, length: usize) -> (PartitionId, Bytes) {
        (PartitionId(partition), Bytes::from(vec![b'x'; length]))
    }

    fn answer(tag: u64) -> WriteResult {
        WriteResult {
            tag,
            result: Some(write_result::Result::NotLeader(NotLeader { leader: None, term: tag })),
        }
    }

    #[tokio::test]
    async fn what_waits_leaves_in_one_frame_and_answers_match_in_any_order() {
        let (stream, mut frames) = open::<Writes>();
        let first = stream.send(write(1, 10)).unwrap();
        let second = stream.send(write(2, 10)).unwrap();
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
        let (stream, mut frames) = open::<Writes>();
        let outstanding: Vec<_> =
            (0..4).map(|_| stream.send(write(1, FRAME_BYTES_MAX / 2)).unwrap()).collect();
        assert_eq!(frames.next().await.unwrap().writes.len(), 2);
        assert_eq!(frames.next().await.unwrap().writes.len(), 2);
        drop(outstanding);
    }

    #[tokio::test]
    async fn a_broken_stream_tells_sent_from_not_sent() {
        let (stream, mut frames) = open::<Writes>();
        let sent = stream.send(write(1, 1)).unwrap();
        frames.next().await.unwrap();
        let queued = stream.send(write(1, 1)).unwrap();
        stream.close();
        drop(frames);
        assert!(matches!(sent.await, Ended::Unknown));
        assert!(matches!(queued.await, Ended::NotSent));
        assert!(stream.send(write(1, 1)).is_none());
    }

    #[tokio::test]
    async fn giving_up_leaves_nothing_behind() {
        let (stream, mut frames) = open::<Writes>();
        let sent = stream.send(write(1, 1)).unwrap();
        frames.next().await.unwrap();
        drop(sent);
        drop(stream.send(write(1, 1)).unwrap());
        assert!(frames.next().now_or_never().is_none(), "an abandoned write must not be sent");
        assert!(stream.waiting.lock().replies.is_empty());
    }
}
