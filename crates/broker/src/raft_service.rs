//! The receiving side of what brokers say to each other.

use std::collections::HashMap;
use std::sync::Arc;

use evenkeel_protocol::NodeId;
use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::internal::v1::entry::Payload;
use evenkeel_protocol::internal::v1::raft_server;
use evenkeel_raft_storage::TypeConfig;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, VoteResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::disk_room::{DiskRoom, Room};
use crate::network::OUTSTANDING_MAX;
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::write_spans::FollowerSpans;
use crate::{pulse, rebuilding, snapshot_transfer, wire};

/// Results waiting for the connection. A full queue slows the reading of requests down, which is the bound.
const RESULTS_MAX: usize = 16_384;
const FRAME_RESULTS_MAX: usize = 1_024;
/// Answers to pulses waiting for the connection; one that finds no room is lost, and whoever waits for it asks again.
const PULSES_MAX: usize = 4;

pub struct RaftService {
    pub replicas: Replicas,
    pub store: evenkeel_raft_storage::StateStore,
    pub disk_room: DiskRoom,
}

impl RaftService {
    fn replica(&self, group: u32) -> Result<&Arc<Replica>, Status> {
        self.replicas.get(group).ok_or_else(|| Status::not_found(not_hosted(group)))
    }
}

impl RaftService {
    /// Whether the partition rests, here or on a broker that is heard: then there is a leader, although its lease has run
    /// out. If it is this one, whoever doubts it will hear of it.
    fn leader_is_trusted(&self, replica: &Replica) -> bool {
        let trusted = replica.rest.is_resting() || self.replicas.elector.rests(replica.partition);
        replica.rest.disturb();
        trusted
    }
}

fn not_hosted(group: u32) -> String {
    format!(
        "partition {group} has no replica on this broker: compare [cluster] and [partitioning] of both brokers"
    )
}

