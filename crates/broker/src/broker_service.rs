//! What gateways ask of a broker: writes, reads, watches, status and step-down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::internal::v1::{broker_server, refused::Reason};
use evenkeel_protocol::v1;
use evenkeel_protocol::{COMMAND_BYTES_MAX, NodeId, Position, SYSTEM_GROUP};
use evenkeel_raft_storage::{ChangesError, Command, ExportingPhase, PartitionReader};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming};

use crate::disk_room::{self, DiskRoom};
use crate::drained::Drained;
use crate::exporting::Exporting;
use crate::gets;
use crate::handover::{Handover, Purpose};
use crate::leadership::Tenure;
use crate::replica::{Answer, ReadRefusal, Replica};
use crate::replicas::Replicas;
use crate::status::{Published, StatusHub};
use crate::write_spans::LeaderSpans;

/// Answers waiting for one gateway's connection.
const RESULTS_MAX: usize = 16_384;
const FRAME_RESULTS_MAX: usize = 1_024;
/// Bytes of commands proposed and not answered.
pub const WRITES_BYTES_MAX: usize = 256 << 20;
/// Gets and lists that read at once, or wait for a thread to.
pub const READS_MAX: usize = 4_096;
/// Watch messages waiting for one gateway; a slow one stops the reading of changes, not the partition.
const WATCH_QUEUE_MAX: usize = 2;
const WATCH_EVENTS_MAX: usize = 256;
const WATCH_BYTES_MAX: usize = 1 << 20;
/// A watcher that sees no change is told the position this often, so that it can resume from there.
const WATCH_IDLE_MS: u64 = 5_000;
const LIST_RECORDS_MAX: u32 = 1_000;
const LIST_BYTES_MAX: u64 = 4 << 20;

pub struct BrokerService {
    pub replicas: Replicas,
    pub handover: Handover,
    pub status: StatusHub,
    pub drained: Drained,
    pub exporting: Exporting,
    pub room: Room,
    pub disk_room: DiskRoom,
}

