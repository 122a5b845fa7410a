//! One connection to each other broker, and the exchange that carries every partition's replication over it.
//!
//! A [`Peer`] owns one HTTP/2 connection. On it runs one long-lived bidirectional stream, the *exchange*:
//! appends and heartbeats of all partitions go out in frames made of whatever is waiting, results come back the
//! same way. So a frame under load carries many partitions' entries for one system call, and the heartbeats of
//! a thousand idle partitions share a few messages.
//!
//! Cost of one append here: no copy of the command bytes, one channel hop each way, a share of one frame.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::internal::v1::broker_client::BrokerClient;
use evenkeel_protocol::internal::v1::raft_client::RaftClient;
use evenkeel_protocol::{Dialer, NodeId, wire_version};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::replicas::Replicas;
use crate::stop::Stop;
use crate::{pulse, wire};

/// Largest message that brokers accept from each other: a batch of 4 MiB and its overhead fit many times.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Appends waiting for the connection; each partition adds at most [`crate::network::OUTSTANDING_MAX`].
const QUEUE_REQUESTS_MAX: usize = 16_384;
/// A frame is closed when it reaches either bound.
const FRAME_REQUESTS_MAX: usize = 512;
const FRAME_BYTES_MAX: u64 = 2 << 20;
/// How long a heartbeat that nobody waits for may wait for company. Far below the heartbeat interval, so leases do not
/// notice.
const HEARTBEAT_GATHER_MS: u64 = 2;
const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// A peer whose process is stopped or whose link is cut is noticed within two of these.
const KEEP_ALIVE_MS: u64 = 1_000;
const RECONNECT_MS_MIN: u64 = 20;
const RECONNECT_MS_MAX: u64 = 500;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Another broker.
pub struct Peer {
    pub node: NodeId,
    pub address: String,
    channel: Channel,
    exchange: Mutex<Option<Arc<Exchange>>>,
    connected: watch::Sender<bool>,
    /// How often the exchange came up.
    connections: AtomicU64,
    /// When something last came back on the exchange.
    answered_at: Mutex<Option<Instant>>,
    next_stream: AtomicU64,
}

/// Pulses waiting for the connection: one more says no more.
const QUEUE_PULSES_MAX: usize = 4;

/// The live bidirectional stream; dropped and made anew when the connection breaks.
pub struct Exchange {
    appends: mpsc::Sender<pb::AppendRequest>,
    heartbeats: mpsc::Sender<pb::AppendRequest>,
    pulses: mpsc::Sender<pb::Pulse>,
    /// Somebody waits for the answer to a heartbeat that was queued.
    hurry: Arc<Notify>,
    /// Where each open stream's results go. `None` once the exchange is broken: nobody may join then.
    waiting: Mutex<Option<HashMap<u64, mpsc::Sender<pb::AppendResult>>>>,
}

/// Why a peer cannot be talked to right now.
#[derive(Debug, thiserror::Error)]
#[error("broker {node} at {address} is not connected")]
pub struct NotConnected {
    node: NodeId,
    address: String,
}