/// An error rather than a refusal, which openraft would read a vote from.
fn has_no_vote(group: u32) -> Status {
    Status::unavailable(format!("the replica of partition {group} is being rebuilt here and has no vote"))
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type ExchangeStream = BoxStream<'static, Result<pb::AppendResultFrame, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::AppendFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (results, results_rx) = mpsc::channel(RESULTS_MAX);
        let (pulses, pulses_rx) = mpsc::channel(PULSES_MAX);
        let receiver = Receiver {
            replicas: self.replicas.clone(),
            disk_room: self.disk_room.clone(),
            results,
            pulses,
            heard: None,
            streams: HashMap::new(),
        };
        tokio::spawn(receiver.run(request.into_inner()));
        Ok(Response::new(result_frames(results_rx, pulses_rx)))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        let request = request.into_inner();
        let replica = self.replica(request.group)?;
        replica.metrics.message_received(if request.pre_vote { "PollRequest" } else { "VoteRequest" });
        if replica.rebuilding.is_under_way() {
            return Err(has_no_vote(request.group));
        }
        let ask =
            wire::vote_request_from_wire(&request).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if request.pre_vote && self.leader_is_trusted(replica) {
            let metrics = replica.raft_metrics();
            let last_log_id = replica.log.state().last_log_id;
            let refusal = VoteResponse { vote: metrics.vote, vote_granted: false, last_log_id };
            return Ok(Response::new(wire::vote_response_to_wire(&refusal)));
        }
        let answer =
            if request.pre_vote { replica.raft.pre_vote(ask).await } else { replica.raft.vote(ask).await };
        let answer = answer.map_err(|e| Status::unavailable(e.to_string()))?;
        match (answer.vote_granted, request.pre_vote) {
            (true, true) => self.replicas.elector.promised(replica.partition),
            (true, false) => drop(self.replicas.elector.heard(replica.partition)),
            (false, _) => {}
        }
        let durable = answer.vote_granted && replica.log.durable() >= answer.last_log_id;
        Ok(Response::new(pb::VoteResponse { durable, ..wire::vote_response_to_wire(&answer) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let replica = self.replica(request.group)?;
        replica.metrics.message_received("TransferRequest");
        if replica.rebuilding.is_under_way() {
            return Err(has_no_vote(request.group));
        }
        let ask = wire::transfer_from_wire(&request).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let answer = replica.raft.handle_transfer_leader(ask).await;
        let answer = answer.map_err(|e| Status::unavailable(e.to_string()))?;
        let rejection = answer.err().map(|e| wire::rejection_to_wire(&e));
        Ok(Response::new(pb::TransferLeaderResponse { rejection }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResult>, Status> {
        if self.disk_room.now() == Room::None {
            return Err(Status::unavailable(self.disk_room.refusal()));
        }
        snapshot_transfer::receive(&self.replicas, &self.store, request.into_inner()).await.map(Response::new)
    }

    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Result<Response<pb::ProbeResponse>, Status> {
        let group = request.into_inner().group;
        let replica = self.replica(group)?;
        let metrics = replica.raft_metrics();
        let reason = match &metrics.running_state {
            Ok(()) if replica.rebuilding.is_under_way() => {
                format!("the replica of partition {group} is being rebuilt and has no vote")
            }
            // Whoever asks wants to hand a leadership over, and with it the writes.
            Ok(()) if self.disk_room.now() != Room::Enough => self.disk_room.refusal(),
            Ok(()) => String::new(),
            Err(fatal) => format!("the replica of partition {group} stopped: {fatal}"),
        };
        let last_log_id = metrics.last_log_index.map(|index| pb::LogId { index, ..Default::default() });
        Ok(Response::new(pb::ProbeResponse { ready: reason.is_empty(), last_log_id, reason }))
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        let request = request.into_inner();
        let replica = self.replica(request.group)?;
        Ok(Response::new(rebuilding::tell(replica, NodeId(request.node_id)).await))
    }
}

/// A replication stream that a leader opened.
struct OpenStream {
    queue: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    spans: FollowerSpans,
}

/// One peer's exchange, as it arrives.
struct Receiver {
    replicas: Replicas,
    disk_room: DiskRoom,
    results: mpsc::Sender<pb::AppendResult>,
    pulses: mpsc::Sender<pb::PulseAnswer>,
    /// The broker at the other end, once it has shown a pulse.
    heard: Option<NodeId>,
    /// Open replication streams: (group, stream) to the queue that openraft reads.
    streams: HashMap<(u32, u64), OpenStream>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Whatever rested on this connection has to be heard by itself again.
        if let Some(broker) = self.heard {
            self.replicas.elector.broker_lost(broker);
        }
    }
}

impl Receiver {
    async fn run(mut self, mut inbound: Streaming<pb::AppendFrame>) {
        let mut heartbeats = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(result) = heartbeats.next(), if !heartbeats.is_empty() => {
                    if self.results.send(result).await.is_err() {
                        return;
                    }
                }
                frame = inbound.message() => {
                    // The peer's death or our own: either way its streams end with this receiver.
                    let Ok(Some(frame)) = frame else { return };
                    if let Some(pulse) = frame.pulse {
                        self.heard = Some(NodeId(pulse.node_id));
                        let _ = self.pulses.try_send(pulse::answer(&self.replicas, pulse));
                    }
                    for request in frame.requests {
                        if request.heartbeat {
                            heartbeats.push(heartbeat(self.replicas.clone(), request).boxed());
                        } else if let Some(refusal) = self.route(request)
                            && self.results.send(refusal).await.is_err()
                        {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Hands a request to its stream, opening it when it is the first.
    fn route(&mut self, request: pb::AppendRequest) -> Option<pb::AppendResult> {
        let key @ (group, stream) = (request.group, request.stream);
        if request.close {
            self.streams.remove(&key);
            return None;
        }
        let Some(replica) = self.replicas.get(group) else {
            return Some(unavailable(group, stream, not_hosted(group)));
        };
        replica.metrics.append_received();
        // An entry without a command is how a new leader begins: small, and elections must go on.
        let grows = request.entries.iter().any(|entry| matches!(entry.payload, Some(Payload::Command(_))));
        if grows && self.disk_room.now() == Room::None {
            self.streams.remove(&key);
            return Some(unavailable(group, stream, self.disk_room.refusal()));
        }
        let request = match wire::append_from_wire(request) {
            Ok(request) => request,
            Err(error) => return Some(unavailable(group, stream, error.to_string())),
        };
        if let Some(refusal) = replica.rebuilding.refusal(replica.partition, &request.vote) {
            self.streams.remove(&key);
            return Some(unavailable(group, stream, refusal));
        }
        let OpenStream { queue, spans } = self.streams.entry(key).or_insert_with(|| {
            let (queue, rx) = mpsc::channel(OUTSTANDING_MAX + 1);
            let spans = FollowerSpans::default();
            tokio::spawn(serve_stream(
                replica.clone(),
                self.replicas.clone(),
                stream,
                (rx, spans.clone()),
                self.results.clone(),
            ));
            OpenStream { queue, spans }
        });
        spans.arrived(group, &request);
        match queue.try_send(request) {
            // A stream that ended with an error has said so; what was still under way gets no answer.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.streams.remove(&key);
                Some(unavailable(group, stream, "more requests outstanding than agreed".to_owned()))
            }
        }
    }
}

/// Feeds one replication stream to openraft until either side ends it.
async fn serve_stream(
    replica: Arc<Replica>,
    replicas: Replicas,
    stream: u64,
    (requests, spans): (mpsc::Receiver<AppendEntriesRequest<TypeConfig>>, FollowerSpans),
    results: mpsc::Sender<pb::AppendResult>,
) {
    let group = replica.partition.0;
    let mut answers = std::pin::pin!(replica.raft.stream_append(ReceiverStream::new(requests)));
    while let Some(answer) = answers.next().await {
        let result = match answer {
            Ok(answer) => {
                heard_if_accepted(&replicas, &replica, &answer);
                spans.durable(answer.as_ref().ok().map(|durable| durable.map_or(0, |id| id.index)));
                let closed = answer.is_err();
                pb::AppendResult { group, stream, closed, result: Some(wire::append_result_to_wire(&answer)) }
            }
            Err(fatal) => unavailable(group, stream, fatal.to_string()),
        };
        if results.send(result).await.is_err() {
            return;
        }
    }
}

async fn heartbeat(replicas: Replicas, request: pb::AppendRequest) -> pb::AppendResult {
    let (group, stream) = (request.group, request.stream);
    let Some(replica) = replicas.get(group) else {
        return unavailable(group, stream, not_hosted(group));
    };
    replica.metrics.append_received();
    let request = match wire::append_from_wire(request) {
        Ok(request) => request,
        Err(error) => return unavailable(group, stream, error.to_string()),
    };
    if let Some(refusal) = replica.rebuilding.refusal(replica.partition, &request.vote) {
        return unavailable(group, stream, refusal);
    }
    let prev = request.prev_log_id;
    match replica.raft.append_entries(request).await {
        Ok(openraft::raft::AppendEntriesResponse::Conflict) if prev.is_none() => {
            unavailable(group, stream, "conflict with an empty log".to_owned())
        }
        Ok(response) => {
            let answer = response.into_stream_result(prev, prev);
            heard_if_accepted(&replicas, replica, &answer);
            let result = Some(wire::append_result_to_wire(&answer));
            pb::AppendResult { group, stream, closed: true, result }
        }
        Err(error) => unavailable(group, stream, error.to_string()),
    }
}

fn heard_if_accepted(replicas: &Replicas, replica: &Replica, answer: &StreamAppendResult<TypeConfig>) {
    // A conflict comes from a live leader too; only a stale one is told of a higher vote.
    if !matches!(answer, Err(openraft::raft::StreamAppendError::HigherVote(_)))
        && let Some(gap) = replicas.elector.heard(replica.partition)
    {
        replica.metrics.leader_heard(gap);
    }
}

fn unavailable(group: u32, stream: u64, reason: String) -> pb::AppendResult {
    pb::AppendResult {
        group,
        stream,
        closed: true,
        result: Some(pb::append_result::Result::Unavailable(reason)),
    }
}

/// Frames of whatever results wait.
fn result_frames(
    results: mpsc::Receiver<pb::AppendResult>,
    pulses: mpsc::Receiver<pb::PulseAnswer>,
) -> BoxStream<'static, Result<pb::AppendResultFrame, Status>> {
    futures::stream::unfold((results, pulses), |(mut results, mut pulses)| async move {
        let mut frame = pb::AppendResultFrame::default();
        tokio::select! {
            received = results.recv_many(&mut frame.results, FRAME_RESULTS_MAX) => if received == 0 { return None },
            Some(answer) = pulses.recv() => frame.pulse = Some(answer),
        }
        Some((Ok(frame), (results, pulses)))
    })
    .boxed()
}
