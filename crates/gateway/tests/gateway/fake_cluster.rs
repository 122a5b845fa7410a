//! Brokers in this process that keep real records and request ids in memory, and misbehave on demand.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::broker_server::{Broker, BrokerServer};
use evenkeel_protocol::internal::v1::{self as pb, outcome, refused, step_down_response, write_result};
use evenkeel_protocol::v1::{self, batch_operation, precondition, watch_event};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

pub const BROKERS: u64 = 3;

/// What a broker does with the next writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Proper,
    /// Takes writes and says nothing.
    Silent,
    /// Applies writes, then breaks its streams without an answer.
    ApplyAndBreak,
    /// Applies writes, but says that it cannot tell.
    ApplyAndDoubt,
    /// Names another broker as leader.
    PointAt(u64),
    Overloaded,
    /// Accepts connections and fails every call.
    Dead,
}

#[derive(Default)]
struct Partition {
    leader: Option<u64>,
    term: u64,
    priorities: Vec<(u64, u32)>,
    records: BTreeMap<Bytes, v1::Record>,
    events: Vec<v1::WatchEvent>,
    first_available: u64,
    position: u64,
    sessions: HashMap<u64, (u64, outcome::Outcome)>,
    /// Told instead of the real count.
    records_told: Option<u64>,
    refuses_step_down: Option<step_down_response::Result>,
}

struct Node {
    manner: Manner,
    drained: bool,
    exporting_paused: bool,
    status: watch::Sender<pb::BrokerStatus>,
    /// Cancelled to break every stream that is open now.
    streams: CancellationToken,
}

struct State {
    /// By id: the first is the system group.
    partitions: Vec<Partition>,
    nodes: Vec<Node>,
    priority_election: bool,
    cluster_size: u32,
    /// Every write received: broker, request id.
    received: Vec<(u64, v1::RequestId)>,
    /// Gets that each broker answered.
    gets: [u64; BROKERS as usize],
    knows_get_streams: bool,
    step_downs: Vec<(u64, u32)>,
    step_down_hold: Option<CancellationToken>,
}

#[derive(Clone)]
pub struct FakeCluster {
    state: Arc<Mutex<State>>,
    applied: watch::Sender<u64>,
    pub contacts: Vec<String>,
}

