//! The client against a gateway that misbehaves as told.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_client::v1::records_server::{Records, RecordsServer};
use evenkeel_client::v1::*;
use evenkeel_client::{Client, ClientError, Condition, Options, WatchQuery};
use futures::Stream;
use parking_lot::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// What one watch delivers, to its end.
type Script = Vec<Result<WatchResponse, Status>>;

/// Fails as scripted, then succeeds; remembers what it was sent.
#[derive(Clone, Default)]
struct Gateway {
    failures: Arc<Mutex<VecDeque<Status>>>,
    puts: Arc<Mutex<Vec<PutRequest>>>,
    watches: Arc<Mutex<Vec<WatchRequest>>>,
    streams: Arc<Mutex<VecDeque<Script>>>,
}

type Changes = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Records for Gateway {
    type WatchStream = Changes;
    type WriteStreamStream = Pin<Box<dyn Stream<Item = Result<StreamedResults, Status>> + Send>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.puts.lock().push(request.into_inner());
        match self.failures.lock().pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(PutResponse { partition_id: 1, position: 7, version: 1 })),
        }
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Changes>, Status> {
        self.watches.lock().push(request.into_inner());
        let next = self.streams.lock().pop_front();
        Ok(Response::new(match next {
            Some(items) => Box::pin(futures::stream::iter(items)),
            None => Box::pin(futures::stream::pending()),
        }))
    }

    async fn write_stream(
        &self,
        _: Request<Streaming<StreamedWrites>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        Err(Status::unimplemented("write stream"))
    }
    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("delete"))
    }
    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        std::future::pending().await
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }
    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        Err(Status::unimplemented("batch"))
    }
}

async fn serve(gateway: Gateway) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(RecordsServer::new(gateway))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    address
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_retry_repeats_the_request_id_and_a_new_request_advances_it() {
    let gateway = Gateway::default();
    gateway.failures.lock().extend([Status::unavailable("leader moves"), Status::aborted("leader changed")]);
    let client = Client::connect([serve(gateway.clone()).await]).await.unwrap();
    client.put("k", "v", Some(Condition::VersionEquals(3))).await.unwrap();
    client.put("k", "v", None).await.unwrap();
    let ids: Vec<RequestId> = gateway.puts.lock().iter().map(|put| put.request_id.unwrap()).collect();
    assert_eq!(ids.len(), 4);
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert_eq!(ids[3], RequestId { sequence: ids[2].sequence + 1, ..ids[2] });
    assert_eq!(client.retries(), 2);
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let gateway = Gateway::default();
    let details = ErrorDetails::with_error_info(
        "VERSION_MISMATCH",
        "evenkeel",
        [("current_version", "4")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    gateway.failures.lock().push_back(Status::with_error_details(
        Code::FailedPrecondition,
        "it has version 4",
        details,
    ));
    let client = Client::connect([serve(gateway.clone()).await]).await.unwrap();
    let error = client.put("k", "v", None).await.unwrap_err();
    assert!(error.is_precondition_failed() && !error.is_unreachable());
    let refusal = error.refusal().unwrap();
    assert_eq!(
        (refusal.reason.as_str(), refusal.metadata["current_version"].as_str()),
        ("VERSION_MISMATCH", "4")
    );
    assert_eq!(gateway.puts.lock().len(), 1);
}

#[tokio::test]
async fn a_dead_gateway_costs_a_failover_and_no_failure() {
    let gateway = Gateway::default();
    let alive = serve(gateway.clone()).await;
    let client = Client::connect([free_address(), alive]).await.unwrap();
    for _ in 0..4 {
        client.put("k", "v", None).await.unwrap();
    }
    assert_eq!(gateway.puts.lock().len(), 4);
    assert!(client.retries() >= 1);
}

#[tokio::test]
async fn the_pause_that_a_gateway_asks_for_is_kept() {
    let pause = Duration::from_millis(120);
    let gateway = Gateway::default();
    let details = ErrorDetails::with_retry_info(Some(pause));
    gateway.failures.lock().push_back(Status::with_error_details(
        Code::ResourceExhausted,
        "overloaded",
        details,
    ));
    let client = Client::connect([serve(gateway).await]).await.unwrap();
    let began = std::time::Instant::now();
    client.put("k", "v", None).await.unwrap();
    assert!(began.elapsed() >= pause);
}

#[tokio::test]
async fn a_silent_gateway_ends_in_a_deadline_that_says_so() {
    let mut options = Options::new([serve(Gateway::default()).await]);
    options.call_timeout = Duration::from_millis(200);
    options.attempt_timeout = Duration::from_millis(50);
    let client = Client::connect_with(options).await.unwrap();
    let error = client.get("k", Consistency::Linearizable).await.unwrap_err();
    assert!(error.is_unreachable() && error.outcome_is_unknown());
    assert!(matches!(error, ClientError::DeadlineExceeded { call: "get", attempts: 2.., .. }), "{error}");
}

fn change(position: u64) -> WatchResponse {
    let record = Record { key: "k".into(), position, partition_id: 1, ..Default::default() };
    let event = WatchEvent { kind: watch_event::Kind::Put.into(), record: Some(record) };
    WatchResponse { partition_id: 1, events: vec![event], position }
}

#[tokio::test]
async fn a_watch_resumes_after_what_it_delivered_and_repeats_nothing() {
    let gateway = Gateway::default();
    gateway.streams.lock().extend([
        vec![Ok(change(5)), Ok(change(6)), Err(Status::unavailable("gateway stops"))],
        vec![Ok(change(6)), Ok(change(9))],
    ]);
    let client = Client::connect([serve(gateway.clone()).await]).await.unwrap();
    let mut watch = client.watch(WatchQuery::default()).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(watch.next().await.unwrap().position);
    }
    assert_eq!(seen, [5, 6, 9]);
    let resumed = gateway.watches.lock()[1].after.clone();
    assert_eq!(resumed, [PartitionPosition { partition_id: 1, position: 6 }]);
}
