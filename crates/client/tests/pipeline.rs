//! The client's write stream against gateways that answer, break off or say nothing as told.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_client::v1::records_server::{Records, RecordsServer};
use evenkeel_client::v1::*;
use evenkeel_client::{Client, ClientError, Options, Token};
use futures::future::join_all;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Long enough for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a gateway does with one stream, in the order in which streams are opened; then it answers everything.
#[derive(Clone, Debug)]
enum Manner {
    /// Answers so many writes, reads on, and breaks the stream when it has read so many.
    AnswerAndBreak { answered: usize, read: usize },
    /// Reads and says nothing.
    Silent,
    /// Answers the first so many writes with this error.
    Refuse(usize, WriteError),
    /// Does not open the stream.
    Deny(Code),
}

/// Remembers what it was sent; applies each request id once.
#[derive(Clone, Default)]
struct Gateway {
    manners: Arc<Mutex<VecDeque<Manner>>>,
    received: Arc<Mutex<Vec<RequestId>>>,
    applied: Arc<Mutex<BTreeSet<(u64, u64)>>>,
    messages: Arc<Mutex<usize>>,
    authorization: Arc<Mutex<Option<String>>>,
}

impl Gateway {
    fn with(manners: impl IntoIterator<Item = Manner>) -> Self {
        Self { manners: Arc::new(Mutex::new(manners.into_iter().collect())), ..Self::default() }
    }

    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(RecordsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    fn written(&self, write: &StreamedWrite) -> StreamedResult {
        let RequestId { client_id, sequence } = write.request_id.unwrap();
        self.applied.lock().insert((client_id, sequence));
        let results = vec![BatchResult { version: 1, existed: false }; write.operations.len()];
        let written = BatchResponse { partition_id: 1, position: 1, results };
        StreamedResult { tag: write.tag, result: Some(streamed_result::Result::Written(written)) }
    }
}

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Records for Gateway {
    type WatchStream = Stream_<WatchResponse>;
    type WriteStreamStream = Stream_<StreamedResults>;

    async fn write_stream(
        &self,
        request: Request<Streaming<StreamedWrites>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let header = request.metadata().get("authorization");
        *self.authorization.lock() = header.map(|value| value.to_str().unwrap().to_owned());
        let manner = self.manners.lock().pop_front();
        if let Some(Manner::Deny(code)) = manner {
            return Err(Status::new(code, "denied"));
        }
        let gateway = self.clone();
        let mut seen = 0;
        let answers = request.into_inner().map(move |message| {
            let writes = message?.writes;
            *gateway.messages.lock() += 1;
            gateway.received.lock().extend(writes.iter().map(|write| write.request_id.unwrap()));
            let mut results = Vec::new();
            for write in &writes {
                seen += 1;
                match &manner {
                    Some(Manner::AnswerAndBreak { answered, .. }) if seen > *answered => {}
                    Some(Manner::Silent) => {}
                    Some(Manner::Refuse(count, error)) if seen <= *count => {
                        let error = streamed_result::Result::Error(error.clone());
                        results.push(StreamedResult { tag: write.tag, result: Some(error) });
                    }
                    _ => results.push(gateway.written(write)),
                }
            }
            match &manner {
                Some(Manner::AnswerAndBreak { read, .. }) if seen >= *read && results.is_empty() => {
                    Err(Status::unavailable("broken on demand"))
                }
                _ => Ok(StreamedResults { results }),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Err(Status::unimplemented("put"))
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("delete"))
    }
    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(Status::unimplemented("get"))
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }
    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        Err(Status::unimplemented("batch"))
    }
}

#[tokio::test]
async fn what_is_written_together_travels_together() {
    let gateway = Gateway::default();
    let client = Client::connect([gateway.serve().await]).await.unwrap();
    let pipeline = client.pipeline(64);
    let written = join_all((0..64).map(|n| pipeline.put(format!("k{n}"), "v", None))).await;
    assert!(written.iter().all(|put| put.as_ref().unwrap().version == 1));
    let messages = *gateway.messages.lock();
    assert!(messages < 16, "{messages} messages for 64 writes that were there at once");
    assert!(!pipeline.delete("k0", None).await.unwrap().existed);
    let ids: BTreeSet<(u64, u64)> = gateway.applied.lock().clone();
    let lanes: BTreeSet<u64> = ids.iter().map(|(client_id, _)| *client_id).collect();
    assert_eq!((ids.len(), lanes.len()), (65, 64), "a client id for each write under way at once");
    assert_eq!(client.retries(), 0);
}

#[tokio::test]
async fn after_a_broken_stream_the_next_gateway_gets_what_has_no_answer_with_the_same_ids() {
    let breaks = Manner::AnswerAndBreak { answered: 10, read: 40 };
    let gateways = [Gateway::with([breaks.clone()]), Gateway::with([breaks])];
    let addresses = [gateways[0].serve().await, gateways[1].serve().await];
    let client = Client::connect(addresses).await.unwrap();
    let pipeline = client.pipeline(20);
    let writes = join_all((0..200).map(|n| pipeline.put(format!("k{n}"), "v", None)));
    let written = tokio::time::timeout(PATIENCE, writes).await.unwrap();
    assert!(written.iter().all(Result::is_ok));
    let mut applied = BTreeSet::new();
    for gateway in &gateways {
        for id in gateway.applied.lock().iter() {
            assert!(applied.insert(*id), "answered by one gateway, and sent to another all the same: {id:?}");
        }
    }
    assert_eq!(applied.len(), 200, "no write got a second id");
    let received: usize = gateways.iter().map(|gateway| gateway.received.lock().len()).sum();
    assert!(received > 200 && client.retries() > 0, "{received} received");
}

#[tokio::test]
async fn a_silent_gateway_is_given_up_and_a_write_that_nobody_answers_ends_at_its_deadline() {
    let silent = Gateway::with([Manner::Silent]);
    let options = Options {
        attempt_timeout: Duration::from_millis(100),
        call_timeout: Duration::from_secs(10),
        ..Options::new([silent.serve().await])
    };
    let client = Client::connect_with(options.clone()).await.unwrap();
    assert!(client.pipeline(1).put("k", "v", None).await.is_ok(), "its second stream is answered");
    let received = silent.received.lock().clone();
    assert!(received.len() >= 2 && received.iter().all(|id| *id == received[0]), "{received:?}");

    let silent = Gateway::with(vec![Manner::Silent; 1_000]);
    let call_timeout = Duration::from_millis(300);
    let options = Options { call_timeout, gateways: vec![silent.serve().await], ..options };
    let pipeline = Client::connect_with(options).await.unwrap().pipeline(1);
    let error = pipeline.put("k", "v", None).await.unwrap_err();
    assert!(matches!(error, ClientError::DeadlineExceeded { .. }) && error.outcome_is_unknown(), "{error}");
    // Its lane goes on with another sequence.
    silent.manners.lock().clear();
    pipeline.put("k", "v", None).await.unwrap();
    let received = silent.received.lock().clone();
    let (first, last) = (received[0], received[received.len() - 1]);
    assert_eq!(last, RequestId { sequence: first.sequence + 1, ..first });
}

#[tokio::test]
async fn an_error_of_one_write_is_retried_where_that_helps_and_told_where_it_does_not() {
    let passes = WriteError {
        code: Code::ResourceExhausted.into(),
        reason: "TOO_MANY_IN_FLIGHT".into(),
        retry_after_ms: Some(1),
        ..WriteError::default()
    };
    let gateway = Gateway::with([Manner::Refuse(3, passes)]);
    let client = Client::connect([gateway.serve().await]).await.unwrap();
    let pipeline = client.pipeline(8);
    let written = join_all((0..8).map(|n| pipeline.put(format!("k{n}"), "v", None))).await;
    assert!(written.iter().all(Result::is_ok));
    assert_eq!((gateway.applied.lock().len(), client.retries()), (8, 3));

    let stays = WriteError {
        code: Code::FailedPrecondition.into(),
        reason: "PRECONDITION_FAILED".into(),
        message: "it has version 4".into(),
        ..WriteError::default()
    };
    let gateway = Gateway::with([Manner::Refuse(1, stays)]);
    let client = Client::connect([gateway.serve().await]).await.unwrap();
    let pipeline = client.pipeline(8);
    let error = pipeline.put("k", "v", None).await.unwrap_err();
    assert!(error.is_precondition_failed());
    assert_eq!(error.refusal().unwrap().reason, "PRECONDITION_FAILED");
    pipeline.put("k", "v", None).await.unwrap();
    assert_eq!(client.retries(), 0);
}

#[tokio::test]
async fn a_stream_that_is_not_allowed_fails_its_writes_and_the_next_ones_try_again() {
    let gateway = Gateway::with([Manner::Deny(Code::PermissionDenied)]);
    let options =
        Options { token: Some(Token::new("secret").unwrap()), ..Options::new([gateway.serve().await]) };
    let client = Client::connect_with(options).await.unwrap();
    let pipeline = client.pipeline(2);
    let error = pipeline.put("k", "v", None).await.unwrap_err();
    assert!(error.is_about_credentials(), "{error}");
    assert_eq!(gateway.authorization.lock().as_deref(), Some("Bearer secret"));
    pipeline.put("k", "v", None).await.unwrap();
}

#[tokio::test]
async fn more_writes_than_may_be_under_way_wait_their_turn() {
    let gateway = Gateway::with([Manner::Silent]);
    let client = Client::connect([gateway.serve().await]).await.unwrap();
    let pipeline = client.pipeline(2);
    let operations = || vec![BatchOperation { operation: None }];
    let (first, second) = (pipeline.submit(operations()).await, pipeline.submit(operations()).await);
    assert!(futures::FutureExt::now_or_never(pipeline.submit(operations())).is_none());
    // The stream goes on for those who wait, whoever dropped its handle.
    let third = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { pipeline.submit(operations()).await.await }
    });
    drop(pipeline);
    let all = async { (first.await.is_ok(), second.await.is_ok(), third.await.unwrap().is_ok()) };
    assert_eq!(tokio::time::timeout(PATIENCE, all).await.unwrap(), (true, true, true));
}
