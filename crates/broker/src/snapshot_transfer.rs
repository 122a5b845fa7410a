//! Snapshots on their way to a replica that was away past the start of the log.
//!
//! Streamed both ways in bounded chunks, each with its checksum; the last one says so, since a stream that just
//! ends may have been cut.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use evenkeel_protocol::internal::v1 as pb;
use evenkeel_raft_storage::types::raft::{SnapshotMeta, Vote};
use evenkeel_raft_storage::{GroupId, Snapshot, StateStore, TypeConfig};
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::metric_definitions::snapshot_received;
use crate::peer::Peer;
use crate::replicas::Replicas;
use crate::wire;

/// Sends a snapshot and waits until the peer has installed it.
pub async fn send(
    peer: &Peer,
    group: GroupId,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, Snapshot>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let header = pb::SnapshotHeader {
        group,
        vote: Some(wire::vote_to_wire(&vote)),
        last_log_id: snapshot.meta.last_log_id.as_ref().map(wire::log_id_to_wire),
        last_membership: serde_json::to_vec(&snapshot.meta.last_membership)
            .map_err(|e| NetworkError::new(&e))?
            .into(),
    };
    let local_error: Arc<Mutex<Option<io::Error>>> = Arc::default();
    let chunks = chunk_messages(header, snapshot.snapshot.stream(), local_error.clone());
    let sent = peer.client().install_snapshot(chunks).await;
    if let Some(error) = local_error.lock().take() {
        tracing::error!(partition = group, %error, "cannot read the snapshot to send");
        return Err(NetworkError::new(&error).into());
    }
    match sent {
        Ok(response) => {
            let vote = response
                .into_inner()
                .vote
                .ok_or_else(|| NetworkError::from_string("snapshot answer without vote"))?;
            Ok(SnapshotResponse::new(wire::vote_from_wire(&vote)))
        }
        Err(status) if status.code() == tonic::Code::Unavailable => {
            Err(Unreachable::from_string(status.message()).into())
        }
        Err(status) => Err(NetworkError::from_string(status.message()).into()),
    }
}

fn chunk_messages(
    header: pb::SnapshotHeader,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    local_error: Arc<Mutex<Option<io::Error>>>,
) -> impl Stream<Item = pb::SnapshotChunk> + Send + 'static {
    let first =
        futures::stream::once(async { pb::SnapshotChunk { header: Some(header), ..Default::default() } });
    let rest = futures::stream::unfold(Some(chunks), move |chunks| {
        let local_error = local_error.clone();
        async move {
            let mut chunks = chunks?;
            match chunks.next().await {
                Some(Ok(data)) => {
                    let crc = crc32c::crc32c(&data);
                    Some((pb::SnapshotChunk { data, crc, ..Default::default() }, Some(chunks)))
                }
                // Without the last chunk the receiver installs nothing.
                Some(Err(error)) => {
                    *local_error.lock() = Some(error);
                    None
                }
                None => Some((pb::SnapshotChunk { last: true, ..Default::default() }, None)),
            }
        }
    });
    first.chain(rest)
}

/// Receives a snapshot into a new generation and installs it.
pub async fn receive(
    replicas: &Replicas,
    store: &StateStore,
    mut chunks: Streaming<pb::SnapshotChunk>,
) -> Result<pb::SnapshotResult, Status> {
    let began = Instant::now();
    let cut_off = || Status::aborted("the snapshot was cut off before its last chunk");
    let header = chunks.message().await?.and_then(|c| c.header);
    let header = header.ok_or_else(|| Status::invalid_argument("a snapshot begins with its header"))?;
    let group = header.group;
    let replica = replicas
        .get(group)
        .ok_or_else(|| Status::not_found(format!("no replica of partition {group} here")))?;
    replica.metrics.message_received("InstallRequest");
    let vote =
        header.vote.as_ref().ok_or_else(|| Status::invalid_argument("snapshot header without vote"))?;
    let vote = wire::vote_from_wire(vote);
    if let Some(refusal) = replica.rebuilding.refusal(replica.partition, &vote) {
        return Err(Status::unavailable(refusal));
    }
    let last_membership = serde_json::from_slice(&header.last_membership)
        .map_err(|e| Status::invalid_argument(format!("snapshot membership does not parse: {e}")))?;
    let meta = SnapshotMeta {
        last_log_id: header.last_log_id.as_ref().map(wire::log_id_from_wire),
        last_membership,
    };
    let mut receiver = store.snapshot_receiver(group).map_err(disk)?;
    loop {
        let chunk = chunks.message().await?.ok_or_else(cut_off)?;
        if chunk.last {
            break;
        }
        if crc32c::crc32c(&chunk.data) != chunk.crc {
            return Err(Status::data_loss(format!(
                "a chunk of partition {group}'s snapshot arrived damaged"
            )));
        }
        replicas.elector.heard(replica.partition);
        receiver.push(chunk.data).await.map_err(disk)?;
    }
    let snapshot =
        SnapshotOf::<TypeConfig, Snapshot> { meta, snapshot: receiver.finish().await.map_err(disk)? };
    let response = replica.raft.install_full_snapshot(vote, snapshot).await;
    let response = response.map_err(|e| Status::unavailable(e.to_string()))?;
    snapshot_received(group, began.elapsed());
    tracing::info!(partition = group, took_ms = began.elapsed().as_millis(), "installed a snapshot");
    Ok(pb::SnapshotResult { vote: Some(wire::vote_to_wire(&response.vote)) })
}

fn disk(error: io::Error) -> Status {
    Status::internal(format!("cannot store the snapshot: {error}"))
}