impl Peer {
    /// Prepares the connection; [`Peer::run`] makes and keeps it.
    pub fn new(node: NodeId, address: String, dialer: &Dialer) -> Result<Arc<Self>, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .user_agent(wire_version::user_agent())?
            .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_millis(KEEP_ALIVE_MS))
            .keep_alive_timeout(Duration::from_millis(KEEP_ALIVE_MS))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = dialer.channel(endpoint);
        let (connected, _) = watch::channel(false);
        Ok(Arc::new(Self {
            node,
            address,
            channel,
            exchange: Mutex::new(None),
            connected,
            connections: AtomicU64::new(0),
            answered_at: Mutex::new(None),
            next_stream: AtomicU64::new(1),
        }))
    }

    /// A client for the calls that are not replication: votes, transfers, snapshots, probes.
    pub fn client(&self) -> RaftClient<Channel> {
        RaftClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A client for what gateways ask too: the broker's status.
    pub fn broker_client(&self) -> BrokerClient<Channel> {
        BrokerClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whether the exchange is up; changes when the peer comes and goes.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// How often the exchange came up so far: who compares two numbers knows whether it broke in between.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Whether the exchange is up and the peer said something on it within `lease`.
    pub fn answered(&self, now: std::time::Instant, lease: Duration) -> bool {
        let at = *self.answered_at.lock();
        *self.connected.borrow() && at.is_some_and(|at| now.saturating_duration_since(at.into_std()) < lease)
    }

    /// Sends this broker's sign of life. Nobody waits for it: one that finds the queue full, or no connection, is lost.
    pub fn pulse(&self, pulse: pb::Pulse) {
        if let Some(exchange) = self.exchange.lock().as_ref() {
            let _ = exchange.pulses.try_send(pulse);
        }
    }

    /// Opens a replication stream for one partition.
    pub fn open_stream(&self, results_max: usize) -> Result<AppendStream, NotConnected> {
        let not_connected = || NotConnected { node: self.node, address: self.address.clone() };
        let exchange = self.exchange.lock().clone().ok_or_else(not_connected)?;
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (tx, results) = mpsc::channel(results_max);
        exchange.waiting.lock().as_mut().ok_or_else(not_connected)?.insert(id, tx);
        Ok(AppendStream { id, exchange, results })
    }

    /// Keeps the exchange up until the process ends. `stop` ends it.
    pub async fn run(self: Arc<Self>, replicas: Replicas, mut stop: Stop) {
        let mut pause_ms = RECONNECT_MS_MIN;
        loop {
            tokio::select! {
                lived = self.run_exchange(&replicas) => if lived { pause_ms = RECONNECT_MS_MIN },
                () = stop.requested() => return,
            }
            let jitter = rand::random_range(0..=pause_ms / 2);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause_ms + jitter)) => {}
                () = stop.requested() => return,
            }
            pause_ms = (pause_ms * 2).min(RECONNECT_MS_MAX);
        }
    }

    /// One life of the exchange; whether it came up at all.
    async fn run_exchange(&self, replicas: &Replicas) -> bool {
        let (appends, appends_rx) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let (heartbeats, heartbeats_rx) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let (pulses, pulses_rx) = mpsc::channel(QUEUE_PULSES_MAX);
        let hurry = Arc::new(Notify::new());
        let outbound = frames(appends_rx, heartbeats_rx, pulses_rx, hurry.clone());
        let mut inbound = match self.client().exchange(outbound).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                tracing::error!(peer = %self.node, address = %self.address, message = status.message(), "peer refused");
                return false;
            }
            Err(status) => {
                tracing::debug!(peer = %self.node, address = %self.address, %status, "peer not reachable");
                return false;
            }
        };
        let waiting = Mutex::new(Some(HashMap::new()));
        let exchange = Arc::new(Exchange { appends, heartbeats, pulses, hurry, waiting });
        *self.exchange.lock() = Some(exchange.clone());
        self.connections.fetch_add(1, Ordering::AcqRel);
        *self.answered_at.lock() = Some(Instant::now());
        self.connected.send_replace(true);
        tracing::info!(peer = %self.node, address = %self.address, "connected to peer");
        let broken = Broken { peer: self, exchange: &exchange };
        loop {
            match inbound.message().await {
                Ok(Some(mut frame)) => {
                    *self.answered_at.lock() = Some(Instant::now());
                    if let Some(answer) = frame.pulse.take() {
                        pulse::answered(replicas, self.node, &answer);
                    }
                    exchange.deliver(frame);
                }
                Ok(None) => {
                    tracing::info!(peer = %self.node, "peer closed the exchange");
                    break;
                }
                Err(status) => {
                    tracing::info!(peer = %self.node, status = status.message(), "lost the exchange with peer");
                    break;
                }
            }
        }
        drop(broken);
        true
    }
}

/// Tells everyone who waits on a broken exchange, also when its task is dropped.
struct Broken<'a> {
    peer: &'a Peer,
    exchange: &'a Exchange,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        *self.peer.exchange.lock() = None;
        self.peer.connected.send_replace(false);
        // Dropping the senders ends every stream's results.
        self.exchange.waiting.lock().take();
    }
}

impl Exchange {
    fn deliver(&self, frame: pb::AppendResultFrame) {
        let mut waiting = self.waiting.lock();
        let Some(waiting) = waiting.as_mut() else { return };
        for result in frame.results {
            let (stream, closed) = (result.stream, result.closed);
            // A stream bounds what it has outstanding, so its channel has room unless the peer answers what was
            // never asked; then the stream is cut.
            let overrun = match waiting.get(&stream) {
                Some(tx) => tx.try_send(result).is_err(),
                None => false,
            };
            if closed || overrun {
                waiting.remove(&stream);
            }
        }
    }
}

/// One partition's replication to one peer, for as long as openraft keeps it going.
pub struct AppendStream {
    pub id: u64,
    exchange: Arc<Exchange>,
    pub results: mpsc::Receiver<pb::AppendResult>,
}

impl AppendStream {
    /// Queues a request; waits when the connection is behind. `false` when the exchange broke. A heartbeat waits for
    /// company, unless it is `awaited`.
    pub async fn send(&self, request: pb::AppendRequest, awaited: bool) -> bool {
        let heartbeat = request.heartbeat;
        let queue = if heartbeat { &self.exchange.heartbeats } else { &self.exchange.appends };
        let queued = queue.send(request).await.is_ok();
        if heartbeat && awaited {
            self.exchange.hurry.notify_one();
        }
        queued
    }

    /// A stream without a peer, what is sent on it, and where its answers come from.
    #[cfg(test)]
    pub fn to_nobody() -> (Self, mpsc::Receiver<pb::AppendRequest>, mpsc::Sender<pb::AppendResult>) {
        let (appends, sent) = mpsc::channel(64);
        let (answers, results) = mpsc::channel(64);
        let exchange = Exchange {
            appends: appends.clone(),
            heartbeats: appends,
            pulses: mpsc::channel(1).0,
            hurry: Arc::default(),
            waiting: Mutex::new(None),
        };
        (Self { id: 1, exchange: Arc::new(exchange), results }, sent, answers)
    }

