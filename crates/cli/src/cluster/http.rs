//! Plain HTTP requests to a gateway's or broker's ports.

use std::time::Duration;

use bytes::Bytes;
use evenkeel_client::{ClientTls, Token};
use evenkeel_security::{Dialer, is_loopback, tls_problem};
use evenkeel_traces::TRACEPARENT;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::cluster::connection::traceparent;
use crate::output::outcome::{EXIT_AUTH, EXIT_TIMED_OUT, EXIT_UNREACHABLE, Failure};

/// A drain, the slowest request, is answered within 15 seconds.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Metrics of 10,000 partitions fit.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header's text; absent when it is not there or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Keeps connections between requests; clones share them.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<Dialer, Full<Bytes>>,
    dialer: Dialer,
    authorization: Option<HeaderValue>,
    encrypts: bool,
}

impl Http {
    /// Without encryption and credentials: for clusters of this machine.
    pub fn new() -> Self {
        Self::with(None, None)
    }

    pub fn with(tls: Option<&ClientTls>, token: Option<Token>) -> Self {
        let dialer = tls.map(ClientTls::http).unwrap_or_default();
        // The token's own value is marked as not to be shown.
        let authorization = token.and_then(|token| {
            let mut value = HeaderValue::from_bytes(token.header().as_bytes()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self {
            client: Client::builder(TokioExecutor::new()).build(dialer.clone()),
            dialer,
            authorization,
            encrypts: tls.is_some(),
        }
    }

    pub async fn get(&self, url: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, url, None).await
    }

    /// With a JSON body, or none.
    pub async fn post(&self, url: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        self.send(Method::POST, url, body).await
    }

    pub async fn put(&self, url: &str) -> Result<Answer, Failure> {
        self.send(Method::PUT, url, None).await
    }

    pub async fn delete(&self, url: &str) -> Result<Answer, Failure> {
        self.send(Method::DELETE, url, None).await
    }

    async fn send(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let request = self.request(&method, url, body)?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| self.trouble(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Trouble::Unreachable(error.to_string()))?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        in_time(&method, url, exchange).await
    }

    /// Asks for an answer without end, and reads it as it comes.
    pub async fn open(&self, url: &str) -> Result<OpenAnswer, Failure> {
        let request = self.request(&Method::GET, url, None)?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| self.trouble(&error))?;
            let (head, body) = response.into_parts();
            let pieces = body.into_data_stream().map_err(|error| innermost(&error)).boxed();
            Ok(OpenAnswer { status: head.status, pieces })
        };
        in_time(&Method::GET, url, exchange).await
    }

    fn request(
        &self,
        method: &Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder().method(method).uri(url);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(traceparent) = traceparent() {
            request = request.header(TRACEPARENT, traceparent.to_string());
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = body.map_or_else(Full::default, |body| Full::from(body.to_string()));
        let request = request.body(body).map_err(|error| {
            Failure::usage(format!("{url:?}: {error}; write a URL such as http://127.0.0.1:9600"))
        })?;
        self.check(url, request.uri())?;
        Ok(request)
    }

    fn trouble(&self, error: &(dyn std::error::Error + 'static)) -> Trouble {
        // Whoever is not let in may only see that the connection ended.
        match tls_problem(error).or_else(|| self.dialer.refusal()) {
            Some(problem) if problem.is_about_trust => Trouble::NotTrusted(problem.sentence),
            Some(problem) => Trouble::Unreachable(problem.sentence),
            None => Trouble::Unreachable(innermost(error)),
        }
    }

    fn check(&self, url: &str, uri: &Uri) -> Result<(), Failure> {
        let is_encrypted = uri.scheme_str() == Some("https");
        if is_encrypted && !self.encrypts {
            return Err(Failure::usage(format!(
                "{url}: https needs to know whom to trust: give the authority's file with --ca"
            )));
        }
        if self.authorization.is_some() && !is_encrypted && !uri.host().is_some_and(is_loopback) {
            return Err(Failure::usage(format!(
                "{url}: the token would be sent unencrypted to another machine: write https:// and give --ca"
            )));
        }
        Ok(())
    }
}

/// Why there is no answer.
enum Trouble {
    Unreachable(String),
    NotTrusted(String),
}

/// An answer whose body is still coming.
pub struct OpenAnswer {
    pub status: StatusCode,
    pub pieces: BoxStream<'static, Result<Bytes, String>>,
}

async fn in_time<T>(
    method: &Method,
    url: &str,
    exchange: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Failure> {
    let (code, detail) = match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(Trouble::Unreachable(detail))) => (EXIT_UNREACHABLE, detail),
        Ok(Err(Trouble::NotTrusted(detail))) => {
            return Err(Failure::new(EXIT_AUTH, format!("{method} {url}: {detail}")));
        }
        Err(_) => (EXIT_TIMED_OUT, format!("no answer within {TIMEOUT:?}")),
    };
    Err(Failure::new(
        code,
        format!("{method} {url}: {detail}; is the cluster running? `evenkeel doctor` looks for the cause"),
    ))
}

/// "Connection refused" rather than "client error (Connect)".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// `base` and `path` with exactly one slash between.
pub fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_joined_with_one_slash() {
        for base in ["http://a:1/", "http://a:1"] {
            assert_eq!(join(base, "/cluster/v2/rebalance/3"), "http://a:1/cluster/v2/rebalance/3");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable_and_named() {
        let port = crate::processes::free_ports::free_ports(1).unwrap()[0];
        let failure = Http::new().get(&format!("http://127.0.0.1:{port}/metrics")).await.unwrap_err();
        assert_eq!(failure.code, crate::output::outcome::EXIT_UNREACHABLE);
        assert!(failure.message.contains("Connection refused"), "{failure}");
        assert_eq!(Http::new().get("::nonsense").await.unwrap_err().code, 2);
    }
}