impl FakeCluster {
    /// Three brokers with replicas of every partition; broker (p − 1) mod 3 is p's primary and leads it. The system
    /// group is led by the first broker that lives, while most do.
    pub async fn start(partitions: u32) -> Self {
        let new_partition = |p: u32| Partition {
            leader: Some(u64::from(p.saturating_sub(1)) % BROKERS),
            term: 1,
            priorities: (0..BROKERS)
                .map(|j| ((u64::from(p.saturating_sub(1)) + j) % BROKERS, (BROKERS - j) as u32))
                .collect(),
            first_available: 1,
            ..Partition::default()
        };
        let nodes = (0..BROKERS).map(|_| Node {
            manner: Manner::Proper,
            drained: false,
            exporting_paused: false,
            status: watch::Sender::new(pb::BrokerStatus::default()),
            streams: CancellationToken::new(),
        });
        let state = State {
            partitions: (0..=partitions).map(new_partition).collect(),
            nodes: nodes.collect(),
            priority_election: true,
            cluster_size: BROKERS as u32,
            received: Vec::new(),
            gets: [0; BROKERS as usize],
            knows_get_streams: true,
            step_downs: Vec::new(),
            step_down_hold: None,
        };
        let mut cluster =
            Self { state: Arc::new(Mutex::new(state)), applied: watch::Sender::new(0), contacts: Vec::new() };
        cluster.publish();
        for node in 0..BROKERS {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.contacts.push(format!("{node}={}", listener.local_addr().unwrap()));
            let broker = BrokerServer::new(FakeBroker { node, cluster: cluster.clone() })
                .max_decoding_message_size(64 << 20)
                .max_encoding_message_size(64 << 20);
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(broker)
                    .serve_with_incoming(TcpIncoming::from(listener)),
            );
        }
        cluster
    }

    pub fn set_manner(&self, node: u64, manner: Manner) {
        self.state.lock().nodes[node as usize].manner = manner;
    }

    pub fn set_priority_election(&self, on: bool) {
        self.state.lock().priority_election = on;
        self.publish();
    }

    pub fn set_leader(&self, partition: u32, leader: Option<u64>) {
        {
            let mut state = self.state.lock();
            let partition = &mut state.partitions[partition as usize];
            partition.leader = leader;
            partition.term += u64::from(leader.is_some());
        }
        self.publish();
        // Wakes watches, so that they notice.
        self.applied.send_modify(|_| ());
    }

    pub fn leader(&self, partition: u32) -> Option<u64> {
        self.state.lock().partitions[partition as usize].leader
    }

    /// Fails every call to `node` from now on; whatever it led has no leader.
    pub fn is_drained(&self, node: usize) -> bool {
        self.state.lock().nodes[node].drained
    }

    /// As a broker with a new data folder.
    pub fn is_exporting_paused(&self, node: usize) -> bool {
        self.state.lock().nodes[node].exporting_paused
    }

    pub fn forget_drained(&self, node: usize) {
        self.state.lock().nodes[node].drained = false;
        self.publish();
    }

    pub fn kill(&self, node: u64) {
        self.set_manner(node, Manner::Dead);
        {
            let mut state = self.state.lock();
            for partition in &mut state.partitions {
                partition.leader = partition.leader.filter(|leader| *leader != node);
            }
            let mut alive = (0..BROKERS).filter(|node| state.nodes[*node as usize].manner != Manner::Dead);
            let (first, second) = (alive.next(), alive.next());
            if state.partitions[0].leader.is_none() {
                state.partitions[0].leader = second.and(first);
                state.partitions[0].term += 1;
            }
        }
        self.publish();
        self.break_streams(node);
    }

    /// Tells so many records of a partition, whatever was written.
    pub fn tell_records(&self, partition: u32, records: u64) {
        self.state.lock().partitions[partition as usize].records_told = Some(records);
        self.publish();
    }

    /// Writes a record of the system group, as another gateway would.
    pub fn put_system(&self, key: &'static str, value: &'static str) {
        let put = v1::BatchPut { key: key.into(), value: value.into(), precondition: None };
        let operation = v1::BatchOperation { operation: Some(batch_operation::Operation::Put(put)) };
        apply(&mut self.state.lock().partitions[0], 0, &[operation]);
    }

    /// Why the partition's leader refuses to hand over, if it does.
    pub fn refuse_step_downs(&self, partition: u32, why: Option<step_down_response::Result>) {
        self.state.lock().partitions[partition as usize].refuses_step_down = why;
    }

    /// What the brokers tell of the cluster's size.
    pub fn tell_cluster_size(&self, size: u32) {
        self.state.lock().cluster_size = size;
        self.publish();
    }

    fn check_alive(&self, node: u64) -> Result<(), Status> {
        if self.state.lock().nodes[node as usize].manner == Manner::Dead {
            return Err(Status::unavailable("broker is dead"));
        }
        Ok(())
    }

    /// Breaks every open stream of `node`, as a crash of its connection would.
    pub fn break_streams(&self, node: u64) {
        let broken = std::mem::take(&mut self.state.lock().nodes[node as usize].streams);
        broken.cancel();
    }

    pub fn received(&self) -> Vec<(u64, v1::RequestId)> {
        self.state.lock().received.clone()
    }

    /// By broker.
    pub fn gets(&self) -> [u64; BROKERS as usize] {
        self.state.lock().gets
    }

    /// Makes the brokers such as know no streams of gets.
    pub fn forget_get_streams(&self) {
        self.state.lock().knows_get_streams = false;
        (0..BROKERS).for_each(|node| self.break_streams(node));
    }

    pub fn step_downs(&self) -> Vec<(u64, u32)> {
        self.state.lock().step_downs.clone()
    }

    /// Step-downs wait until the returned token is cancelled.
    pub fn hold_step_downs(&self) -> CancellationToken {
        let hold = CancellationToken::new();
        self.state.lock().step_down_hold = Some(hold.clone());
        hold
    }

    /// Forgets changes up to and including `position`.
    pub fn compact(&self, partition: u32, position: u64) {
        self.state.lock().partitions[partition as usize].first_available = position + 1;
    }

    pub fn position(&self, partition: u32) -> u64 {
        self.state.lock().partitions[partition as usize].position
    }

    /// Versions that `key` has had.
    pub fn version(&self, partition: u32, key: &[u8]) -> Option<u64> {
        self.state.lock().partitions[partition as usize].records.get(key).map(|record| record.version)
    }

    fn publish(&self) {
        let state = self.state.lock();
        for (node, entry) in (0..BROKERS).zip(&state.nodes) {
            let replicas = (0..).zip(&state.partitions).map(|(partition_id, partition)| pb::ReplicaStatus {
                partition_id,
                role: if partition.leader == Some(node) { v1::Role::Leader } else { v1::Role::Follower }
                    .into(),
                health: v1::Health::Healthy.into(),
                priority: partition.priorities.iter().find(|(id, _)| *id == node).map_or(0, |(_, p)| *p),
                term: partition.term,
                leader: partition.leader,
                replicas: partition
                    .priorities
                    .iter()
                    .map(|&(node_id, priority)| pb::ReplicaPriority { node_id, priority })
                    .collect(),
                followers: if partition.leader == Some(node) { followers(node) } else { Vec::new() },
                records: partition.records_told.unwrap_or(partition.records.len() as u64),
                ..pb::ReplicaStatus::default()
            });
            entry.status.send_replace(pb::BrokerStatus {
                node_id: node,
                cluster_id: "fake".into(),
                host: "127.0.0.1".into(),
                port: 26501,
                version: "0.0.0".into(),
                partitions_count: state.partitions.len() as u32 - 1,
                replication_factor: BROKERS as u32,
                cluster_size: state.cluster_size,
                broker_uuid: format!("uuid-{node}"),
                priority_election: state.priority_election,
                replicas: replicas.collect(),
                drained: entry.drained,
                ..pb::BrokerStatus::default()
            });
        }
    }

    fn streams(&self, node: u64) -> CancellationToken {
        self.state.lock().nodes[node as usize].streams.clone()
    }

    fn not_leader(&self, node: u64, partition: u32) -> Option<pb::NotLeader> {
        let state = self.state.lock();
        let partition = &state.partitions[partition as usize];
        (partition.leader != Some(node))
            .then_some(pb::NotLeader { leader: partition.leader, term: partition.term })
    }

    fn get(&self, node: u64, request: &pb::BrokerGetRequest) -> pb::BrokerGetResponse {
        let elsewhere = self.not_leader(node, request.partition_id).filter(|_| !request.stale);
        let result = match elsewhere {
            Some(not_leader) => pb::broker_get_response::Result::NotLeader(not_leader),
            None => {
                let mut state = self.state.lock();
                // The gateway itself reads what the system group holds.
                state.gets[node as usize] += u64::from(request.partition_id > 0);
                let record = state.partitions[request.partition_id as usize].records.get(&request.key);
                pb::broker_get_response::Result::Found(pb::Found { record: record.cloned() })
            }
        };
        pb::BrokerGetResponse { result: Some(result) }
    }

    /// `None`: no answer.
    fn write(&self, node: u64, write: &pb::Write) -> Option<write_result::Result> {
        let command = pb::Command::decode(write.command.clone()).unwrap();
        let id = command.request_id.unwrap();
        let manner = {
            let mut state = self.state.lock();
            state.received.push((node, id));
            state.nodes[node as usize].manner
        };
        let refused = |reason: refused::Reason| {
            Some(write_result::Result::Refused(pb::Refused { reason: reason.into(), detail: String::new() }))
        };
        match manner {
            Manner::Silent | Manner::Dead => return None,
            Manner::Overloaded => return refused(refused::Reason::Overloaded),
            Manner::PointAt(leader) => {
                let hint = pb::NotLeader { leader: Some(leader), term: 99 };
                return Some(write_result::Result::NotLeader(hint));
            }
            Manner::Proper | Manner::ApplyAndBreak | Manner::ApplyAndDoubt => {}
        }
        if let Some(not_leader) = self.not_leader(node, write.partition_id) {
            return Some(write_result::Result::NotLeader(not_leader));
        }
        let outcome = {
            let mut state = self.state.lock();
            let partition = &mut state.partitions[write.partition_id as usize];
            match partition.sessions.get(&id.client_id) {
                Some((sequence, outcome)) if *sequence == id.sequence => outcome.clone(),
                Some((sequence, _)) if *sequence > id.sequence => {
                    outcome::Outcome::Superseded(outcome::Superseded { last_sequence: *sequence })
                }
                _ => {
                    let outcome = apply(partition, write.partition_id, &command.operations);
                    partition.sessions.insert(id.client_id, (id.sequence, outcome.clone()));
                    outcome
                }
            }
        };
        self.applied.send_modify(|count| *count += 1);
        match manner {
            Manner::ApplyAndBreak => {
                self.break_streams(node);
                None
            }
            Manner::ApplyAndDoubt => refused(refused::Reason::UnknownOutcome),
            _ => Some(write_result::Result::Outcome(pb::Outcome { outcome: Some(outcome) })),
        }
    }
}

