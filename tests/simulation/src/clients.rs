//! Those who use the cluster through a gateway: clients that read and write, watchers, and an operator.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_gateway::InProcess;
use evenkeel_history::{Answer, Change, Condition, Delivery, OperationId, Request, Stored};
use evenkeel_protocol::internal::v1::StepDownRequest;
use evenkeel_protocol::internal::v1::broker_client::BrokerClient;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::v1::records_server::Records;
use evenkeel_protocol::v1::{
    DeleteRequest, GetRequest, PartitionPosition, Precondition, PutRequest, RequestId, WatchRequest,
    precondition, watch_event::Kind,
};
use evenkeel_protocol::{Dialer, partition_of};
use futures::StreamExt;
use tonic::Status;
use tonic::transport::Endpoint;
use tonic_types::StatusExt;
use tower::ServiceExt;

use crate::chance::Chance;
use crate::machine;
use crate::witness::Shared;

/// A write whose outcome is unknown is sent again so often, with the same request id.
const RETRIES_MAX: usize = 4;

pub fn key(number: usize) -> String {
    format!("key-{number}")
}

/// What came of a request.
enum Outcome {
    Answer(Answer),
    /// It may have had an effect, or will have.
    Unknown,
    /// It had no effect.
    NotDone,
}

pub struct Client {
    pub gateway: Arc<InProcess>,
    pub shared: Shared,
    pub chance: Chance,
    pub number: u64,
    pub keys: usize,
    pub partitions: u32,
}

impl Client {
    /// One request after the other until there is to be quiet.
    pub async fn run(mut self) {
        let mut id = RequestId { client_id: self.chance.number(), sequence: 0 };
        let mut version = 1;
        while !self.shared.lock().quiet {
            tokio::time::sleep(self.chance.millis(2, 120)).await;
            let key = key(self.chance.index(self.keys));
            id.sequence += 1;
            let request = self.request(id, version);
            let outcome = self.carry_out(&key, &request, id).await;
            match outcome {
                Outcome::Answer(Answer::Put { version: put, .. }) => version = put,
                Outcome::Answer(Answer::Read(Some(stored))) => version = stored.version,
                // The request may still come to be applied: the contract wants another client id then.
                Outcome::Unknown => id = RequestId { client_id: self.chance.number(), sequence: 0 },
                _ => {}
            }
        }
    }

    fn request(&mut self, id: RequestId, version: u64) -> Request {
        let value = format!("{:x}.{}", id.client_id >> 40, id.sequence).into_bytes();
        match self.chance.between(0, 100) {
            0..35 => Request::Get,
            35..75 => Request::Put { value, condition: None },
            75..80 => Request::Put { value, condition: Some(Condition::MustNotExist) },
            80..90 => Request::Put { value, condition: Some(Condition::VersionEquals(version)) },
            90..95 => Request::Delete { condition: Some(Condition::VersionEquals(version)) },
            _ => Request::Delete { condition: None },
        }
    }

    async fn carry_out(&mut self, key: &str, request: &Request, id: RequestId) -> Outcome {
        let partition = partition_of(key.as_bytes(), self.partitions).0;
        let operation = self.shared.lock().call(self.number, key, request.clone());
        let mut in_doubt = false;
        for _ in 0..=RETRIES_MAX {
            let outcome = self.ask(key, request, id).await;
            match outcome {
                Outcome::Answer(answer) => {
                    self.shared.lock().answer(operation, partition, answer.clone());
                    self.ask_again(key, request, id, &answer).await;
                    return Outcome::Answer(answer);
                }
                Outcome::NotDone if !in_doubt => {
                    self.shared.lock().answer(operation, partition, Answer::NotDone);
                    return Outcome::NotDone;
                }
                Outcome::NotDone | Outcome::Unknown => in_doubt = true,
            }
        }
        self.leave_open(operation);
        Outcome::Unknown
    }

    fn leave_open(&self, operation: OperationId) {
        let mut shared = self.shared.lock();
        shared.count("operations of unknown outcome");
        shared.note(&format!("client {}: operation {} stays open", self.number, operation.index()));
    }

