//! One bidirectional `Write` stream to a broker: frames out, results back, matched by tag.
//!
//! A frame carries whatever waits when the connection is ready for more, up to a bound; there is no timer, so a
//! lone write leaves at once and a busy stream batches by itself. The frame stream is polled by the HTTP/2
//! connection directly: between a request's task and the socket there is one queue and no other task.
//!
//! Every write ends in exactly one way: with the broker's result, as *not sent* (it never left this process), or
//! as *unknown* (its frame was handed to the connection and no result came).

use std::collections::HashMap;
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

struct Queued {
    write: Write,
    reply: oneshot::Sender<Ended>,
}

#[derive(Default)]
struct Waiting {
    replies: HashMap<u64, oneshot::Sender<Ended>>,
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
    waiting: Arc<Mutex<Waiting>>,
}

/// A stream that is not connected yet.
pub(crate) fn open() -> (WriteStream, Frames) {
    let (sender, receiver) = mpsc::channel(QUEUE_WRITES_MAX);
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let stream = WriteStream { queue: sender, waiting: Arc::clone(&waiting), next_tag: AtomicU64::new(1) };
    (stream, Frames { queue: receiver, waiting })
}

impl WriteStream {
    /// Queues a command; `None` when the stream is closed or its queue is full.
    pub(crate) fn send(&self, partition: PartitionId, command: Bytes) -> Option<Outstanding> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let write = Write { tag, partition_id: partition.0, command };
        self.queue.try_send(Queued { write, reply }).ok()?;
        Some(Outstanding { answer, tag, waiting: Arc::clone(&self.waiting), ended: false })
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
            let ended = result.result.map_or(Ended::Unknown, Ended::Answered);
            // The requester may have given up; then nobody needs the answer.
            let _ = reply.send(ended);
        }
    }

    /// Refuses what comes and ends what waits as unknown.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        for (_, reply) in waiting.replies.drain() {
            let _ = reply.send(Ended::Unknown);
        }
    }
}

impl Stream for Frames {
    type Item = WriteFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WriteFrame>> {
        let mut batch: Vec<Queued> = Vec::new();
        let mut bytes = 0;
        while batch.len() < FRAME_WRITES_MAX && bytes < FRAME_BYTES_MAX {
            match self.queue.poll_recv(cx) {
                // Whoever asked has given up: not sending is the best outcome.
                Poll::Ready(Some(queued)) if queued.reply.is_closed() => {}
                Poll::Ready(Some(queued)) => {
                    bytes += queued.write.command.len();
                    batch.push(queued);
                }
                Poll::Ready(None) if batch.is_empty() => return Poll::Ready(None),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            drop(waiting);
            for queued in batch {
                let _ = queued.reply.send(Ended::NotSent);
            }
            return Poll::Ready(None);
        }
        let mut writes = Vec::with_capacity(batch.len());
        for Queued { write, reply } in batch {
            waiting.replies.insert(write.tag, reply);
            writes.push(write);
        }
        Poll::Ready(Some(WriteFrame { writes }))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.queue.close();
        while let Ok(queued) = self.queue.try_recv() {
            let _ = queued.reply.send(Ended::NotSent);
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
