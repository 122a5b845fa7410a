//! A stream of changes that survives gateways and leaders: it resumes after the last position it delivered, so
//! that no change is missed and none is seen twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use evenkeel_protocol::v1::{PartitionPosition, WatchRequest, WatchResponse};
use tonic::{Request, Status, Streaming};

use crate::client::{Client, records};
use crate::error::ClientError;
use crate::resumption::Resumption;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchQuery {
    /// Only keys that begin with this; empty for all.
    pub prefix: Bytes,
    /// Empty for every partition.
    pub partition_ids: Vec<u32>,
    /// Deliver changes after these positions, by partition; others start at their newest change.
    pub after: BTreeMap<u32, u64>,
}

/// An open watch; see [`Client::watch`].
#[derive(Debug)]
pub struct Watch {
    client: Client,
    query: WatchQuery,
    stream: Option<Streaming<WatchResponse>>,
}

impl Watch {
    pub(crate) async fn open(client: Client, query: WatchQuery) -> Result<Self, ClientError> {
        let stream = open_stream(&client, &query).await?;
        Ok(Self { client, query, stream: Some(stream) })
    }

    /// The next changes of one partition; resumes by itself when the stream breaks. May hold no events: then it
    /// tells only how far the partition has come.
    ///
    /// # Errors
    /// `Refused` when a position is no longer kept; `DeadlineExceeded` when the watch could not be resumed for
    /// [`crate::Options::watch_timeout`].
    pub async fn next(&mut self) -> Result<WatchResponse, ClientError> {
        let patience = self.client.inner().options.watch_timeout;
        let mut resumption = Resumption::new("watch", patience);
        loop {
            let status = match &mut self.stream {
                None => match open_stream(&self.client, &self.query).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(ClientError::DeadlineExceeded { last, .. }) => Status::unavailable(last),
                    Err(error) => return Err(error),
                },
                Some(stream) => match stream.message().await {
                    Ok(Some(mut response)) => {
                        if self.accept(&mut response) {
                            return Ok(response);
                        }
                        continue;
                    }
                    Ok(None) => Status::unavailable("the gateway ended the stream"),
                    Err(status) => status,
                },
            };
            self.stream = None;
            resumption.pause_after(&status).await?;
        }
    }

    /// Where each partition is: pass it as [`WatchQuery::after`] to continue later.
    #[must_use]
    pub fn positions(&self) -> &BTreeMap<u32, u64> {
        &self.query.after
    }

    /// Notes how far the partition is and drops what was delivered before. False when nothing new remains.
    fn accept(&mut self, response: &mut WatchResponse) -> bool {
        let delivered = self.query.after.get(&response.partition_id).copied();
        let is_new = |position: u64| delivered.is_none_or(|delivered| position > delivered);
        response.events.retain(|event| event.record.as_ref().is_some_and(|record| is_new(record.position)));
        if response.events.is_empty() && !is_new(response.position) {
            return false;
        }
        let last_event = response.events.iter().filter_map(|e| e.record.as_ref()).map(|r| r.position).max();
        let reached = response.position.max(last_event.unwrap_or(0)).max(delivered.unwrap_or(0));
        self.query.after.insert(response.partition_id, reached);
        true
    }
}

async fn open_stream(client: &Client, query: &WatchQuery) -> Result<Streaming<WatchResponse>, ClientError> {
    let after = query.after.iter();
    let request = WatchRequest {
        prefix: query.prefix.clone(),
        partition_ids: query.partition_ids.clone(),
        after: after.map(|(&partition_id, &position)| PartitionPosition { partition_id, position }).collect(),
    };
    client
        .inner()
        .call("watch", request, |channel, request| {
            let request = without_deadline(request);
            async move { records(channel).watch(request).await }
        })
        .await
}

/// A stream has no deadline as a whole: only opening it has.
pub(crate) fn without_deadline<M>(mut request: Request<M>) -> Request<M> {
    request.metadata_mut().remove("grpc-timeout");
    request
}
