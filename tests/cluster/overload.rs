//! More than there is room for: refused in words that a client understands, and nothing piles up.

use std::collections::BTreeMap;

use bytes::Bytes;
use evenkeel_protocol::v1::records_client::RecordsClient;
use evenkeel_protocol::v1::{PartitionPosition, PutRequest, WatchRequest};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Cluster, Load, PATIENCE, Spec, wait_until};

const MIB: f64 = 1048576.0;

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

/// Every write is acknowledged or refused as overload, with a time to come back; how many were what, by reason.
async fn crowd(cluster: &Cluster, writes: usize, value_bytes: usize) -> BTreeMap<String, usize> {
    let mut under_way = JoinSet::new();
    let records = RecordsClient::new(cluster.channel(0));
    for number in 0..writes {
        let mut records = records.clone();
        under_way.spawn(async move { records.put(put(format!("k{number}"), vec![b'x'; value_bytes])).await });
    }
    let mut outcomes = BTreeMap::new();
    while let Some(answer) = under_way.join_next().await {
        let outcome = match answer.unwrap() {
            Ok(_) => "acknowledged".to_owned(),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert!(status.get_details_retry_info().is_some(), "{status:?}");
                reason_of(&status)
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

fn reason_of(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("{status:?}")).reason
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_has_no_room_for_is_refused_and_who_comes_back_gets_through() {
    let cluster = Cluster::start(Spec::new(3, 3).gateway("routing.in_flight_max", 8)).await;
    let outcomes = crowd(&cluster, 500, 1000).await;
    assert!(outcomes["TOO_MANY_IN_FLIGHT"] > 0 && outcomes["acknowledged"] >= 8, "{outcomes:?}");
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    let client = cluster.client();
    let load = Load::with_retries(&client, 64);
    load.progress(500).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_has_no_room_for_is_refused_and_who_comes_back_gets_through() {
    let cluster = Cluster::start(Spec::new(3, 1).broker("limits.in_flight_writes_max", 4)).await;
    let outcomes = crowd(&cluster, 500, 1000).await;
    assert!(outcomes["BROKER_OVERLOADED"] > 0 && outcomes["acknowledged"] >= 4, "{outcomes:?}");
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    let client = cluster.client();
    let load = Load::with_retries(&client, 32);
    load.progress(200).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_writes_beyond_the_bytes_that_may_be_under_way_leave_memory_bounded() {
    let cluster = Cluster::start(Spec::new(3, 3)).await;
    // Without leaders nothing is answered: all would be held.
    let memory = async |what: &str| {
        let bytes =
            cluster.scrape_gateway(0).await.unwrap().value("process_resident_memory_bytes", &[]).unwrap();
        println!("{what}: the gateway holds {:.0} MiB", bytes / MIB);
        bytes
    };
    let before = memory("before").await;
    for node in 0..3 {
        rustix::process::kill_process(cluster.brokers[node].pid(), rustix::process::Signal::STOP).unwrap();
    }
    let mut under_way = JoinSet::new();
    let value = Bytes::from(vec![b'x'; 900_000]);
    for number in 0..1_500 {
        let mut records = RecordsClient::new(cluster.channel(0));
        let write = put(format!("k{number}"), value.clone());
        under_way.spawn(async move { records.put(write).await });
    }
    let (mut refused, mut most) = (0, before);
    wait_until("many writes to be refused for their bytes", async || {
        most = most.max(memory("while 1.3 GB of writes are offered").await);
        while let Some(joined) = under_way.try_join_next() {
            let code = joined.unwrap().map_err(|status| status.code());
            refused += usize::from(code.is_err_and(|code| code == Code::ResourceExhausted));
        }
        if refused >= 300 { Ok(()) } else { Err(format!("{refused}")) }
    })
    .await;
    for node in 0..3 {
        rustix::process::kill_process(cluster.brokers[node].pid(), rustix::process::Signal::CONT).unwrap();
    }
    // 256 MiB may be arriving, in buffers that double as they grow, and 256 MiB be under way, each once more for its broker. The
    // allocator keeps some of what was given back.
    assert!(most - before < 1.5 * 4.0 * 256.0 * MIB, "{before} before, {most} at most");
    under_way.abort_all();
    let client = cluster.client();
    wait_until("writes to be acknowledged again", async || {
        client.put("k", "v", None).await.map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_cut_with_an_error_and_may_resume_without_a_gap() {
    const WRITES: u64 = 400;
    const VALUE_BYTES: usize = 64 << 10;
    let cluster = Cluster::start(Spec::new(3, 1).gateway("limits.slow_watcher_timeout", "300ms")).await;
    let client = cluster.client();
    let watch = async |after| {
        let after = vec![PartitionPosition { partition_id: 1, position: after }];
        let request = WatchRequest { prefix: "w-".into(), after, ..Default::default() };
        cluster.records().watch(request).await.unwrap().into_inner()
    };
    let mut slow = watch(0).await;
    for number in 0..WRITES {
        client.put(format!("w-{number}"), vec![b'x'; VALUE_BYTES], None).await.unwrap();
    }
    // What a watcher may resume from is kept for long: it could not be told from one that was cut.
    let mut versions_seen = 0;
    let mut position = 0;
    let cut = loop {
        match tokio::time::timeout(PATIENCE, slow.message()).await.unwrap() {
            Ok(Some(changes)) => {
                versions_seen += changes.events.len() as u64;
                position = changes.position;
            }
            Ok(None) => panic!("the watch ended without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!((cut.code(), reason_of(&cut).as_str()), (Code::ResourceExhausted, "SLOW_WATCHER"));
    assert!(versions_seen < WRITES, "nothing was held back");
    let memory =
        cluster.scrape_gateway(0).await.unwrap().value("process_resident_memory_bytes", &[]).unwrap();
    println!(
        "{versions_seen} of {WRITES} changes were on their way; the gateway holds {:.0} MiB",
        memory / MIB
    );

    let mut resumed = watch(position).await;
    while versions_seen < WRITES {
        let changes = tokio::time::timeout(PATIENCE, resumed.message()).await.unwrap().unwrap().unwrap();
        for record in changes.events.iter().filter_map(|event| event.record.as_ref()) {
            assert_eq!(record.key, format!("w-{versions_seen}"), "a gap, or a change that came twice");
            versions_seen += 1;
        }
    }
}
