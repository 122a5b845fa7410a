//! What clients are still sending: each request's body counts against one budget and has to come in time.
//!
//! Before that a gatekeeper has room for a request or refuses it, when only its header is there: clients send headers far
//! ahead of what they belong to, and under overload most of the work is to say no.
//!
//! Wraps a service whose requests are single messages, or streams of them: there each message counts by itself, from its
//! first byte until its service asks for what follows it. What it bounds comes before the checks of the service itself,
//! which see a request only when it is whole: without it, clients that begin many large requests at once fill the
//! memory, and those that never end theirs hold their streams for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, Ready, ready};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use crate::access;
use crate::byte_budget::ByteBudget;
use crate::refusals::Refusal;

/// A client has this long to send a request.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// By its path, room for a request until it is answered; `None` where none is needed.
pub(crate) type Gatekeeper = Arc<dyn Fn(&str) -> Result<Option<OwnedSemaphorePermit>, Refusal> + Send + Sync>;

/// A service and the budget that its requests' bodies share with those of others.
#[derive(Clone)]
pub(crate) struct Intake<S> {
    service: S,
    budget: Arc<ByteBudget>,
    gatekeeper: Gatekeeper,
}

impl<S> Intake<S> {
    pub(crate) fn new(service: S, budget: Arc<ByteBudget>) -> Self {
        Self { service, budget, gatekeeper: Arc::new(|_| Ok(None)) }
    }

    pub(crate) fn guarded(self, gatekeeper: Gatekeeper) -> Self {
        Self { gatekeeper, ..self }
    }
}

impl<S: NamedService> NamedService for Intake<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Intake<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        Either<Ready<Result<S::Response, S::Error>>, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let room = match (self.gatekeeper)(request.uri().path()) {
            Ok(room) => room,
            Err(refusal) => return Either::Left(ready(Ok(Status::from(refusal).into_http()))),
        };
        let budget = Arc::clone(&self.budget);
        let is_stream = access::stays_open(request.uri().path());
        let bounded = |body| {
            let bounded = BoundedBody::new(body, budget, REQUEST_WAIT_MAX);
            Body::new(if is_stream { bounded.of_messages() } else { bounded })
        };
        let answer = self.service.call(request.map(bounded));
        Either::Right(Box::pin(async move {
            let _room = room;
            answer.await
        }))
    }
}

/// A body on its way, and the share of the budget that it holds until its service has read it.
struct BoundedBody<B> {
    body: B,
    until: Pin<Box<Sleep>>,
    wait_max: Duration,
    budget: Arc<ByteBudget>,
    held: usize,
    /// Of a stream: where in which message it is.
    messages: Option<MessageBytes>,
}

impl<B> BoundedBody<B> {
    fn new(body: B, budget: Arc<ByteBudget>, wait_max: Duration) -> Self {
        let until = Box::pin(tokio::time::sleep(wait_max));
        Self { body, until, wait_max, budget, held: 0, messages: None }
    }

    fn of_messages(mut self) -> Self {
        self.messages = Some(MessageBytes::default());
        self
    }

    /// Whoever asks for more has taken every whole message.
    fn give_back_whole_messages(&mut self) {
        if let Some(messages) = &self.messages {
            let whole = self.held.saturating_sub(messages.begun());
            if whole > 0 {
                self.budget.give_back(whole);
                self.held -= whole;
                // Nobody asked for the rest before.
                self.until.as_mut().reset(Instant::now() + self.wait_max);
            }
        }
    }
}

/// Of a message: a byte that says whether it is compressed, and its length.
const MESSAGE_HEADER_BYTES: usize = 5;

/// Tells messages apart in the bytes that carry them.
#[derive(Debug, Default)]
struct MessageBytes {
    header: [u8; MESSAGE_HEADER_BYTES],
    /// Of the message that is not whole yet, its header with it.
    have: usize,
    /// What is lacking once the header is whole.
    lacking: usize,
}

impl MessageBytes {
    /// Bytes of the message that is not whole yet.
    fn begun(&self) -> usize {
        self.have
    }

    /// Whether a message began in these bytes that they leave unfinished.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut began = false;
        while !bytes.is_empty() {
            began |= self.have == 0;
            if self.have < MESSAGE_HEADER_BYTES {
                let (now, rest) = bytes.split_at(bytes.len().min(MESSAGE_HEADER_BYTES - self.have));
                self.header[self.have..self.have + now.len()].copy_from_slice(now);
                self.have += now.len();
                bytes = rest;
                let [_, length @ ..] = self.header;
                self.lacking = u32::from_be_bytes(length) as usize;
            } else {
                let now = bytes.len().min(self.lacking);
                self.have += now;
                self.lacking -= now;
                bytes = &bytes[now..];
            }
            if self.have >= MESSAGE_HEADER_BYTES && self.lacking == 0 {
                (self.have, began) = (0, false);
            }
        }
        began
    }
}

