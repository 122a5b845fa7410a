//! Exports to somebody's HTTP endpoint: each batch one POST of JSON Lines, `application/x-ndjson`.
//!
//! Any 2xx means that the batch is the receiver's now; anything else, and no answer in time, that it comes again. Redirects
//! are not followed. A receiver tells a repetition by partition and position.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
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
    #[error("{url} cannot be reached: {source}")]
    Unreachable { url: String, source: hyper_util::client::legacy::Error },
    #[error("{url} did not answer in {}", humantime::format_duration(*.waited))]
    Late { url: String, waited: Duration },
    #[error("the request cannot be made: {0}")]
    Malformed(#[from] http::Error),
}

/// The way to one endpoint. Keeps connections between batches.
#[derive(Clone, Debug)]
pub struct HttpExport {
    client: Client<HttpConnector, Full<Bytes>>,
    name: String,
    url: String,
    timeout: Duration,
}

impl HttpExport {
    pub fn new(options: &ExporterOptions) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (name, url) = (options.name.clone(), options.url.clone());
        Self { client, name, url, timeout: options.request_timeout }
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
            let response = response.map_err(|source| PostError::Unreachable { url: url(), source })?;
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