    /// A request id that was answered gives the same answer again, and has no second effect.
    async fn ask_again(&mut self, key: &str, request: &Request, id: RequestId, answer: &Answer) {
        if *request == Request::Get || !self.chance.percent(5) {
            return;
        }
        if let Outcome::Answer(again) = self.ask(key, request, id).await {
            let mut shared = self.shared.lock();
            shared.count("answered requests repeated");
            if again != *answer {
                shared.fail(format!(
                    "client {}: {key}: first answered {answer:?}, then {again:?}",
                    self.number
                ));
            }
        }
    }

    async fn ask(&self, key: &str, request: &Request, id: RequestId) -> Outcome {
        let records = self.gateway.records();
        let key = bytes::Bytes::copy_from_slice(key.as_bytes());
        let request_id = Some(id);
        let answered = match request.clone() {
            Request::Get => {
                let asked = records.get(tonic::Request::new(GetRequest { key, consistency: 0 })).await;
                asked.map(|answer| {
                    Answer::Read(answer.into_inner().record.map(|record| Stored {
                        value: record.value.to_vec(),
                        version: record.version,
                        position: record.position,
                    }))
                })
            }
            Request::Put { value, condition } => {
                let precondition = condition.map(precondition);
                let put = PutRequest { key, value: value.into(), precondition, request_id };
                let asked = records.put(tonic::Request::new(put)).await.map(tonic::Response::into_inner);
                asked.map(|put| Answer::Put { version: put.version, position: put.position })
            }
            Request::Delete { condition } => {
                let precondition = condition.map(precondition);
                let delete = DeleteRequest { key, precondition, request_id };
                let asked =
                    records.delete(tonic::Request::new(delete)).await.map(tonic::Response::into_inner);
                asked.map(|deleted| Answer::Deleted { existed: deleted.existed, position: deleted.position })
            }
        };
        answered.map_or_else(|status| self.refused(request, &status), Outcome::Answer)
    }

    fn refused(&self, request: &Request, status: &Status) -> Outcome {
        let info = status.get_details_error_info();
        match info.as_ref().map_or("", |info| info.reason.as_str()) {
            "PRECONDITION_FAILED" => {
                let version = info.as_ref().and_then(|info| info.metadata.get("current_version"));
                let current_version = version.and_then(|version| version.parse().ok());
                Outcome::Answer(Answer::ConditionFailed { current_version })
            }
            "OUTCOME_UNKNOWN" => Outcome::Unknown,
            "NO_LEADER"
            | "NO_TOPOLOGY"
            | "PARKED_FULL"
            | "TOO_MANY_IN_FLIGHT"
            | "BYTES_IN_FLIGHT_FULL"
            | "DISK_FULL"
            | "STOPPING" => Outcome::NotDone,
            _ if *request == Request::Get => Outcome::NotDone,
            _ => {
                self.shared
                    .lock()
                    .fail(format!("client {}: refused for no good reason: {status}", self.number));
                Outcome::Unknown
            }
        }
    }
}

fn precondition(condition: Condition) -> Precondition {
    let condition = match condition {
        Condition::MustNotExist => precondition::Condition::MustNotExist(true),
        Condition::VersionEquals(version) => precondition::Condition::VersionEquals(version),
    };
    Precondition { condition: Some(condition) }
}

/// Reads every key until it is told: whatever was acknowledged must still be there.
pub async fn read_back(mut client: Client) {
    for number in 0..client.keys {
        let key = key(number);
        let id = RequestId::default();
        while !matches!(client.carry_out(&key, &Request::Get, id).await, Outcome::Answer(_)) {
            tokio::time::sleep(client.chance.millis(10, 50)).await;
        }
        client.shared.lock().read_back += 1;
    }
}

