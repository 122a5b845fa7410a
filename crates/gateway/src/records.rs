//! The gRPC service `evenkeel.v1.Records`: checks a request, finds its partition, and has it carried out.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1::{BrokerGetRequest, outcome};
use evenkeel_protocol::v1::records_server::Records;
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, BatchRequest, BatchResponse, BatchResult, Consistency,
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, ListRequest, ListResponse, PutRequest,
    PutResponse, StreamedWrites, WatchRequest, WatchResponse, batch_operation,
};
use evenkeel_protocol::{PartitionId, partition_of};
use evenkeel_security::Admission;
use futures::Stream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::intake::Gatekeeper;
use crate::limits::key_of;
use crate::metric_definitions::MethodMetrics;
use crate::options::{Limits, Options};
use crate::refusals::Refusal;
use crate::streamed_writes::StreamedAnswers;
use crate::watchers::Watchers;
use crate::writes::Router;
use crate::{list, watch, watch_delivery};

/// Clients' write streams open at once: each may hold a message that is not whole yet.
const WRITE_STREAMS_MAX: usize = 1_024;
/// Kept of a caller's deadline for the way back, so that it gets our answer and not its own time-out.
const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(50);

pub(crate) struct RecordsService {
    router: Arc<Router>,
    limits: Limits,
    watchers: Watchers,
    write_streams: Arc<Semaphore>,
    slow_watcher_timeout: Duration,
    stopping: CancellationToken,
    put: MethodMetrics,
    delete: MethodMetrics,
    get: MethodMetrics,
    list: MethodMetrics,
    batch: MethodMetrics,
    write_stream: MethodMetrics,
    watch: MethodMetrics,
}

impl RecordsService {
    /// `stopping` ends open watches.
    pub(crate) fn new(
        options: &Options,
        router: Arc<Router>,
        watchers: Watchers,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            router,
            limits: options.request_limits(),
            watchers,
            write_streams: Arc::new(Semaphore::new(WRITE_STREAMS_MAX)),
            slow_watcher_timeout: options.limits.slow_watcher_timeout,
            stopping,
            put: MethodMetrics::new("Put"),
            delete: MethodMetrics::new("Delete"),
            get: MethodMetrics::new("Get"),
            list: MethodMetrics::new("List"),
            batch: MethodMetrics::new("Batch"),
            write_stream: MethodMetrics::new("WriteStream"),
            watch: MethodMetrics::new("Watch"),
        }
    }

    /// Has room for a request, or refuses it. Watches have a bound of their own.
    pub(crate) fn gatekeeper(router: Arc<Router>) -> Gatekeeper {
        let bounded = ["Put", "Delete", "Get", "List", "Batch"].map(|name| (name, MethodMetrics::new(name)));
        Arc::new(move |path| {
            let method = path.rsplit('/').next().unwrap_or_default();
            let Some((_, metrics)) = bounded.iter().find(|(name, _)| *name == method) else {
                return Ok(None);
            };
            router.admit().map(Some).inspect_err(|_| metrics.record(Code::ResourceExhausted, Duration::ZERO))
        })
    }

    /// The cluster's partitions, 0 before a broker was heard.
    pub(crate) fn partitions_known(&self) -> usize {
        self.router.topology.borrow().partitions_count as usize
    }

    fn deadline(&self, metadata: &MetadataMap) -> Instant {
        Instant::now() + time_allowed(metadata, self.router.park_timeout)
    }

    /// A write of one operation.
    async fn write_one(
        &self,
        operation: BatchOperation,
        request_id: Option<evenkeel_protocol::v1::RequestId>,
        deadline: Instant,
    ) -> Result<(PartitionId, u64, BatchResult), Refusal> {
        self.limits.check_operation(&operation, "")?;
        let partitions = self.router.partitions_count(deadline).await?;
        let partition = key_of(&operation).map_or(PartitionId(1), |key| partition_of(key, partitions));
        let applied = self.router.write(partition, request_id, vec![operation], deadline).await?;
        let result = sole_result(&applied)?;
        Ok((partition, applied.position, result))
    }
}

fn sole_result(applied: &outcome::Applied) -> Result<BatchResult, Refusal> {
    applied
        .results
        .first()
        .cloned()
        .ok_or_else(|| Refusal::BrokerMisbehaved { detail: "an applied write without a result".into() })
}

