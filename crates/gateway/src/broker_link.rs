//! The gateway's way to one broker: a connection for the subscription to its status, one stream for all writes, one for
//! all gets, and lists; and another connection for watches. Each is reopened after a capped, jittered back-off.
//!
//! Watches have their own connection because slow watchers fill HTTP/2's flow-control window, which all streams
//! of a connection share: they must not hold back writes, nor each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::broker_client::BrokerClient;
use evenkeel_protocol::internal::v1::{
    BrokerGetRequest, BrokerListRequest, Found, Page, WatchStatusRequest, broker_get_response,
    broker_list_response,
};
use evenkeel_protocol::{Dialer, NodeId, PartitionId, wire_version};
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::get_stream::{GetStream, Gets};
use crate::options::{Contact, OptionsError};
use crate::reads::{Answer, traced};
use crate::tagged_stream::{self, Ended, Exchange, TaggedStream};
use crate::told_status::ToldStatus;
use crate::topology::{Event, SILENCE_MAX};
use crate::write_stream::{Outstanding, Reply, WriteStream, Writes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream that the broker has not accepted by then is tried again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// A paused broker's connection is given up after interval + timeout, so that nobody waits for it longer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const BACKOFF_MIN_MS: u64 = 20;
const BACKOFF_MAX_MS: u64 = 500;
/// A stream that lived this long was healthy: the next back-off starts small again.
const HEALTHY_AFTER: Duration = Duration::from_secs(1);
/// Flow-control windows: frames of several large values must not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What a slow watcher may hold of each partition here…
const WATCH_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// …and room for so many of them that none waits for another.
const WATCH_CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// The connection to one broker.
pub(crate) struct BrokerLink {
    pub(crate) node: NodeId,
    client: BrokerClient<Channel>,
    watch_client: BrokerClient<Channel>,
    /// Present while the streams are open.
    writes: RwLock<Option<Arc<WriteStream>>>,
    gets: RwLock<Option<Arc<GetStream>>>,
}

/// Connections to all brokers; dropping them closes everything.
pub(crate) struct BrokerLinks {
    by_node: BTreeMap<NodeId, Arc<BrokerLink>>,
    _upkeep: JoinSet<()>,
}

impl BrokerLinks {
    /// Starts connecting to every contact point; statuses go to `events`.
    pub(crate) fn start(
        contacts: &[Contact],
        dialer: &Dialer,
        message_bytes_max: usize,
        events: &mpsc::Sender<Event>,
    ) -> Result<Self, OptionsError> {
        let mut upkeep = JoinSet::new();
        let mut by_node = BTreeMap::new();
        for contact in contacts {
            let link = Arc::new(BrokerLink::new(contact, dialer, message_bytes_max)?);
            upkeep.spawn(Arc::clone(&link).keep_subscribed(events.clone()));
            upkeep.spawn(Arc::clone(&link).keep_writing());
            upkeep.spawn(Arc::clone(&link).keep_getting());
            by_node.insert(contact.node, link);
        }
        Ok(Self { by_node, _upkeep: upkeep })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<BrokerLink>> {
        self.by_node.values()
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Arc<BrokerLink>> {
        self.by_node.get(&node)
    }
}

impl BrokerLink {
    fn new(contact: &Contact, dialer: &Dialer, message_bytes_max: usize) -> Result<Self, OptionsError> {
        let uri = format!("http://{}:{}", contact.host, contact.port);
        let endpoint = Endpoint::from_shared(uri);
        let endpoint = endpoint.and_then(|e| e.user_agent(wire_version::user_agent())).map_err(|error| {
            OptionsError {
                key: "cluster.brokers",
                value: format!("\"{}={}:{}\"", contact.node, contact.host, contact.port),
                problem: error.to_string(),
                remedy: "give a host name or an address and a port".into(),
            }
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let client = |stream_window: u32, connection_window: u32| {
            let endpoint = endpoint
                .clone()
                .initial_stream_window_size(stream_window)
                .initial_connection_window_size(connection_window);
            BrokerClient::new(dialer.channel(endpoint))
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(message_bytes_max)
        };
        Ok(Self {
            node: contact.node,
            client: client(STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES),
            watch_client: client(WATCH_STREAM_WINDOW_BYTES, WATCH_CONNECTION_WINDOW_BYTES),
            writes: RwLock::new(None),
            gets: RwLock::new(None),
        })
    }

    /// A handle for calls whose answers are read at once; cheap.
    pub(crate) fn client(&self) -> BrokerClient<Channel> {
        self.client.clone()
    }

    /// A handle for watches; cheap.
    pub(crate) fn watch_client(&self) -> BrokerClient<Channel> {
        self.watch_client.clone()
    }

    /// Queues a write; `None` when the broker is not connected or its queue is full: nothing was sent.
    pub(crate) fn write(&self, partition: PartitionId, command: Bytes) -> Option<Outstanding> {
        self.writes.read().as_ref()?.send((partition, command))
    }

    /// The same, with the end of the write told to `reply`; false when nothing was sent, and nothing is told.
    pub(crate) fn queue_write(&self, partition: PartitionId, command: Bytes, reply: Reply) -> bool {
        self.writes.read().as_ref().is_some_and(|stream| stream.queue((partition, command), reply).is_some())
    }

    /// Asks for one record: with whatever else is asked for, or by a call of its own when the broker knows no stream of
    /// gets, or when the trace at hand is to go along.
    pub(crate) async fn get(&self, ask: BrokerGetRequest) -> Result<Answer<Found>, Status> {
        use broker_get_response::Result as R;
        let streamed = match evenkeel_traces::current() {
            None => self.gets.read().as_ref().and_then(|stream| stream.send(ask.clone())),
            Some(_) => None,
        };
        let result = match streamed {
            Some(outstanding) => match outstanding.await {
                Ended::Answered(result) => Some(result),
                Ended::NotSent | Ended::Unknown => {
                    return Err(Status::unavailable("the connection to the broker broke"));
                }
            },
            None => self.client().get(traced(ask)).await?.into_inner().result,
        };
        match result {
            Some(R::Found(found)) => Ok(Answer::Value(found)),
            Some(R::NotLeader(not)) => Ok(Answer::NotLeader(not)),
            Some(R::Refused(refused)) => Ok(Answer::Refused(refused)),
            None => Err(Status::internal("an empty answer to Get")),
        }
    }

    /// Asks for a page of records.
    pub(crate) async fn list(&self, ask: BrokerListRequest) -> Result<Answer<Page>, Status> {
        use broker_list_response::Result as R;
        match self.client().list(traced(ask)).await?.into_inner().result {
            Some(R::Page(page)) => Ok(Answer::Value(page)),
            Some(R::NotLeader(not)) => Ok(Answer::NotLeader(not)),
            Some(R::Refused(refused)) => Ok(Answer::Refused(refused)),
            None => Err(Status::internal("an empty answer to List")),
        }
    }

    async fn keep_subscribed(self: Arc<Self>, events: mpsc::Sender<Event>) {
        let mut backoff = Backoff::default();
        let mut reported = String::new();
        loop {
            let opened = Instant::now();
            let problem = self.follow_status(&events, &mut reported).await;
            if events.send(Event::Lost(self.node)).await.is_err() {
                return;
            }
            // Once per kind of trouble, not once per attempt.
            if problem != reported {
                tracing::warn!(broker = %self.node, "broker unreachable: {problem}; trying again");
                reported = problem;
            }
            backoff.pause(opened.elapsed()).await;
        }
    }

    /// Feeds statuses on until the stream ends; says why it did.
    async fn follow_status(&self, events: &mpsc::Sender<Event>, reported: &mut String) -> String {
        let request = WatchStatusRequest { partial: true, ..Default::default() };
        let subscribed = timeout(OPEN_TIMEOUT, self.client().watch_status(request)).await;
        let mut statuses = match subscribed {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return format!("no answer in {}", humantime::format_duration(OPEN_TIMEOUT)),
        };
        let mut told = ToldStatus::default();
        loop {
            match timeout(SILENCE_MAX, statuses.message()).await {
                Ok(Ok(Some(status))) if status.node_id != self.node.0 => {
                    return format!(
                        "node {} answers at its address; correct cluster.brokers",
                        NodeId(status.node_id)
                    );
                }
                Ok(Ok(Some(status))) => {
                    if !reported.is_empty() {
                        tracing::info!(broker = %self.node, "broker reachable again");
                        reported.clear();
                    }
                    told.update(status);
                    if events.send(Event::Status(Box::new(told.clone()))).await.is_err() {
                        return "the gateway stops".into();
                    }
                }
                Ok(Ok(None)) => return "it ended its status stream".into(),
                Ok(Err(status)) => return status.message().to_owned(),
                Err(_) => return format!("silent for {}", humantime::format_duration(SILENCE_MAX)),
            }
        }
    }

    async fn keep_writing(self: Arc<Self>) {
        let client = self.client();
        let open = move |frames| {
            let mut client = client.clone();
            async move { client.write(frames).await }
        };
        keep_open::<Writes, _>(&self.writes, open).await;
    }

    async fn keep_getting(self: Arc<Self>) {
        let client = self.client();
        let open = move |frames| {
            let mut client = client.clone();
            async move { client.gets(frames).await }
        };
        keep_open::<Gets, _>(&self.gets, open).await;
    }
}

/// Opens a stream again and again, and shows it while it is open.
async fn keep_open<X: Exchange, F>(
    shown: &RwLock<Option<Arc<TaggedStream<X>>>>,
    open: impl Fn(tagged_stream::Frames<X>) -> F,
) where
    F: Future<Output = Result<Response<Streaming<X::AnswerFrame>>, Status>>,
{
    let mut backoff = Backoff::default();
    loop {
        let opened = Instant::now();
        let (stream, frames) = tagged_stream::open::<X>();
        if let Ok(Ok(response)) = timeout(OPEN_TIMEOUT, open(frames)).await {
            let stream = Arc::new(stream);
            *shown.write() = Some(Arc::clone(&stream));
            let failure = stream.deliver(response.into_inner()).await;
            *shown.write() = None;
            tracing::debug!(?failure, "a stream to a broker ended");
        }
        backoff.pause(opened.elapsed()).await;
    }
}

/// Doubling pauses with jitter, so that gateways do not reconnect in step.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    async fn pause(&mut self, lived: Duration) {
        tokio::time::sleep(self.after(lived, rand::random())).await;
    }

    fn after(&mut self, lived: Duration, random: f64) -> Duration {
        if lived >= HEALTHY_AFTER {
            self.failures = 0;
        }
        let full = (BACKOFF_MIN_MS << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(full).mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_cap_and_start_again_after_a_healthy_stream() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.after(Duration::ZERO, 1.0).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(backoff.after(HEALTHY_AFTER, 0.0).as_millis(), 10);
    }
}