/// Watches one partition from its beginning, resumes where it was, and begins anew where that is no longer kept.
pub async fn watch(gateway: Arc<InProcess>, shared: Shared, partition: u32) {
    let mut watcher = u64::from(partition);
    shared.lock().watch_begun(watcher, partition, 0);
    loop {
        let position = shared.lock().watch_position(watcher, partition).unwrap_or(0);
        let after = vec![PartitionPosition { partition_id: partition, position }];
        let request = WatchRequest { partition_ids: vec![partition], after, ..Default::default() };
        let opened = gateway.records().watch(tonic::Request::new(request)).await;
        let ended = match opened {
            Err(status) => Some(status),
            Ok(opened) => {
                let mut deliveries = Box::pin(opened.into_inner());
                loop {
                    match deliveries.next().await {
                        Some(Ok(message)) => {
                            let changes = message.events.iter().filter_map(change).collect();
                            let delivery = Delivery { changes, position: message.position };
                            shared.lock().delivered(watcher, partition, delivery);
                        }
                        Some(Err(status)) => break Some(status),
                        None => break None,
                    }
                }
            }
        };
        if let Some(first) = ended.as_ref().and_then(first_available) {
            watcher += 100;
            let mut shared = shared.lock();
            shared.count("watches begun anew");
            shared.watch_begun(watcher, partition, first - 1);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn change(event: &evenkeel_protocol::v1::WatchEvent) -> Option<Change> {
    let record = event.record.as_ref()?;
    let value = (event.kind() == Kind::Put).then(|| record.value.to_vec());
    Some(Change { position: record.position, key: record.key.to_vec(), value })
}

fn first_available(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info()?;
    info.metadata.get("first_available_position")?.parse().ok()
}

/// Rebalances, drains and asks for transfers, now and then.
pub struct Operator {
    pub gateway: Arc<InProcess>,
    pub shared: Shared,
    pub chance: Chance,
    pub brokers: usize,
    pub partitions: u32,
    pub dialer: Dialer,
}

impl Operator {
    pub async fn run(mut self) {
        let mut drained = None;
        loop {
            tokio::time::sleep(self.chance.millis(300, 2_500)).await;
            if self.shared.lock().quiet {
                // Whoever is drained would not lead: that is for another run to show.
                if let Some(node) = drained.take() {
                    self.http("DELETE", &format!("/cluster/v2/brokers/{node}/drain"), false).await;
                }
                return;
            }
            match self.chance.between(0, 10) {
                0..2 => self.http("POST", "/actuator/rebalance", true).await,
                2 => {
                    let node = self.chance.index(self.brokers);
                    if let Some(before) = drained.replace(node) {
                        self.http("DELETE", &format!("/cluster/v2/brokers/{before}/drain"), false).await;
                    }
                    self.http("PUT", &format!("/cluster/v2/brokers/{node}/drain"), false).await;
                }
                3 => {
                    if let Some(node) = drained.take() {
                        self.http("DELETE", &format!("/cluster/v2/brokers/{node}/drain"), false).await;
                    }
                }
                _ => self.transfer().await,
            }
        }
    }

    async fn http(&self, method: &str, path: &str, monitoring: bool) {
        let routes = if monitoring { self.gateway.monitoring() } else { self.gateway.api() };
        let request = http::Request::builder().method(method).uri(path).body(axum::body::Body::empty());
        let Ok(request) = request else { return };
        let Ok(response) = routes.oneshot(request).await;
        self.shared.lock().count(match (method, monitoring) {
            (_, true) => "rebalances",
            ("PUT", _) => "drains",
            _ => "drains ended",
        });
        self.shared.lock().note(&format!("operator: {method} {path}: {}", response.status()));
    }

    /// Asks whoever leads a partition to hand it to a broker chosen at random.
    async fn transfer(&mut self) {
        let partition = 1 + self.chance.index(self.partitions as usize) as u32;
        let target = self.chance.index(self.brokers) as u64;
        let leader = {
            let shared = self.shared.lock();
            let replicas = shared.replicas();
            replicas
                .iter()
                .find(|(_, seen)| seen.partition.0 == partition && seen.leads.is_some())
                .map(|(n, _)| *n)
        };
        let Some(leader) = leader.filter(|leader| *leader as u64 != target) else { return };
        let Ok(endpoint) =
            Endpoint::from_shared(format!("http://{}:{}", machine::name(leader), machine::PORT))
        else {
            return;
        };
        let endpoint = endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(8));
        let mut client = BrokerClient::new(self.dialer.channel(endpoint));
        let ask = StepDownRequest { partition_id: partition, candidates: vec![target], ..Default::default() };
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(9), client.step_down(ask)).await else {
            return;
        };
        let answer = answer.into_inner();
        let mut shared = self.shared.lock();
        let result = answer.result();
        shared.note(&format!(
            "operator: partition {partition} from {leader} to {target}: {result:?} {}",
            answer.detail
        ));
        if result == StepDown::Transferred {
            shared.claimed(partition, answer.term, answer.to.unwrap_or(target));
        }
    }
}
