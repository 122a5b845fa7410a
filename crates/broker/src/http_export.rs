//! Exports to somebody's HTTP endpoint: each batch one POST of JSON Lines, `application/x-ndjson`.
//!
//! Any 2xx means that the batch is the receiver's now; anything else, and no answer in time, that it comes again. Redirects
//! are not followed. A receiver tells a repetition by partition and position. Over https the receiver must have a certificate
//! of an authority in `ca_file`, which is read again after each failure.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_security::{ClientTls, ClientTlsError, Dialer, tls_problem};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::export_lines::Batch;
use crate::exporters::ExporterOptions;

const EXPORTER: &str = "evenkeel-exporter";
const PARTITION: &str = "evenkeel-partition";
const FIRST: &str = "evenkeel-first-position";
const LAST: &str = "evenkeel-last-position";
/// Of an answer's body more is not read: the connection is closed instead.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    #[error("{url} answered {status}")]
    Refused { url: String, status: StatusCode },
    #[error("{url} cannot be reached: {problem}")]
    Unreachable { url: String, problem: String },
    #[error("{url} did not answer in {}", humantime::format_duration(*.waited))]
    Late { url: String, waited: Duration },
    #[error("the request cannot be made: {0}")]
    Malformed(#[from] http::Error),
}

/// "Connection refused" rather than "client error (Connect)", and what is wrong with a certificate.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(problem) = tls_problem(error) {
        return problem.sentence;
    }
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The way to one endpoint. Keeps connections between batches.
#[derive(Clone, Debug)]
pub struct HttpExport {
    client: Client<Dialer, Full<Bytes>>,
    name: String,
    url: String,
    timeout: Duration,
}

impl HttpExport {
    /// Reads whom to trust.
    ///
    /// # Errors
    /// When `ca_file` cannot be used.
    pub fn new(options: &ExporterOptions) -> Result<Self, ClientTlsError> {
        let dialer = match options.ca_file.as_str() {
            "" => Dialer::plain(),
            file => ClientTls::trusting("exporters.ca_file", Path::new(file))?.http(),
        };
        let client = Client::builder(TokioExecutor::new()).build(dialer);
        let (name, url) = (options.name.clone(), options.url.clone());
        Ok(Self { client, name, url, timeout: options.request_timeout })
    }

    pub async fn post(&self, batch: &Batch) -> Result<(), PostError> {
        let url = || self.url.clone();
        let uri: Uri = self.url.parse().map_err(http::Error::from)?;
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(EXPORTER, &self.name)
            .header(PARTITION, batch.partition.0)
            .header(FIRST, batch.first.0)
            .header(LAST, batch.up_to.0)
            .body(Full::new(batch.lines.clone()))?;
        let answered = async {
            let response = self.client.request(request).await;
            let response = response
                .map_err(|error| PostError::Unreachable { url: url(), problem: innermost(&error) })?;
            let status = response.status();
            // Read to its end, so that the connection serves the next batch; what it says matters to nobody.
            let _ = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            if status.is_success() { Ok(()) } else { Err(PostError::Refused { url: url(), status }) }
        };
        tokio::time::timeout(self.timeout, answered)
            .await
            .map_err(|_| PostError::Late { url: url(), waited: self.timeout })?
    }
}