/// Nobody lags.
fn followers(leader: u64) -> Vec<pb::FollowerLag> {
    let others = (0..BROKERS).filter(|node| *node != leader);
    others
        .map(|node_id| pb::FollowerLag {
            node_id,
            entries: Some(0),
            bytes: Some(0),
            unreachable: false,
            silent: false,
        })
        .collect()
}

fn apply(partition: &mut Partition, id: u32, operations: &[v1::BatchOperation]) -> outcome::Outcome {
    for (operation, index) in operations.iter().zip(0..) {
        let (key, condition) = match operation.operation.as_ref().unwrap() {
            batch_operation::Operation::Put(put) => (&put.key, put.precondition.as_ref()),
            batch_operation::Operation::Delete(delete) => (&delete.key, delete.precondition.as_ref()),
        };
        let version = partition.records.get(key).map_or(0, |record| record.version);
        let holds = match condition.and_then(|given| given.condition.as_ref()) {
            None => true,
            Some(precondition::Condition::MustNotExist(_)) => version == 0,
            Some(precondition::Condition::VersionEquals(wanted)) => version == *wanted,
        };
        if !holds {
            return outcome::Outcome::PreconditionFailed(outcome::PreconditionFailed {
                operation: index,
                current_version: version,
            });
        }
    }
    partition.position += 1;
    let position = partition.position;
    let mut results = Vec::new();
    for operation in operations {
        match operation.operation.clone().unwrap() {
            batch_operation::Operation::Put(put) => {
                let existing = partition.records.get(&put.key).map_or(0, |record| record.version);
                let record = v1::Record {
                    key: put.key.clone(),
                    value: put.value,
                    version: existing + 1,
                    position,
                    partition_id: id,
                };
                results.push(v1::BatchResult { version: existing + 1, existed: existing > 0 });
                let kind = watch_event::Kind::Put.into();
                partition.events.push(v1::WatchEvent { kind, record: Some(record.clone()) });
                partition.records.insert(put.key, record);
            }
            batch_operation::Operation::Delete(delete) => {
                let removed = partition.records.remove(&delete.key);
                results.push(v1::BatchResult { version: 0, existed: removed.is_some() });
                if let Some(removed) = removed {
                    let record = v1::Record { value: Bytes::new(), position, ..removed };
                    let kind = watch_event::Kind::Delete.into();
                    partition.events.push(v1::WatchEvent { kind, record: Some(record) });
                }
            }
        }
    }
    outcome::Outcome::Applied(outcome::Applied { position, results })
}

