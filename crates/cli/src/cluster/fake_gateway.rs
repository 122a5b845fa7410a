//! A gateway for tests: records in memory, the same preconditions, and failures on demand.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use evenkeel_client::Client;
use evenkeel_protocol::v1::precondition::Condition;
use evenkeel_protocol::v1::records_server::{Records, RecordsServer};
use evenkeel_protocol::v1::*;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Default)]
pub struct FakeGateway {
    pub records: Arc<Mutex<BTreeMap<Bytes, Record>>>,
    /// Puts that were tried, refused ones too.
    pub puts: Arc<AtomicU64>,
    /// The put with this number, from 1, is applied, but its answer is a refusal that ends the caller.
    pub break_at: Arc<AtomicU64>,
}

impl FakeGateway {
    /// Serves until the test ends.
    pub async fn client(&self) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(RecordsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Client::connect([address]).await.unwrap()
    }
}

/// Serves these routes until the test ends. Answers where.
pub async fn serve_http(routes: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

type Changes = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

impl FakeGateway {
    fn write(&self, put: PutRequest) -> Result<PutResponse, Status> {
        let number = self.puts.fetch_add(1, Relaxed) + 1;
        let mut records = self.records.lock();
        let current = records.get(&put.key).map_or(0, |record| record.version);
        let holds = match put.precondition.and_then(|precondition| precondition.condition) {
            None => true,
            Some(Condition::MustNotExist(_)) => current == 0,
            Some(Condition::VersionEquals(version)) => current == version,
        };
        if !holds {
            return Err(Status::failed_precondition(format!("it has version {current}")));
        }
        let version = current + 1;
        let record = Record { key: put.key.clone(), value: put.value, version, ..Record::default() };
        records.insert(put.key, record);
        if self.break_at.load(Relaxed) == number {
            return Err(Status::data_loss("broken on demand"));
        }
        Ok(PutResponse { partition_id: 1, position: number, version })
    }

    fn write_streamed(&self, write: StreamedWrite) -> StreamedResult {
        let operation = write.operations.into_iter().next().and_then(|operation| operation.operation);
        let Some(batch_operation::Operation::Put(put)) = operation else { panic!("only puts are streamed") };
        let BatchPut { key, value, precondition } = put;
        let result = match self.write(PutRequest { key, value, precondition, request_id: None }) {
            Ok(PutResponse { partition_id, position, version }) => {
                let results = vec![BatchResult { version, existed: version > 1 }];
                streamed_result::Result::Written(BatchResponse { partition_id, position, results })
            }
            Err(status) => {
                let (code, message) = (status.code().into(), status.message().to_owned());
                streamed_result::Result::Error(WriteError { code, message, ..WriteError::default() })
            }
        };
        StreamedResult { tag: write.tag, result: Some(result) }
    }
}

#[tonic::async_trait]
impl Records for FakeGateway {
    type WatchStream = Changes;
    type WriteStreamStream = Pin<Box<dyn Stream<Item = Result<StreamedResults, Status>> + Send>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.write(request.into_inner()).map(Response::new)
    }

    async fn write_stream(
        &self,
        request: Request<Streaming<StreamedWrites>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        let gateway = self.clone();
        let answers = request.into_inner().map(move |message| {
            let results = message?.writes.into_iter().map(|write| gateway.write_streamed(write)).collect();
            Ok(StreamedResults { results })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let record = self.records.lock().get(&request.into_inner().key).cloned();
        Ok(Response::new(GetResponse { record, partition_id: 1 }))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("delete"))
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }
    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        Err(Status::unimplemented("batch"))
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Changes>, Status> {
        Err(Status::unimplemented("watch"))
    }
}
