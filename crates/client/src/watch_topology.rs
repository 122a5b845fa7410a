//! The topology as it changes, across gateways: when one goes away the next one begins with a snapshot.

use evenkeel_protocol::v1::cluster_client::ClusterClient;
use evenkeel_protocol::v1::topology_event::Event;
use evenkeel_protocol::v1::{TopologyEvent, WatchTopologyRequest};
use tonic::{Status, Streaming};

use crate::client::{ANSWER_BYTES_MAX, Client};
use crate::error::ClientError;
use crate::resumption::Resumption;
use crate::watch::without_deadline;

/// An open watch of the topology; see [`Client::watch_topology`].
#[derive(Debug)]
pub struct TopologyWatch {
    client: Client,
    stream: Option<Streaming<TopologyEvent>>,
}

impl TopologyWatch {
    pub(crate) async fn open(client: Client) -> Result<Self, ClientError> {
        let stream = open_stream(&client).await?;
        Ok(Self { client, stream: Some(stream) })
    }

    /// The next event; begins anew, with a snapshot, when the stream breaks.
    ///
    /// # Errors
    /// `DeadlineExceeded` when no gateway could be watched for [`crate::Options::watch_timeout`].
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        let patience = self.client.inner().options.watch_timeout;
        let mut resumption = Resumption::new("watch_topology", patience);
        loop {
            let status = match &mut self.stream {
                None => match open_stream(&self.client).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(ClientError::DeadlineExceeded { last, .. }) => Status::unavailable(last),
                    Err(error) => return Err(error),
                },
                Some(stream) => match stream.message().await {
                    // An event that this client does not know yet has none.
                    Ok(Some(TopologyEvent { event: None })) => continue,
                    Ok(Some(TopologyEvent { event: Some(event) })) => return Ok(event),
                    Ok(None) => Status::unavailable("the gateway ended the stream"),
                    Err(status) => status,
                },
            };
            self.stream = None;
            resumption.pause_after(&status).await?;
        }
    }
}

async fn open_stream(client: &Client) -> Result<Streaming<TopologyEvent>, ClientError> {
    client
        .inner()
        .call("watch_topology", WatchTopologyRequest {}, |channel, request| {
            let request = without_deadline(request);
            let mut cluster = ClusterClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            async move { cluster.watch_topology(request).await }
        })
        .await
}