struct FakeBroker {
    node: u64,
    cluster: FakeCluster,
}

type ServerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `stream` until the broker's streams break.
fn breakable<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    broken: CancellationToken,
) -> ServerStream<T> {
    let failure = futures::stream::once(async { Err(Status::unavailable("connection broke")) });
    Box::pin(stream.take_until(broken.cancelled_owned()).chain(failure))
}

#[tonic::async_trait]
impl Broker for FakeBroker {
    type WriteStream = ServerStream<pb::WriteResultFrame>;
    type GetsStream = ServerStream<pb::GetResponseFrame>;
    type WatchStream = ServerStream<pb::BrokerWatchResponse>;
    type WatchStatusStream = ServerStream<pb::BrokerStatus>;

    async fn write(
        &self,
        request: Request<Streaming<pb::WriteFrame>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        self.cluster.check_alive(self.node)?;
        let (node, cluster) = (self.node, self.cluster.clone());
        let results = request.into_inner().filter_map(move |frame| {
            let answers: Vec<pb::WriteResult> = frame
                .map(|frame| frame.writes)
                .unwrap_or_default()
                .iter()
                .filter_map(|write| {
                    let result = cluster.write(node, write)?;
                    Some(pb::WriteResult { tag: write.tag, result: Some(result) })
                })
                .collect();
            async move { (!answers.is_empty()).then_some(Ok(pb::WriteResultFrame { results: answers })) }
        });
        Ok(Response::new(breakable(results, self.cluster.streams(self.node))))
    }

