//! Write streams: answers by tag, errors of single writes, replays, and how much a stream may have under way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use evenkeel_protocol::v1::streamed_result::Result as Told;
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, Precondition, RequestId, StreamedResults, StreamedWrite,
    StreamedWrites, batch_operation, precondition,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::fake_cluster::Manner;
use crate::harness::{Harness, PATIENCE, error_info, until};

/// What the gateway documents.
const STREAM_WRITES_MAX: usize = 4_096;

/// A client's stream.
struct Writes {
    messages: mpsc::Sender<StreamedWrites>,
    answers: Streaming<StreamedResults>,
}

impl Writes {
    async fn open(harness: &Harness) -> Self {
        let (messages, receiver) = mpsc::channel(1);
        let answers = harness.records().write_stream(ReceiverStream::new(receiver)).await.unwrap();
        Self { messages, answers: answers.into_inner() }
    }

    async fn send(&self, writes: Vec<StreamedWrite>) {
        self.messages.send(StreamedWrites { writes }).await.unwrap();
    }

    /// The next so many answers, by tag.
    async fn answers(&mut self, count: usize) -> BTreeMap<u64, Told> {
        let mut told = BTreeMap::new();
        let all = async {
            while told.len() < count {
                let message = self.answers.message().await.unwrap().expect("an answer to each write");
                assert!(!message.results.is_empty());
                for result in message.results {
                    assert!(told.insert(result.tag, result.result.unwrap()).is_none(), "answered twice");
                }
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
        told
    }
}

fn put(key: &Bytes, value: &'static str) -> BatchOperation {
    let put = BatchPut { key: key.clone(), value: Bytes::from_static(value.as_bytes()), precondition: None };
    BatchOperation { operation: Some(batch_operation::Operation::Put(put)) }
}

fn write(tag: u64, operations: Vec<BatchOperation>) -> StreamedWrite {
    StreamedWrite { tag, operations, request_id: None }
}

fn error(told: &Told) -> (Code, &str) {
    match told {
        Told::Error(error) => (Code::from(error.code), &error.reason),
        Told::Written(written) => panic!("{written:?}"),
    }
}

fn versions(told: &Told) -> Vec<u64> {
    match told {
        Told::Written(written) => written.results.iter().map(|result| result.version).collect(),
        Told::Error(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn writes_of_one_message_reach_their_leaders_and_are_answered_by_tag() {
    let harness = Harness::start(3).await;
    let mut writes = Writes::open(&harness).await;
    let keys = [1, 2, 3].map(|partition| harness.key(partition, 3));
    let batch = vec![put(&keys[2], "a"), put(&keys[2], "b")];
    writes
        .send(vec![write(7, vec![put(&keys[0], "a")]), write(5, vec![put(&keys[1], "a")]), write(0, batch)])
        .await;
    let told = writes.answers(3).await;
    assert_eq!(
        (versions(&told[&7]), versions(&told[&5]), versions(&told[&0])),
        (vec![1], vec![1], vec![1, 2])
    );
    for (tag, partition) in [(7, 1), (5, 2), (0, 3)] {
        let Told::Written(written) = &told[&tag] else { panic!() };
        assert_eq!(written.partition_id, partition);
        assert_eq!(written.position, harness.cluster.position(partition));
    }
    let received = harness.cluster.received();
    let leaders: BTreeSet<u64> = received.iter().map(|(node, _)| *node).collect();
    assert_eq!((received.len(), leaders), (3, BTreeSet::from([0, 1, 2])));
    // A tag may be used again once it is answered; a client that is done gets the rest of its answers, then the end.
    let delete = BatchDelete { key: keys[0].clone(), precondition: None };
    let delete = BatchOperation { operation: Some(batch_operation::Operation::Delete(delete)) };
    writes.send(vec![write(7, vec![delete])]).await;
    let Writes { messages, answers } = writes;
    drop(messages);
    let (messages, _) = mpsc::channel(1);
    let mut writes = Writes { messages, answers };
    assert_eq!(versions(&writes.answers(1).await[&7]), [0]);
    assert!(writes.answers.message().await.unwrap().is_none());
    harness.stop().await;
}

#[tokio::test]
async fn a_write_that_cannot_be_has_its_own_error_and_the_stream_goes_on() {
    let harness = Harness::with_options(2, |o| o.limits.value_bytes_max = 8).await;
    let mut writes = Writes::open(&harness).await;
    let (key, other) = (harness.key(1, 2), harness.key(2, 2));
    let must_not_exist = Precondition { condition: Some(precondition::Condition::MustNotExist(true)) };
    let conditional = BatchPut { key: key.clone(), value: Bytes::new(), precondition: Some(must_not_exist) };
    let conditional = BatchOperation { operation: Some(batch_operation::Operation::Put(conditional)) };
    writes.send(vec![write(1, vec![put(&key, "a")])]).await;
    writes.answers(1).await;
    writes
        .send(vec![
            write(2, Vec::new()),
            write(3, vec![put(&Bytes::new(), "a")]),
            write(4, vec![put(&key, "123456789")]),
            write(5, vec![put(&key, "a"), put(&other, "a")]),
            write(6, vec![conditional]),
            write(7, vec![BatchOperation { operation: None }]),
            write(8, vec![put(&key, "b")]),
        ])
        .await;
    let told = writes.answers(7).await;
    let errors = [
        (2, Code::InvalidArgument, "EMPTY_BATCH"),
        (3, Code::InvalidArgument, "EMPTY_KEY"),
        (4, Code::InvalidArgument, "VALUE_TOO_LARGE"),
        (5, Code::InvalidArgument, "SEVERAL_PARTITIONS"),
        (6, Code::FailedPrecondition, "PRECONDITION_FAILED"),
        (7, Code::InvalidArgument, "EMPTY_OPERATION"),
    ];
    for (tag, code, reason) in errors {
        assert_eq!(error(&told[&tag]), (code, reason));
    }
    let Told::Error(refused) = &told[&6] else { panic!() };
    assert_eq!(refused.metadata["current_version"], "1");
    assert_eq!(versions(&told[&8]), [2]);
    harness.cluster.set_manner(0, Manner::Overloaded);
    writes.send(vec![write(9, vec![put(&key, "c")])]).await;
    let told = writes.answers(1).await;
    assert_eq!(error(&told[&9]), (Code::ResourceExhausted, "BROKER_OVERLOADED"));
    let Told::Error(overloaded) = &told[&9] else { panic!() };
    assert!(overloaded.retry_after_ms.is_some_and(|ms| ms > 0));
    harness.stop().await;
}

#[tokio::test]
async fn writes_whose_answers_were_lost_are_replayed_with_their_request_ids_and_applied_once() {
    const WRITES: u64 = 300;
    for manner in [Manner::ApplyAndBreak, Manner::ApplyAndDoubt, Manner::Silent] {
        let harness = Harness::start(1).await;
        harness.cluster.set_manner(0, manner);
        let mut writes = Writes::open(&harness).await;
        let keys: Vec<Bytes> = (0..WRITES).map(|n| Bytes::from(format!("k{n}"))).collect();
        let all = keys.iter().zip(0..).map(|(key, tag)| write(tag, vec![put(key, "a")]));
        writes.send(all.collect()).await;
        until("the first leader to receive something", async || !harness.cluster.received().is_empty()).await;
        harness.cluster.set_leader(1, Some(1));
        let told = writes.answers(WRITES as usize).await;
        assert!(told.values().all(|told| versions(told) == [1]), "{manner:?}: applied once");
        let received = harness.cluster.received();
        let ids: BTreeSet<u64> = received.iter().map(|(_, id)| id.client_id).collect();
        assert_eq!(ids.len() as u64, WRITES, "{manner:?}: one request id for each write");
        assert!(received.len() as u64 > WRITES, "{manner:?}: some were sent twice");
        harness.stop().await;
    }
}

#[tokio::test]
async fn writes_parked_while_their_partition_has_no_leader_go_to_the_next_and_hold_up_no_others() {
    let harness = Harness::start(2).await;
    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    let mut writes = Writes::open(&harness).await;
    let (parked, other) = (harness.key(1, 2), harness.key(2, 2));
    writes.send(vec![write(1, vec![put(&parked, "a")]), write(2, vec![put(&other, "a")])]).await;
    assert_eq!(writes.answers(1).await.into_keys().collect::<Vec<_>>(), [2]);
    harness.cluster.set_leader(1, Some(2));
    assert_eq!(versions(&writes.answers(1).await[&1]), [1]);
    harness.stop().await;
}

#[tokio::test]
async fn a_write_sent_again_on_another_stream_is_applied_once() {
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    let request_id = Some(RequestId { client_id: 3, sequence: 1 });
    let again = || StreamedWrite { tag: 1, operations: vec![put(&key, "a")], request_id };
    // The first stream goes away with its write under way.
    harness.cluster.set_manner(0, Manner::Silent);
    let first = Writes::open(&harness).await;
    first.send(vec![again()]).await;
    until("the write to arrive", async || !harness.cluster.received().is_empty()).await;
    drop(first);
    harness.cluster.set_manner(0, Manner::Proper);
    for _ in 0..2 {
        let mut next = Writes::open(&harness).await;
        next.send(vec![again()]).await;
        assert_eq!(versions(&next.answers(1).await[&1]), [1]);
    }
    assert_eq!(harness.cluster.version(1, &key), Some(1));
    harness.stop().await;
}

#[tokio::test]
async fn a_stream_has_so_many_writes_under_way_and_the_rest_is_not_read() {
    const WRITES: usize = 3 * STREAM_WRITES_MAX;
    let harness = Harness::with_options(1, |o| o.routing.in_flight_max = 100_000).await;
    harness.cluster.set_manner(0, Manner::Silent);
    let writes = Writes::open(&harness).await;
    let Writes { messages, answers } = writes;
    let key = harness.key(1, 1);
    let sending = tokio::spawn(async move {
        for tag in 0..WRITES as u64 {
            let message = StreamedWrites { writes: vec![write(tag, vec![put(&key, "a")])] };
            if messages.send(message).await.is_err() {
                break;
            }
        }
    });
    until("the stream to be full", async || harness.cluster.received().len() >= STREAM_WRITES_MAX).await;
    // Another stream's write passes through the same gateway and broker: had there been more, it would have come first.
    let second = Writes::open(&harness).await;
    let request_id = Some(RequestId { client_id: 1, sequence: 1 });
    let probe = StreamedWrite { tag: 1, operations: vec![put(&harness.key(1, 1), "b")], request_id };
    second.send(vec![probe]).await;
    until("the probe to arrive", async || harness.cluster.received().iter().any(|(_, id)| id.client_id == 1))
        .await;
    assert_eq!(harness.cluster.received().len(), STREAM_WRITES_MAX + 1);
    harness.cluster.set_leader(1, Some(1));
    let (messages, _) = mpsc::channel(1);
    let told = Writes { messages, answers }.answers(WRITES).await;
    assert!(told.values().all(|told| versions(told).len() == 1));
    sending.await.unwrap();
    harness.stop().await;
}

#[tokio::test]
async fn what_the_gateway_has_under_way_bounds_streams_too() {
    let harness = Harness::with_options(1, |o| o.routing.in_flight_max = 10).await;
    harness.cluster.set_manner(0, Manner::Silent);
    let mut writes = Writes::open(&harness).await;
    let key = harness.key(1, 1);
    writes.send((0..25).map(|tag| write(tag, vec![put(&key, "a")])).collect()).await;
    let told = writes.answers(15).await;
    assert!(told.values().all(|told| error(told) == (Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT")));
    harness.cluster.set_leader(1, Some(1));
    let told = writes.answers(10).await;
    assert!(told.values().all(|told| versions(told).len() == 1));
    // All of it is there again.
    writes.send((0..10).map(|tag| write(tag, vec![put(&key, "a")])).collect()).await;
    assert!(writes.answers(10).await.values().all(|told| versions(told).len() == 1));
    harness.stop().await;
}

#[tokio::test]
async fn write_streams_are_bounded_and_a_gateway_that_stops_answers_what_it_has_read() {
    const STREAMS_MAX: usize = 1_024;
    let harness = Harness::start(1).await;
    let key = harness.key(1, 1);
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        open.push(Writes::open(&harness).await);
    }
    let (_messages, receiver) = mpsc::channel(1);
    let refused = harness.records().write_stream(ReceiverStream::new(receiver)).await.unwrap_err();
    let reason = error_info(&refused).reason;
    assert_eq!((refused.code(), reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_WRITE_STREAMS"));
    let mut last = open.pop().unwrap();
    drop(open);
    last.send(vec![write(1, vec![put(&key, "a")])]).await;
    last.answers(1).await;
    let ended = tokio::spawn(async move { last.answers.message().await });
    harness.stop().await;
    let status = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err();
    assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::Unavailable, "STOPPING"));
}
