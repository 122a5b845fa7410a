//! One call: attempts with the same request until an answer, a refusal or the deadline.

use std::future::Future;
use std::time::Duration;

use evenkeel_security::tls_problem;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::backoff::Backoff;
use crate::client::Inner;
use crate::error::{ClientError, Retry, retry_advice};

/// The last part of a call's time is not worth another attempt.
const ATTEMPT_MIN: Duration = Duration::from_millis(1);

impl Inner {
    /// Sends `message` until it is answered. Messages are cheap to clone: their payload is shared bytes.
    pub(crate) async fn call<M, T, F>(
        &self,
        call: &'static str,
        message: M,
        send: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<T, ClientError>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        use std::sync::atomic::Ordering::Relaxed;

        let deadline = Instant::now() + self.options.call_timeout;
        let mut backoff = Backoff::default();
        let mut route = self.gateways.first();
        let mut attempts = 0u32;
        loop {
            attempts += 1;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let patience = remaining.min(self.options.attempt_timeout).max(ATTEMPT_MIN);
            let mut request = Request::new(message.clone());
            request.set_timeout(patience);
            if let Some(token) = &self.options.token {
                request.metadata_mut().insert("authorization", token.header().clone());
            }
            if let Some(traceparent) = &self.options.traceparent {
                request.metadata_mut().insert("traceparent", traceparent.clone());
            }
            let result = tokio::time::timeout(patience, send(self.gateways.channel(route), request)).await;
            let status = match result {
                Ok(Ok(response)) => {
                    self.gateways.answered(route);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {patience:?}")),
            };
            let Retry::After(asked) = retry_advice(&status) else {
                return Err(ClientError::refused(call, &status));
            };
            let distrust = tls_problem(&status).filter(|problem| problem.is_about_trust);
            if let Some(problem) = distrust.or_else(|| self.gateways.refusal()) {
                return Err(ClientError::NotTrusted { call, detail: problem.sentence });
            }
            // Who is full asks for patience, whoever is asked next; who cannot reach a leader may be alone in that.
            let is_full = status.code() == Code::ResourceExhausted;
            if !is_full {
                self.gateways.failed(route);
            }
            self.retries.fetch_add(1, Relaxed);
            route = self.gateways.next(route);
            // Another gateway may answer at once: only a full round without success is a reason to wait.
            let untried = (attempts as usize) < self.gateways.count() && !is_full;
            let wait = if untried { Duration::ZERO } else { backoff.next_delay(rand::random(), asked) };
            if Instant::now() + wait + ATTEMPT_MIN >= deadline {
                let last = format!("{:?}: {}", status.code(), status.message());
                let timeout = self.options.call_timeout;
                return Err(ClientError::DeadlineExceeded { call, timeout, attempts, last });
            }
            tracing::debug!(call, attempts, ?wait, %status, "retrying");
            tokio::time::sleep(wait).await;
        }
    }
}