    async fn get(
        &self,
        request: Request<pb::BrokerGetRequest>,
    ) -> Result<Response<pb::BrokerGetResponse>, Status> {
        self.cluster.check_alive(self.node)?;
        Ok(Response::new(self.cluster.get(self.node, &request.into_inner())))
    }

    async fn gets(
        &self,
        request: Request<Streaming<pb::GetFrame>>,
    ) -> Result<Response<Self::GetsStream>, Status> {
        self.cluster.check_alive(self.node)?;
        if !self.cluster.state.lock().knows_get_streams {
            return Err(Status::unimplemented("Gets"));
        }
        let (node, cluster) = (self.node, self.cluster.clone());
        let responses = request.into_inner().map(move |frame| {
            let answer = |asked: pb::TaggedGet| pb::TaggedGetResponse {
                tag: asked.tag,
                response: Some(cluster.get(node, &asked.get.unwrap_or_default())),
            };
            Ok(pb::GetResponseFrame { responses: frame?.gets.into_iter().map(answer).collect() })
        });
        Ok(Response::new(breakable(responses, self.cluster.streams(self.node))))
    }

    async fn list(
        &self,
        request: Request<pb::BrokerListRequest>,
    ) -> Result<Response<pb::BrokerListResponse>, Status> {
        self.cluster.check_alive(self.node)?;
        let request = request.into_inner();
        if let Some(not_leader) = self.cluster.not_leader(self.node, request.partition_id) {
            let result = Some(pb::broker_list_response::Result::NotLeader(not_leader));
            return Ok(Response::new(pb::BrokerListResponse { result }));
        }
        let state = self.cluster.state.lock();
        let records = &state.partitions[request.partition_id as usize].records;
        let mut rest = records
            .range::<Bytes, _>((Bound::Excluded(&request.after_key), Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(&request.prefix))
            .map(|(_, record)| record.clone());
        let page: Vec<v1::Record> = rest.by_ref().take(request.limit as usize).collect();
        let page = pb::Page { records: page, more: rest.next().is_some() };
        let result = Some(pb::broker_list_response::Result::Page(page));
        Ok(Response::new(pb::BrokerListResponse { result }))
    }

    async fn watch(
        &self,
        request: Request<pb::BrokerWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.cluster.check_alive(self.node)?;
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let (node, cluster) = (self.node, self.cluster.clone());
        tokio::spawn(async move {
            let mut applied = cluster.applied.subscribe();
            let mut after = request.after_position;
            let mut first = true;
            loop {
                applied.borrow_and_update();
                let result = {
                    let not_leader = cluster.not_leader(node, request.partition_id);
                    let state = cluster.state.lock();
                    let partition = &state.partitions[request.partition_id as usize];
                    let from = after.unwrap_or(partition.position);
                    if let Some(not_leader) = not_leader {
                        pb::broker_watch_response::Result::NotLeader(not_leader)
                    } else if from + 1 < partition.first_available {
                        pb::broker_watch_response::Result::OutOfRange(pb::OutOfRange {
                            first_available_position: partition.first_available,
                        })
                    } else {
                        let fresh = partition.events.iter().filter(|event| {
                            let record = event.record.as_ref().unwrap();
                            record.position > from && record.key.starts_with(&request.prefix)
                        });
                        after = Some(partition.position);
                        pb::broker_watch_response::Result::Changes(v1::WatchResponse {
                            partition_id: request.partition_id,
                            events: fresh.cloned().collect(),
                            position: partition.position,
                        })
                    }
                };
                let (nothing, last) = match &result {
                    pb::broker_watch_response::Result::Changes(changes) => (changes.events.is_empty(), false),
                    _ => (false, true),
                };
                if !nothing || first {
                    first = false;
                    let message = pb::BrokerWatchResponse { result: Some(result) };
                    if sender.send(Ok(message)).await.is_err() || last {
                        return;
                    }
                }
                if applied.changed().await.is_err() {
                    return;
                }
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        Ok(Response::new(breakable(stream, self.cluster.streams(self.node))))
    }

    async fn watch_status(
        &self,
        _request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        self.cluster.check_alive(self.node)?;
        let status = self.cluster.state.lock().nodes[self.node as usize].status.subscribe();
        let stream = futures::stream::unfold((status, true), |(mut status, first)| async move {
            if !first {
                // At least once a second, as a real broker does.
                let _ = tokio::time::timeout(Duration::from_secs(1), status.changed()).await;
            }
            let now = status.borrow_and_update().clone();
            Some((Ok(now), (status, false)))
        });
        Ok(Response::new(breakable(stream, self.cluster.streams(self.node))))
    }

    async fn set_drained(
        &self,
        request: Request<pb::SetDrainedRequest>,
    ) -> Result<Response<pb::SetDrainedResponse>, Status> {
        let drained = request.into_inner().drained;
        self.cluster.state.lock().nodes[self.node as usize].drained = drained;
        self.cluster.publish();
        Ok(Response::new(pb::SetDrainedResponse {}))
    }

    async fn set_exporting(
        &self,
        request: Request<pb::SetExportingRequest>,
    ) -> Result<Response<pb::SetExportingResponse>, Status> {
        self.cluster.check_alive(self.node)?;
        let paused = request.into_inner().paused;
        self.cluster.state.lock().nodes[self.node as usize].exporting_paused = paused;
        Ok(Response::new(pb::SetExportingResponse {}))
    }

    async fn step_down(
        &self,
        request: Request<pb::StepDownRequest>,
    ) -> Result<Response<pb::StepDownResponse>, Status> {
        self.cluster.check_alive(self.node)?;
        let pb::StepDownRequest { partition_id: id, candidates, .. } = request.into_inner();
        let hold = {
            let mut state = self.cluster.state.lock();
            state.step_downs.push((self.node, id));
            state.step_down_hold.clone()
        };
        if let Some(hold) = hold {
            hold.cancelled().await;
        }
        // As a real leader: to the first candidate that lives, or the best replica above itself.
        let best = {
            let state = self.cluster.state.lock();
            let alive = |node: u64| state.nodes[node as usize].manner != Manner::Dead;
            let replicas = &state.partitions[id as usize].priorities;
            let best = replicas.iter().filter(|(node, _)| alive(*node)).max_by_key(|(_, priority)| *priority);
            let named = candidates.iter().copied().find(|node| alive(*node));
            if candidates.is_empty() { best.map(|(node, _)| *node) } else { named }
        };
        let refuses = self.cluster.state.lock().partitions[id as usize].refuses_step_down;
        let result = if self.cluster.not_leader(self.node, id).is_some() {
            step_down_response::Result::NotLeader
        } else if let Some(why) = refuses {
            why
        } else if best == Some(self.node) {
            step_down_response::Result::AlreadyLeader
        } else {
            self.cluster.set_leader(id, best);
            step_down_response::Result::Transferred
        };
        Ok(Response::new(pb::StepDownResponse {
            result: result.into(),
            from: Some(self.node),
            to: best,
            primary: None,
            term: 0,
            frozen_us: 1_500,
            detail: String::new(),
            phases: Some(pb::TransferPhases {
                probe_us: 300,
                catch_up_us: 0,
                freeze_us: 600,
                election_us: 900,
            }),
        }))
    }
}
