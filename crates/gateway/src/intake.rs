//! What clients are still sending: each request's body counts against one budget and has to come in time.
//!
//! Before that a gatekeeper has room for a request or refuses it, when only its header is there: clients send headers far
//! ahead of what they belong to, and under overload most of the work is to say no.
//!
//! Wraps a service whose requests are single messages. What it bounds comes before the checks of the service itself,
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
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

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
        let answer = self
            .service
            .call(request.map(|body| Body::new(BoundedBody::new(body, budget, REQUEST_WAIT_MAX))));
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
}

impl<B> BoundedBody<B> {
    fn new(body: B, budget: Arc<ByteBudget>, wait_max: Duration) -> Self {
        Self { body, until: Box::pin(tokio::time::sleep(wait_max)), wait_max, budget, held: 0 }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Status> + Unpin> HttpBody for BoundedBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if !self.budget.add(bytes) {
                    let full = Refusal::RequestBytesFull { bytes_max: self.budget.bytes_max };
                    return Poll::Ready(Some(Err(full.into())));
                }
                self.held += bytes;
                Poll::Ready(Some(Ok(frame)))
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

    #[tokio::test]
    async fn a_body_that_does_not_end_in_time_fails() {
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Status>>());
        let mut silent = BoundedBody::new(silent, Arc::new(ByteBudget::new(1)), Duration::from_millis(20));
        assert_eq!(silent.frame().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }
}