impl<B: HttpBody<Data = Bytes, Error = Status> + Unpin> HttpBody for BoundedBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.give_back_whole_messages();
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let this = &mut *self;
                if let (Some(messages), Some(data)) = (&mut this.messages, frame.data_ref())
                    && messages.take(data)
                {
                    this.until.as_mut().reset(Instant::now() + this.wait_max);
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if !self.budget.add(bytes) {
                    let full = Refusal::RequestBytesFull { bytes_max: self.budget.bytes_max };
                    return Poll::Ready(Some(Err(full.into())));
                }
                self.held += bytes;
                Poll::Ready(Some(Ok(frame)))
            }
            // Between two messages there is no hurry.
            Poll::Pending if self.messages.as_ref().is_some_and(|messages| messages.begun() == 0) => {
                Poll::Pending
            }
            Poll::Pending if self.until.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Some(Err(Refusal::RequestLate { waited: self.wait_max }.into())))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for BoundedBody<B> {
    fn drop(&mut self) {
        self.budget.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Code;

    use super::*;

    type Parts = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Status>>>;

    fn body(parts: &[usize], budget: &Arc<ByteBudget>) -> BoundedBody<StreamBody<Parts>> {
        let parts: Vec<_> = parts.iter().map(|bytes| Ok(Frame::data(vec![0; *bytes].into()))).collect();
        BoundedBody::new(StreamBody::new(futures::stream::iter(parts)), Arc::clone(budget), REQUEST_WAIT_MAX)
    }

    #[tokio::test]
    async fn bodies_share_a_budget_until_they_are_read() {
        let budget = Arc::new(ByteBudget::new(10));
        let mut first = body(&[4, 4], &budget);
        while first.frame().await.is_some() {}
        let mut second = body(&[2, 1], &budget);
        assert!(second.frame().await.unwrap().is_ok());
        let full = second.frame().await.unwrap().unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted);
        drop((first, second));
        assert!(body(&[10], &budget).frame().await.unwrap().is_ok());
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let mut bytes = Vec::new();
        for length in [0u32, 1, 300, 7] {
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![9; length as usize]);
        }
        for cut in 1..bytes.len() {
            let mut messages = MessageBytes::default();
            for part in bytes.chunks(cut) {
                messages.take(part);
            }
            assert_eq!(messages.begun(), 0, "in parts of {cut}");
        }
        let mut messages = MessageBytes::default();
        assert!(messages.take(&bytes[..100]), "the third is not whole");
        assert_eq!(messages.begun(), 100 - 5 - 6);
        assert!(!messages.take(&bytes[100..150]), "it began before");
    }

    /// Two messages of 10 bytes, their headers with them, and the first 4 of a third.
    fn stream_of_messages(
        budget: &Arc<ByteBudget>,
        then: Parts,
    ) -> BoundedBody<impl HttpBody<Data = Bytes, Error = Status>> {
        let message = [0, 0, 0, 0, 5, 1, 2, 3, 4, 5];
        let parts = [message.to_vec(), [&message[..], &message[..4]].concat()];
        let parts = parts.into_iter().map(|part| Ok(Frame::data(part.into())));
        let body = StreamBody::new(
            futures::stream::iter(parts.collect::<Vec<_>>()).chain(then).chain(futures::stream::pending()),
        );
        BoundedBody::new(body, Arc::clone(budget), Duration::from_millis(20)).of_messages()
    }

    #[tokio::test]
    async fn each_message_of_a_stream_counts_until_the_next_is_asked_for_and_has_to_come_in_time() {
        let budget = Arc::new(ByteBudget::new(14));
        let mut stream = stream_of_messages(&budget, futures::stream::iter(Vec::new()));
        assert!(stream.frame().await.unwrap().is_ok());
        assert!(budget.take(5).is_none() && budget.take(4).is_some());
        assert!(stream.frame().await.unwrap().is_ok(), "the first message is not counted any more");
        let late = stream.frame().await.unwrap().unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert!(budget.take(10).is_some() && budget.take(11).is_none(), "the begun message is still there");
        drop(stream);
        assert!(budget.take(14).is_some());
    }

    #[tokio::test]
    async fn a_stream_between_two_messages_may_be_silent() {
        let budget = Arc::new(ByteBudget::new(100));
        let rest = vec![Ok(Frame::data(Bytes::from_static(&[5, 1, 2, 3, 4, 5])))];
        let mut stream = stream_of_messages(&budget, futures::stream::iter(rest));
        for _ in 0..3 {
            assert!(stream.frame().await.unwrap().is_ok());
        }
        let silence = tokio::time::timeout(Duration::from_millis(60), stream.frame()).await;
        assert!(silence.is_err(), "it waits for the next message");
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_in_time_fails() {
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Status>>());
        let mut silent = BoundedBody::new(silent, Arc::new(ByteBudget::new(1)), Duration::from_millis(20));
        assert_eq!(silent.frame().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }
}
