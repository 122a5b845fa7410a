//! A span around each request of a server, HTTP or gRPC.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Extensions, Method, Request, Response, Uri};
use tower::{Layer, Service};

use crate::context::TraceContext;
use crate::current::within;
use crate::spans::{Kind, Span, begin, is_on};

/// What a request is called in traces; `None` for what is not traced.
pub type NameOf = fn(&Method, &Uri, &Extensions) -> Option<String>;

/// Puts [`Traced`] around a service.
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer {
    name: NameOf,
}

impl TraceLayer {
    /// With these names for requests.
    #[must_use]
    pub fn new(name: NameOf) -> Self {
        Self { name }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, name: self.name }
    }
}

/// A service whose requests are traced until their answer begins.
#[derive(Clone, Debug)]
pub struct Traced<S> {
    inner: S,
    name: NameOf,
}

impl<S, B, R> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future =
        Either<S::Future, Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send + 'static>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !is_on() {
            return Either::Left(self.inner.call(request));
        }
        let Some(name) = (self.name)(request.method(), request.uri(), request.extensions()) else {
            return Either::Left(self.inner.call(request));
        };
        let span = begin(|| name, Kind::Server, TraceContext::from_headers(request.headers()));
        let answer = self.inner.call(request);
        if span.context().is_none() {
            return Either::Left(answer);
        }
        Either::Right(Box::pin(within(span, answer, |answer, span| tell(answer.as_ref().ok(), span))))
    }
}

/// How it ended: gRPC tells by a header when there is nothing else to tell.
fn tell<R>(answer: Option<&Response<R>>, span: &mut Span) {
    let Some(answer) = answer else {
        return span.fail(|| "the connection ended".to_owned());
    };
    let grpc =
        answer.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse::<i64>().ok());
    match grpc {
        Some(code) => {
            span.set("rpc.grpc.status_code", code);
            if code != 0 {
                let message = answer.headers().get("grpc-message").and_then(|text| text.to_str().ok());
                span.fail(|| message.unwrap_or("refused").to_owned());
            }
        }
        None => {
            let status = answer.status();
            span.set("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.fail(|| status.to_string());
            }
        }
    }
}