    /// Tells the peer that no more will come.
    pub fn close(&self, group: u32) {
        let request = pb::AppendRequest { group, stream: self.id, close: true, ..Default::default() };
        // When the queue is full the peer learns it from the end of the connection or of the group.
        let _ = self.exchange.appends.try_send(request);
    }
}

impl Drop for AppendStream {
    fn drop(&mut self) {
        if let Some(waiting) = self.exchange.waiting.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// Makes frames of whatever waits; heartbeats alone wait a moment for each other, unless there is a hurry.
fn frames(
    appends: mpsc::Receiver<pb::AppendRequest>,
    heartbeats: mpsc::Receiver<pb::AppendRequest>,
    pulses: mpsc::Receiver<pb::Pulse>,
    hurry: Arc<Notify>,
) -> impl Stream<Item = pb::AppendFrame> + Send + 'static {
    struct Gather {
        appends: mpsc::Receiver<pb::AppendRequest>,
        heartbeats: mpsc::Receiver<pb::AppendRequest>,
        pulses: mpsc::Receiver<pb::Pulse>,
        hurry: Arc<Notify>,
        requests: Vec<pb::AppendRequest>,
        bytes: u64,
    }
    impl Gather {
        fn push(&mut self, request: pb::AppendRequest) {
            self.bytes += wire::payload_bytes(&request.entries);
            self.requests.push(request);
        }
        fn full(&self) -> bool {
            self.requests.len() >= FRAME_REQUESTS_MAX || self.bytes >= FRAME_BYTES_MAX
        }
    }
    let gather = Gather { appends, heartbeats, pulses, hurry, requests: Vec::new(), bytes: 0 };
    futures::stream::unfold(gather, |mut g| async move {
        let mut send_at: Option<Instant> = None;
        let mut pulse = None;
        loop {
            let deadline = send_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                request = g.appends.recv() => {
                    g.push(request?);
                    break;
                }
                // What it is for may have gone with the frame before.
                () = g.hurry.notified() => if !g.requests.is_empty() || !g.heartbeats.is_empty() {
                    break;
                },
                request = g.heartbeats.recv(), if !g.full() => {
                    g.push(request?);
                    send_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(HEARTBEAT_GATHER_MS));
                }
                request = g.pulses.recv() => {
                    pulse = Some(request?);
                    break;
                }
                () = tokio::time::sleep_until(deadline), if send_at.is_some() => break,
            }
        }
        // However busy the partitions are, signs of life of the others go along.
        pulse = pulse.or_else(|| g.pulses.try_recv().ok());
        while !g.full() {
            match g.heartbeats.try_recv().or_else(|_| g.appends.try_recv()) {
                Ok(request) => g.push(request),
                Err(_) => break,
            }
        }
        g.bytes = 0;
        Some((pb::AppendFrame { requests: std::mem::take(&mut g.requests), pulse }, g))
    })
    .boxed()
}

/// Every other broker, by node id.
#[derive(Clone, Default)]
pub struct Peers(Arc<HashMap<NodeId, Arc<Peer>>>);

impl Peers {
    pub fn new(peers: impl IntoIterator<Item = Arc<Peer>>) -> Self {
        Self(Arc::new(peers.into_iter().map(|p| (p.node, p)).collect()))
    }

    pub fn get(&self, node: NodeId) -> Option<&Arc<Peer>> {
        self.0.get(&node)
    }

    /// Whether the connection to another broker is up.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|peer| *peer.connected().borrow())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn heartbeats_wait_for_company_unless_somebody_waits_for_one() {
        let (_appends, appends_rx) = mpsc::channel(4);
        let (heartbeats, heartbeats_rx) = mpsc::channel(4);
        let (_pulses, pulses_rx) = mpsc::channel(4);
        let hurry = Arc::new(Notify::new());
        let mut frames = frames(appends_rx, heartbeats_rx, pulses_rx, hurry.clone());
        let heartbeat = |group| pb::AppendRequest { group, heartbeat: true, ..Default::default() };
        let groups = |frame: pb::AppendFrame| frame.requests.iter().map(|r| r.group).collect::<Vec<_>>();

        let began = Instant::now();
        heartbeats.send(heartbeat(1)).await.unwrap();
        heartbeats.send(heartbeat(2)).await.unwrap();
        assert_eq!(groups(frames.next().await.unwrap()), [1, 2]);
        assert!(began.elapsed() >= Duration::from_millis(HEARTBEAT_GATHER_MS));

        let began = Instant::now();
        heartbeats.send(heartbeat(3)).await.unwrap();
        heartbeats.send(heartbeat(4)).await.unwrap();
        hurry.notify_one();
        assert_eq!(groups(frames.next().await.unwrap()), [3, 4]);
        assert_eq!(began.elapsed(), Duration::ZERO);

        // The hurry was for a heartbeat that has gone already: no frame is made for it.
        hurry.notify_one();
        let none = tokio::time::timeout(Duration::from_secs(1), frames.next()).await;
        assert!(none.is_err());
    }
}