async fn observe<T>(
    metrics: &MethodMetrics,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<Response<T>, Status> {
    let started = Instant::now();
    let result = work.await.map_err(Status::from);
    metrics.record(result.as_ref().map_or_else(Status::code, |_| Code::Ok), started.elapsed());
    result.map(Response::new)
}

#[tonic::async_trait]
impl Records for RecordsService {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let PutRequest { key, value, precondition, request_id } = request.into_inner();
        let operation = batch_operation::Operation::Put(BatchPut { key, value, precondition });
        observe(&self.put, async {
            let operation = BatchOperation { operation: Some(operation) };
            let (partition, position, result) = self.write_one(operation, request_id, deadline).await?;
            Ok(PutResponse { partition_id: partition.0, position, version: result.version })
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let DeleteRequest { key, precondition, request_id } = request.into_inner();
        let operation = batch_operation::Operation::Delete(BatchDelete { key, precondition });
        observe(&self.delete, async {
            let operation = BatchOperation { operation: Some(operation) };
            let (partition, position, result) = self.write_one(operation, request_id, deadline).await?;
            Ok(DeleteResponse { partition_id: partition.0, position, existed: result.existed })
        })
        .await
    }

    async fn batch(&self, request: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let BatchRequest { operations, request_id } = request.into_inner();
        observe(&self.batch, async {
            let partitions = self.router.partitions_count(deadline).await?;
            let partition = self.limits.check_batch(&operations, partitions)?;
            let expected = operations.len();
            let applied = self.router.write(partition, request_id, operations, deadline).await?;
            if applied.results.len() != expected {
                let detail = format!("{} results for {expected} operations", applied.results.len());
                return Err(Refusal::BrokerMisbehaved { detail });
            }
            let outcome::Applied { position, results } = applied;
            Ok(BatchResponse { partition_id: partition.0, position, results })
        })
        .await
    }

    type WriteStreamStream = StreamedAnswers<Streaming<StreamedWrites>>;

    async fn write_stream(
        &self,
        request: Request<Streaming<StreamedWrites>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        // A stream has no end: each of its writes has a deadline of its own.
        let deadline = Instant::now() + self.router.park_timeout;
        let opened = async {
            let open = Arc::clone(&self.write_streams)
                .try_acquire_owned()
                .map_err(|_| Refusal::TooManyWriteStreams { streams_max: WRITE_STREAMS_MAX })?;
            Ok::<_, Refusal>((open, self.router.partitions_count(deadline).await?))
        };
        // Its writes are counted, not the stream.
        let (open, partitions_count) = opened.await.map_err(|refusal| {
            self.write_stream.record(refusal.code(), Duration::ZERO);
            Status::from(refusal)
        })?;
        let (router, limits, stopping) = (Arc::clone(&self.router), self.limits, self.stopping.clone());
        let admission = request.extensions().get::<Admission>().cloned();
        let inbound = (request.into_inner(), admission);
        let answers = StreamedAnswers::new(router, limits, partitions_count, inbound, stopping, open);
        Ok(Response::new(answers))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let request = request.into_inner();
        observe(&self.get, async {
            self.limits.check_key(&request.key, "key")?;
            let partitions = self.router.partitions_count(deadline).await?;
            let partition = partition_of(&request.key, partitions);
            let stale = request.consistency() == Consistency::Stale;
            let ask = BrokerGetRequest { partition_id: partition.0, key: request.key, stale };
            let found = self.router.read(partition, stale, deadline, |broker| {
                let ask = ask.clone();
                async move { broker.get(ask).await }
            });
            Ok(GetResponse { record: found.await?.record, partition_id: partition.0 })
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let request = request.into_inner();
        observe(&self.list, async {
            self.limits.check_prefix(&request.prefix, "prefix")?;
            let partitions = self.router.partitions_count(deadline).await?;
            list::page(&self.router, request, partitions, deadline).await
        })
        .await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // A watch has no end: the caller's deadline does not bound the wait for the first broker.
        let deadline = Instant::now() + self.router.park_timeout;
        let request = request.into_inner();
        observe(&self.watch, async {
            self.limits.check_prefix(&request.prefix, "prefix")?;
            let permit = self.watchers.admit()?;
            let partitions = self.router.partitions_count(deadline).await?;
            let changes = watch::changes(&self.router, &request, partitions, self.stopping.clone())?;
            let delivered = watch_delivery::deliver(Box::pin(changes), self.slow_watcher_timeout);
            let held = futures::StreamExt::map(delivered, move |item| {
                let _ = &permit;
                item.map_err(Status::from)
            });
            Ok(Box::pin(held) as Self::WatchStream)
        })
        .await
    }
}

/// The caller's `grpc-timeout` less a margin, or `most` if that is shorter.
fn time_allowed(metadata: &MetadataMap, most: Duration) -> Duration {
    let given =
        metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_grpc_timeout);
    given.map_or(most, |given| (given - DEADLINE_MARGIN_MAX.min(given / 10)).min(most))
}

/// `8S`, `200m`, …: up to eight digits and a unit, as the gRPC protocol over HTTP/2 defines.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_of_the_callers_deadline_and_the_park_timeout_counts() {
        let table = [
            (None, 10_000),
            (Some("2S"), 1_950),
            (Some("100m"), 90),
            (Some("1H"), 10_000),
            (Some("soon"), 10_000),
            (Some("S"), 10_000),
            (Some(""), 10_000),
        ];
        for (header, expected_ms) in table {
            let mut metadata = MetadataMap::new();
            if let Some(header) = header {
                metadata.insert("grpc-timeout", header.parse().unwrap());
            }
            let allowed = time_allowed(&metadata, Duration::from_secs(10));
            assert_eq!(allowed, Duration::from_millis(expected_ms), "{header:?}");
        }
    }
}
