//! Writes on streams of real processes: through killed leaders and gateways, and by those who may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use evenkeel_client::v1::records_client::RecordsClient;
use evenkeel_client::v1::{
    BatchOperation, BatchPut, Consistency, RequestId, StreamedWrite, StreamedWrites, batch_operation,
};
use evenkeel_client::{Client, Condition};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::harness::{Cluster, READER, Secured, Spec, WRITER, leaders, wait_until};

const WRITERS: u64 = 64;

/// Writes every key once, by as many writers on one stream, until told to stop: a write that was applied twice, or again
/// under another id, finds that its key exists.
struct Writing {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<u64>>,
}

impl Writing {
    fn start(client: &Client) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let pipeline = client.pipeline(WRITERS as usize);
        let writer = |writer: u64| {
            let (pipeline, acknowledged, stop) =
                (pipeline.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Relaxed) {
                        return number;
                    }
                    let key = format!("{writer}-{number}");
                    let written =
                        pipeline.put(key.clone(), key, Some(Condition::MustNotExist)).await.unwrap();
                    assert_eq!(written.version, 1);
                    acknowledged.fetch_add(1, Relaxed);
                }
                unreachable!("numbers do not end")
            })
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { acknowledged, stop, writers }
    }

    async fn progress(&self, writes: u64) {
        let from = self.acknowledged.load(Relaxed);
        wait_until("writes to be acknowledged", async || match self.acknowledged.load(Relaxed) - from {
            done if done >= writes => Ok(()),
            done => Err(format!("{done} of {writes}")),
        })
        .await;
    }

    /// Everything acknowledged is there, once.
    async fn check(self, client: &Client) {
        self.stop.store(true, Relaxed);
        for (writer, task) in (0..).zip(self.writers) {
            let written = task.await.unwrap();
            for number in [0, written / 2, written - 1] {
                let key = format!("{writer}-{number}");
                let record = client.get(key.clone(), Consistency::Linearizable).await.unwrap().unwrap();
                assert_eq!((record.value, record.version), (key.into(), 1));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_writes_apply_once_through_a_killed_leader_and_a_killed_gateway() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 6).gateways(2)).await;
    let client = cluster.client();
    let writing = Writing::start(&client);
    writing.progress(2_000).await;
    cluster.kill(0);
    writing.progress(2_000).await;
    cluster.wait_until_abandoned(0).await;
    for gateway in [0, 1] {
        cluster.gateways[gateway].kill();
        writing.progress(2_000).await;
        cluster.gateways[gateway].restart();
        cluster.wait_for_gateway(gateway, "all leaders", |topology| leaders(topology).len() == 6).await;
    }
    writing.check(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_takes_the_role_to_write_and_ends_when_that_is_taken_away() {
    let secured = Secured::new().await;
    let cluster = Cluster::start(Spec::new(3, 2).secured(&secured)).await;
    let write = |sequence: u64| {
        let put = BatchPut { key: "k".into(), value: "v".into(), precondition: None };
        let operation = BatchOperation { operation: Some(batch_operation::Operation::Put(put)) };
        let request_id = Some(RequestId { client_id: 1, sequence });
        StreamedWrites {
            writes: vec![StreamedWrite { tag: sequence, operations: vec![operation], request_id }],
        }
    };
    let open = async |name: &str| {
        let (messages, receiver) = mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", secured.token(name).header().clone());
        let dialer = secured.tls(None).grpc();
        let url = format!("{}://127.0.0.1:{}", dialer.scheme(), cluster.ports.gateways[0][0]);
        let mut records = RecordsClient::new(dialer.channel(&Endpoint::from_shared(url).unwrap()));
        records.write_stream(request).await.map(|answers| (messages, answers.into_inner()))
    };
    assert_eq!(open(READER).await.err().map(|status| status.code()), Some(Code::PermissionDenied));
    let (messages, mut answers) = open(WRITER).await.unwrap();
    messages.send(write(1)).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().results[0].tag, 1);
    secured.remove_token(WRITER);
    let mut sequence = 1;
    wait_until("the stream of the removed token to end", async || {
        sequence += 1;
        // Closed once the stream has ended.
        let _ = messages.send(write(sequence)).await;
        match answers.message().await {
            Err(status) if status.code() == Code::Unauthenticated => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
