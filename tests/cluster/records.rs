//! Records through a gateway: what can be written and read, and how a gateway says no.

use std::collections::BTreeMap;

use evenkeel_client::{ClientError, Condition, ListQuery, Refusal};
use evenkeel_protocol::internal::v1::{Write, WriteFrame, refused, write_result};
use evenkeel_protocol::v1::{
    BatchDelete, BatchOperation, BatchPut, Consistency, PutRequest, RequestId, batch_operation,
};
use evenkeel_protocol::{COMMAND_BYTES_MAX, PartitionId, partition_of};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{Cluster, Spec};

fn put(key: &str, value: &str, condition: Option<Condition>) -> BatchOperation {
    let put = BatchPut {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        precondition: condition.map(Into::into),
    };
    BatchOperation { operation: Some(batch_operation::Operation::Put(put)) }
}

fn delete(key: &str) -> BatchOperation {
    let delete = BatchDelete { key: key.to_owned().into(), precondition: None };
    BatchOperation { operation: Some(batch_operation::Operation::Delete(delete)) }
}

/// The first keys that belong to this partition.
fn keys_of(partition: u32, partitions: u32) -> impl Iterator<Item = String> {
    let keys = (0..).map(|i| format!("key-{i}"));
    keys.filter(move |key| partition_of(key.as_bytes(), partitions) == PartitionId(partition))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Refusal {
    let error = result.unwrap_err();
    error.refusal().cloned().unwrap_or_else(|| panic!("not a refusal: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_written_read_listed_and_deleted() {
    let cluster = Cluster::start(Spec::new(3, 3)).await;
    let client = cluster.client();
    assert_eq!(client.get("a", Consistency::Linearizable).await.unwrap(), None);
    let first = client.put("a", "1", None).await.unwrap();
    let second = client.put("a", "2", None).await.unwrap();
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(first.partition_id, partition_of(b"a", 3).0);
    assert!(second.position > first.position);
    let record = client.get("a", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!((&*record.value, record.version, record.position), (&b"2"[..], 2, second.position));

    // Over all partitions, in key order, a page at a time.
    let keys: Vec<String> = (0..25).map(|i| format!("page-{i:02}")).collect();
    for key in &keys {
        client.put(key.clone(), key.to_uppercase(), None).await.unwrap();
    }
    let mut query = ListQuery { prefix: "page-".into(), page_size: 10, ..Default::default() };
    let mut listed = Vec::new();
    let mut pages = 0;
    loop {
        let page = client.list(query.clone()).await.unwrap();
        listed.extend(page.records.iter().map(|r| String::from_utf8(r.key.to_vec()).unwrap()));
        pages += 1;
        query.page_token = page.next_page_token;
        if query.page_token.is_empty() {
            break;
        }
    }
    assert_eq!((listed, pages), (keys, 3));

    assert!(client.delete("a", None).await.unwrap().existed);
    assert!(!client.delete("a", None).await.unwrap().existed);
    assert_eq!(client.get("a", Consistency::Linearizable).await.unwrap(), None);
    assert_eq!(client.put("a", "again", None).await.unwrap().version, 1, "versions start again");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_records_read_at_once_come_whole_each_to_its_reader() {
    let cluster = Cluster::start(Spec::new(3, 1)).await;
    let client = cluster.client();
    let value = |number: usize| vec![b'a' + number as u8; 900_000];
    for number in 0..16 {
        client.put(format!("large-{number}"), value(number), None).await.unwrap();
    }
    for consistency in [Consistency::Linearizable, Consistency::Stale] {
        let reads = (0..64).map(|read| {
            let client = client.clone();
            async move { (read % 16, client.get(format!("large-{}", read % 16), consistency).await.unwrap()) }
        });
        for (number, record) in futures::future::join_all(reads).await {
            match record {
                Some(record) => assert!(record.value == value(number), "large-{number} is another"),
                // A replica may be behind.
                None => assert_eq!(consistency, Consistency::Stale, "large-{number}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_condition_does_not_hold_changes_nothing() {
    let cluster = Cluster::start(Spec::new(1, 2)).await;
    let client = cluster.client();
    client.put("k", "1", Some(Condition::MustNotExist)).await.unwrap();
    let refused = refusal(client.put("k", "2", Some(Condition::MustNotExist)).await);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "PRECONDITION_FAILED"));
    assert_eq!(refused.metadata["current_version"], "1");
    client.put("k", "2", Some(Condition::VersionEquals(1))).await.unwrap();
    let refused = refusal(client.put("k", "3", Some(Condition::VersionEquals(1))).await);
    assert_eq!(refused.metadata["current_version"], "2");
    assert_eq!(
        refusal(client.delete("k", Some(Condition::VersionEquals(9))).await).code,
        Code::FailedPrecondition
    );
    let record = client.get("k", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!((&*record.value, record.version), (&b"2"[..], 2));
    assert!(client.delete("k", Some(Condition::VersionEquals(2))).await.unwrap().existed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_applies_as_a_whole_or_not_at_all_and_only_to_one_partition() {
    let cluster = Cluster::start(Spec::new(1, 2)).await;
    let client = cluster.client();
    let mut keys = keys_of(1, 2);
    let [a, b, c] = [(); 3].map(|()| keys.next().unwrap());
    let written = client.batch(vec![put(&a, "1", None), put(&b, "1", None), delete(&c)]).await.unwrap();
    assert_eq!(written.partition_id, 1);
    assert_eq!(
        written.results.iter().map(|r| (r.version, r.existed)).collect::<Vec<_>>(),
        [(1, false), (1, false), (0, false)]
    );
    let conditions = vec![put(&a, "2", None), put(&b, "2", Some(Condition::MustNotExist))];
    let refused = refusal(client.batch(conditions).await);
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(refused.metadata["operation"], "1");
    for key in [&a, &b] {
        let record = client.get(key.clone(), Consistency::Linearizable).await.unwrap().unwrap();
        assert_eq!((&*record.value, record.position), (&b"1"[..], written.position), "nothing half-written");
    }
    let elsewhere = keys_of(2, 2).next().unwrap();
    let refused = refusal(client.batch(vec![put(&a, "3", None), put(&elsewhere, "3", None)]).await);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, "SEVERAL_PARTITIONS"));
    assert_eq!(client.get(elsewhere, Consistency::Linearizable).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limits_get_typed_errors_and_leave_nothing_behind() {
    let spec = Spec::new(1, 1)
        .gateway("limits.key_bytes_max", 8)
        .gateway("limits.value_bytes_max", 16)
        .gateway("limits.batch_bytes_max", 30);
    let cluster = Cluster::start(spec).await;
    let client = cluster.client();
    let seventeen = "v".repeat(17);
    let table = [
        (refusal(client.put("", "v", None).await), "EMPTY_KEY", None),
        (refusal(client.put("k".repeat(9), "v", None).await), "KEY_TOO_LARGE", Some(("9", "8"))),
        (refusal(client.put("k", seventeen.clone(), None).await), "VALUE_TOO_LARGE", Some(("17", "16"))),
        (refusal(client.get("", Consistency::Linearizable).await), "EMPTY_KEY", None),
        (refusal(client.delete("k".repeat(9), None).await), "KEY_TOO_LARGE", Some(("9", "8"))),
        (refusal(client.batch(vec![]).await), "EMPTY_BATCH", None),
        (
            refusal(
                client.batch(vec![put("a", &"v".repeat(16), None), put("b", &"v".repeat(16), None)]).await,
            ),
            "BATCH_TOO_LARGE",
            Some(("34", "30")),
        ),
        (
            refusal(client.batch(vec![put("ok", "v", None), put("b", &seventeen, None)]).await),
            "VALUE_TOO_LARGE",
            Some(("17", "16")),
        ),
    ];
    for (refused, reason, sizes) in table {
        assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, reason), "{refused:?}");
        if let Some((actual, limit)) = sizes {
            assert_eq!((&*refused.metadata["actual"], &*refused.metadata["limit"]), (actual, limit));
        }
    }
    let refused = refusal(client.list(ListQuery { partition_id: 7, ..Default::default() }).await);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "UNKNOWN_PARTITION"));
    let negative = evenkeel_protocol::v1::ListRequest { page_size: -1, ..Default::default() };
    let status = cluster.records().list(negative).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "BAD_PAGE_SIZE");
    let listed = client.list(ListQuery::default()).await.unwrap();
    assert_eq!(listed.records, [], "nothing was written");
    client.put("k".repeat(8), "v".repeat(16), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_id_applies_once_even_under_another_leader() {
    let mut cluster = Cluster::start(Spec::new(3, 1)).await;
    cluster.wait_until_balanced().await;
    let mut records = cluster.records();
    let request = |sequence, value: &'static str| PutRequest {
        key: "k".into(),
        value: value.into(),
        precondition: None,
        request_id: Some(RequestId { client_id: 77, sequence }),
    };
    let first = records.put(request(1, "once")).await.unwrap().into_inner();
    let again = records.put(request(1, "once")).await.unwrap().into_inner();
    assert_eq!(again, first);
    cluster.kill(0);
    let elsewhere = records.put(request(1, "once")).await.unwrap().into_inner();
    assert_eq!(elsewhere, first, "a new leader remembers the answer");
    let next = records.put(request(2, "twice")).await.unwrap().into_inner();
    assert_eq!((first.version, next.version), (1, 2));
    let status = records.put(request(1, "once")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), &*info.metadata["last_sequence"]), ("SUPERSEDED", "2"));
}

/// What gateways let through is bounded far below this: only a broker's own service can be asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_brokers_could_not_replicate_is_refused_by_name_and_the_stream_goes_on() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let write = |tag, bytes| Write { tag, partition_id: 1, command: vec![0; bytes].into() };
    let frames =
        [write(1, COMMAND_BYTES_MAX + 1), write(2, 1)].map(|write| WriteFrame { writes: vec![write] });
    let mut broker = cluster.broker_service(0);
    let mut answers = broker.write(futures::stream::iter(frames)).await.unwrap().into_inner();
    let mut reasons = BTreeMap::new();
    while reasons.len() < 2 {
        for result in answers.message().await.unwrap().unwrap().results {
            let reason = match result.result.unwrap() {
                write_result::Result::Refused(refused) => Some((refused.reason(), refused.detail)),
                _ => None,
            };
            reasons.insert(result.tag, reason);
        }
    }
    let (reason, detail) = reasons[&1].clone().unwrap();
    assert_eq!(reason, refused::Reason::TooLarge);
    assert!(
        detail.contains(&COMMAND_BYTES_MAX.to_string()) && detail.contains("make it smaller"),
        "{detail}"
    );
    assert_ne!(reasons[&2].as_ref().map(|(reason, _)| *reason), Some(refused::Reason::TooLarge));
}