/// What may be under way at once; more is refused.
#[derive(Clone)]
pub struct Room {
    writes: Arc<Semaphore>,
    /// A permit for each byte.
    write_bytes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl Room {
    /// For so many writes proposed and not answered.
    pub fn new(writes_max: usize) -> Self {
        Self {
            writes: Arc::new(Semaphore::new(writes_max)),
            write_bytes: Arc::new(Semaphore::new(WRITES_BYTES_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// Room for so many reads, until it is dropped.
    pub fn for_reads(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        let count = u32::try_from(count).ok()?;
        Arc::clone(&self.reads).try_acquire_many_owned(count).ok()
    }

    /// Room for the first of these writes, as many as it holds, until it is dropped; and how many those are.
    fn for_writes(&self, commands: &[Command]) -> (usize, Option<[OwnedSemaphorePermit; 2]>) {
        let mut taken: Option<[OwnedSemaphorePermit; 2]> = None;
        for (count, Command(bytes)) in commands.iter().enumerate() {
            let bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let Ok(write) = Arc::clone(&self.writes).try_acquire_owned() else { return (count, taken) };
            let Ok(bytes) = Arc::clone(&self.write_bytes).try_acquire_many_owned(bytes) else {
                return (count, taken);
            };
            match &mut taken {
                None => taken = Some([write, bytes]),
                Some([writes, all_bytes]) => {
                    writes.merge(write);
                    all_bytes.merge(bytes);
                }
            }
        }
        (commands.len(), taken)
    }
}

pub fn refused(reason: Reason, detail: impl Into<String>) -> pb::Refused {
    pb::Refused { reason: reason as i32, detail: detail.into() }
}

fn too_large(bytes: usize) -> pb::Refused {
    let detail =
        format!("the write is {bytes} bytes, brokers take at most {COMMAND_BYTES_MAX}; make it smaller");
    refused(Reason::TooLarge, detail)
}

fn unknown_partition(partition: u32) -> pb::Refused {
    refused(Reason::UnknownPartition, format!("partition {partition} has no replica on this broker"))
}

#[tonic::async_trait]
impl broker_server::Broker for BrokerService {
    type WriteStream = BoxStream<'static, Result<pb::WriteResultFrame, Status>>;
    type GetsStream = BoxStream<'static, Result<pb::GetResponseFrame, Status>>;
    type WatchStream = BoxStream<'static, Result<pb::BrokerWatchResponse, Status>>;
    type WatchStatusStream = BoxStream<'static, Result<pb::BrokerStatus, Status>>;

    async fn write(
        &self,
        request: Request<Streaming<pb::WriteFrame>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (results, results_rx) = mpsc::channel(RESULTS_MAX);
        let writer = Writer {
            replicas: self.replicas.clone(),
            room: self.room.clone(),
            disk_room: self.disk_room.clone(),
            results,
        };
        tokio::spawn(writer.run(request.into_inner()));
        let frames = futures::stream::unfold(results_rx, |mut results| async move {
            let mut frame = Vec::new();
            if results.recv_many(&mut frame, FRAME_RESULTS_MAX).await == 0 {
                return None;
            }
            Some((Ok(pb::WriteResultFrame { results: frame }), results))
        });
        Ok(Response::new(frames.boxed()))
    }

    async fn get(
        &self,
        request: Request<pb::BrokerGetRequest>,
    ) -> Result<Response<pb::BrokerGetResponse>, Status> {
        use pb::broker_get_response::Result as R;
        let request = request.into_inner();
        let result = match self.readable(request.partition_id, request.stale).await {
            Err(ReadRefusal::NotLeader(n)) => R::NotLeader(n),
            Err(ReadRefusal::Refused(r)) => R::Refused(r),
            Ok((replica, _room)) => match get(&replica, request.key).await {
                Ok(record) => R::Found(pb::Found { record }),
                Err(error) => R::Refused(refused(Reason::Storage, error.to_string())),
            },
        };
        Ok(Response::new(pb::BrokerGetResponse { result: Some(result) }))
    }

    async fn gets(
        &self,
        request: Request<Streaming<pb::GetFrame>>,
    ) -> Result<Response<Self::GetsStream>, Status> {
        Ok(Response::new(gets::serve(self.replicas.clone(), self.room.clone(), request.into_inner())))
    }

    async fn list(
        &self,
        request: Request<pb::BrokerListRequest>,
    ) -> Result<Response<pb::BrokerListResponse>, Status> {
        use pb::broker_list_response::Result as R;
        let request = request.into_inner();
        let result = match self.readable(request.partition_id, request.stale).await {
            Err(ReadRefusal::NotLeader(n)) => R::NotLeader(n),
            Err(ReadRefusal::Refused(r)) => R::Refused(r),
            Ok((replica, _room)) => match list(&replica, request).await {
                Ok((records, more)) => R::Page(pb::Page { records, more }),
                Err(error) => R::Refused(refused(Reason::Storage, error.to_string())),
            },
        };
        Ok(Response::new(pb::BrokerListResponse { result: Some(result) }))
    }

    async fn watch(
        &self,
        request: Request<pb::BrokerWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let (tx, rx) = mpsc::channel(WATCH_QUEUE_MAX);
        let watched = self.readable(request.partition_id, false).await.and_then(|(replica, _room)| {
            let tenure = replica.tenure().ok_or_else(|| ReadRefusal::NotLeader(other_leader(&replica)))?;
            Ok((replica, tenure))
        });
        match watched {
            Ok((replica, tenure)) => drop(tokio::spawn(watch_partition(replica, tenure, request, tx))),
            Err(refusal) => {
                let result = match refusal {
                    ReadRefusal::NotLeader(n) => pb::broker_watch_response::Result::NotLeader(n),
                    ReadRefusal::Refused(r) => pb::broker_watch_response::Result::Refused(r),
                };
                // The queue is empty and its receiver is held below.
                let _ = tx.try_send(Ok(pb::BrokerWatchResponse { result: Some(result) }));
            }
        }
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(rx).boxed()))
    }

    async fn watch_status(
        &self,
        request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let pb::WatchStatusRequest { probe_ms, partial } = request.into_inner();
        if probe_ms > 0 {
            // As long as before a transfer, so that both find the same.
            let patience = Duration::from_millis(probe_ms.into()).min(self.handover.limits.probe);
            let status = self.status.probed(patience).await;
            return Ok(Response::new(futures::stream::iter([Ok(status)]).boxed()));
        }
        let statuses = tokio_stream::wrappers::WatchStream::new(self.status.subscribe());
        let told = statuses.scan(None::<Arc<Published>>, move |before, status| {
            let told = match before {
                Some(before) if partial => status.since(before),
                _ => status.whole(),
            };
            *before = Some(status);
            futures::future::ready(Some(Ok(told)))
        });
        Ok(Response::new(told.boxed()))
    }

    async fn step_down(
        &self,
        request: Request<pb::StepDownRequest>,
    ) -> Result<Response<pb::StepDownResponse>, Status> {
        let request = request.into_inner();
        let Some(replica) = self.replicas.get(request.partition_id) else {
            let result = pb::step_down_response::Result::UnknownPartition as i32;
            let detail = unknown_partition(request.partition_id).detail;
            return Ok(Response::new(pb::StepDownResponse { result, detail, ..Default::default() }));
        };
        let purpose = match &request.candidates[..] {
            [] => Purpose::Rebalance,
            candidates => Purpose::Plan(candidates.iter().copied().map(NodeId).collect()),
        };
        let response = self.handover.within(&request).step_down(replica, request.term, purpose).await;
        Ok(Response::new(response))
    }

    async fn set_drained(
        &self,
        request: Request<pb::SetDrainedRequest>,
    ) -> Result<Response<pb::SetDrainedResponse>, Status> {
        let set = self.drained.set(request.into_inner().drained).await;
        set.map_err(|error| Status::internal(format!("the data folder cannot be written: {error}")))?;
        Ok(Response::new(pb::SetDrainedResponse {}))
    }

    async fn set_exporting(
        &self,
        request: Request<pb::SetExportingRequest>,
    ) -> Result<Response<pb::SetExportingResponse>, Status> {
        let pb::SetExportingRequest { paused, soft } = request.into_inner();
        let phase = match (paused, soft) {
            (false, _) => ExportingPhase::Exporting,
            (true, true) => ExportingPhase::SoftPaused,
            (true, false) => ExportingPhase::Paused,
        };
        let set = self.exporting.set(phase).await;
        set.map_err(|error| Status::internal(format!("the data folder cannot be written: {error}")))?;
        Ok(Response::new(pb::SetExportingResponse {}))
    }
}

impl BrokerService {
    /// The replica to read from, and room to do so.
    async fn readable(
        &self,
        partition: u32,
        stale: bool,
    ) -> Result<(Arc<Replica>, OwnedSemaphorePermit), ReadRefusal> {
        let room = self.room.for_reads(1).ok_or_else(|| ReadRefusal::Refused(too_many_reads()))?;
        let replica = readable(&self.replicas, partition, stale).await?;
        Ok((replica, room))
    }
}

pub fn too_many_reads() -> pb::Refused {
    refused(Reason::Overloaded, format!("{READS_MAX} reads are under way already; retry later"))
}

/// The replica to read from, once it may answer.
pub async fn readable(replicas: &Replicas, partition: u32, stale: bool) -> Result<Arc<Replica>, ReadRefusal> {
    let replica = replicas.get(partition);
    let replica = replica.ok_or_else(|| ReadRefusal::Refused(unknown_partition(partition)))?;
    if !stale {
        replica.confirm_leadership().await?;
    } else if replica.rebuilding.is_under_way() {
        // Stale is old, not empty: another replica has more.
        let detail = format!("partition {partition} is being rebuilt on this broker");
        return Err(ReadRefusal::Refused(refused(Reason::Stopped, detail)));
    }
    Ok(replica.clone())
}

/// Off the runtime: usually some microseconds, but fjall lets readers wait while it adds a table.
async fn get(replica: &Arc<Replica>, key: bytes::Bytes) -> std::io::Result<Option<v1::Record>> {
    replica.reader.off_runtime(move |reader| reader.get(&key)).await?
}

async fn list(
    replica: &Arc<Replica>,
    request: pb::BrokerListRequest,
) -> std::io::Result<(Vec<v1::Record>, bool)> {
    let limit = request.limit.clamp(1, LIST_RECORDS_MAX) as usize;
    let bytes_max = request.bytes_max.clamp(1, LIST_BYTES_MAX) as usize;
    let read =
        move |reader: &PartitionReader| reader.list(&request.prefix, &request.after_key, limit, bytes_max);
    replica.reader.off_runtime(read).await?
}

/// One gateway's write stream.
struct Writer {
    replicas: Replicas,
    room: Room,
    disk_room: DiskRoom,
    results: mpsc::Sender<pb::WriteResult>,
}

impl Writer {
    async fn run(self, mut inbound: Streaming<pb::WriteFrame>) {
        // The gateway's death or our own: what was proposed is answered to nobody, and retried by its sender.
        while let Ok(Some(frame)) = inbound.message().await {
            let mut by_partition: HashMap<u32, (Vec<u64>, Vec<Command>)> = HashMap::new();
            for write in frame.writes {
                if write.command.len() > COMMAND_BYTES_MAX {
                    self.refuse(&[write.tag], &too_large(write.command.len())).await;
                    continue;
                }
                let (tags, commands) = by_partition.entry(write.partition_id).or_default();
                tags.push(write.tag);
                commands.push(Command(write.command));
            }
            for (partition, (tags, commands)) in by_partition {
                self.propose(partition, tags, commands).await;
            }
        }
    }

    async fn propose(&self, partition: u32, mut tags: Vec<u64>, mut commands: Vec<Command>) {
        let Some(replica) = self.replicas.get(partition) else {
            return self.refuse(&tags, &unknown_partition(partition)).await;
        };
        // What the cluster remembers about itself is little, and operators need it most now.
        let least =
            if replica.partition == SYSTEM_GROUP { disk_room::Room::Low } else { disk_room::Room::Enough };
        if self.disk_room.now() < least {
            return self.refuse(&tags, &refused(Reason::DiskFull, self.disk_room.refusal())).await;
        }
        let (admitted, permits) = self.room.for_writes(&commands);
        let too_many = tags.split_off(admitted);
        commands.truncate(admitted);
        if !too_many.is_empty() {
            let detail = "more writes in flight than [limits] in_flight_writes_max allows, or their bytes; retry later";
            self.refuse(&too_many, &refused(Reason::Overloaded, detail)).await;
        }
        if tags.is_empty() {
            return;
        }
        let mut spans = LeaderSpans::begin(partition, &mut commands);
        let (replica, results) = (replica.clone(), self.results.clone());
        tokio::spawn(async move {
            let _permits = permits;
            let (answers, mut answered) = mpsc::unbounded_channel();
            let propose = replica.write(commands, |i, answer| {
                // Bounded by the number of commands.
                let _ = answers.send((i, answer));
            });
            let forward = async {
                for _ in 0..tags.len() {
                    let Some((i, answer)) = answered.recv().await else { return };
                    spans.answered(i, &answer);
                    if results.send(result(tags[i], answer)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::join!(propose, forward);
        });
    }

    async fn refuse(&self, tags: &[u64], why: &pb::Refused) {
        for tag in tags {
            if self.results.send(result(*tag, Answer::Refused(why.clone()))).await.is_err() {
                return;
            }
        }
    }
}

fn result(tag: u64, answer: Answer) -> pb::WriteResult {
    use pb::write_result::Result as R;
    let result = match answer {
        Answer::Outcome(outcome) => R::Outcome(outcome),
        Answer::NotLeader(not_leader) => R::NotLeader(not_leader),
        Answer::Refused(refused) => R::Refused(refused),
    };
    pb::WriteResult { tag, result: Some(result) }
}

/// Another broker than this one may lead, or come to lead.
fn other_leader(replica: &Replica) -> pb::NotLeader {
    let metrics = replica.raft_metrics();
    let leader = metrics.current_leader.filter(|leader| *leader != replica.me.0);
    pb::NotLeader { leader, term: metrics.current_term }
}

/// Sends a partition's changes for as long as this broker leads it and the gateway listens.
async fn watch_partition(
    replica: Arc<Replica>,
    tenure: Tenure,
    request: pb::BrokerWatchRequest,
    out: mpsc::Sender<Result<pb::BrokerWatchResponse, Status>>,
) {
    let last = tokio::select! {
        biased;
        () = tenure.ended() => {
            Some(pb::broker_watch_response::Result::NotLeader(other_leader(&replica)))
        }
        last = send_changes(&replica, request, &out) => last,
    };
    if let Some(result) = last {
        let _ = out.send(Ok(pb::BrokerWatchResponse { result: Some(result) })).await;
    }
}

/// Returns what is left to be told when there is nothing more to send.
async fn send_changes(
    replica: &Replica,
    request: pb::BrokerWatchRequest,
    out: &mpsc::Sender<Result<pb::BrokerWatchResponse, Status>>,
) -> Option<pb::broker_watch_response::Result> {
    use pb::broker_watch_response::Result as R;
    let mut applied = replica.reader.applied();
    let mut after = request.after_position.unwrap_or_else(|| *applied.borrow());
    // The first message tells where the watch begins, also when nothing has changed yet.
    let mut tell_position = true;
    loop {
        applied.borrow_and_update();
        let prefix = request.prefix.clone();
        let read = move |reader: &PartitionReader| {
            reader.changes(Position(after), &prefix, WATCH_EVENTS_MAX, WATCH_BYTES_MAX)
        };
        let changes = match replica.reader.off_runtime(read).await.ok()? {
            Ok(changes) => changes,
            Err(ChangesError::OutOfRange { first_available }) => {
                return Some(R::OutOfRange(pb::OutOfRange { first_available_position: first_available.0 }));
            }
            Err(ChangesError::Io(error)) => {
                return Some(R::Refused(refused(Reason::Storage, error.to_string())));
            }
        };
        let moved = changes.up_to.0 > after;
        after = changes.up_to.0.max(after);
        if !changes.events.is_empty() || tell_position {
            tell_position = false;
            let changes = v1::WatchResponse {
                partition_id: replica.partition.0,
                events: changes.events,
                position: after,
            };
            out.send(Ok(pb::BrokerWatchResponse { result: Some(R::Changes(changes)) })).await.ok()?;
        }
        if moved {
            continue;
        }
        tokio::select! {
            changed = applied.changed() => changed.ok()?,
            () = tokio::time::sleep(Duration::from_millis(WATCH_IDLE_MS)) => tell_position = true,
            () = out.closed() => return None,
        }
    }
}
