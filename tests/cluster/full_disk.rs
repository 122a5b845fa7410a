//! A disk that runs full: nothing is lost, reads go on, who has room leads, and writes are taken again by themselves.

use std::time::Duration;

use evenkeel_protocol::v1::{Consistency, PutRequest};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{Cluster, Load, Process, SmallDisk, Spec, leaders, wait_until};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 192 * MIB;
const FREE_BYTES_MIN: u64 = 48 * MIB;

fn spec() -> Spec {
    Spec::new(3, 3).disks_of(DISK_BYTES).broker("data.free_bytes_min", FREE_BYTES_MIN as i64)
}

async fn wait_until_full(cluster: &Cluster, node: usize, full: bool) {
    wait_until(&format!("broker {node} to tell whether its disk is full: {full}"), async || {
        let told = cluster.scrape_broker(node).await?.value("evenkeel_data_disk_full", &[]);
        if told == Some(f64::from(u8::from(full))) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_full_disk_hands_its_leaderships_over_and_no_write_fails() {
    if !SmallDisk::can_be_made() {
        return;
    }
    let cluster = Cluster::start_balanced(spec()).await;
    let load = Load::without_retries(cluster.records(), 4);
    load.progress(100).await;
    // Not so full that it could not follow.
    cluster.disks[0].fill(FREE_BYTES_MIN * 3 / 4);
    wait_until_full(&cluster, 0, true).await;
    cluster
        .wait_for("leaders with room", |topology| {
            let leaders = leaders(topology);
            leaders.len() == 3 && leaders.values().all(|leader| *leader != 0)
        })
        .await;
    load.progress(200).await;
    cluster.disks[0].empty();
    wait_until_full(&cluster, 0, false).await;
    cluster.wait_until_caught_up(0).await;
    cluster.give(1, 0).await;
    load.progress(100).await;
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&cluster.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_disk_has_room_writes_are_refused_with_the_remedy_and_reads_go_on() {
    if !SmallDisk::can_be_made() {
        return;
    }
    let cluster = Cluster::start(spec()).await;
    let client = cluster.client();
    client.put("before", "1", None).await.unwrap();
    for (node, disk) in cluster.disks.iter().enumerate() {
        disk.fill(FREE_BYTES_MIN / 4);
        wait_until_full(&cluster, node, true).await;
    }
    let put = || PutRequest { key: "refused".into(), value: "2".into(), ..Default::default() };
    let status = cluster.records().put(put()).await.unwrap_err();
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (Code::ResourceExhausted, "DISK_FULL"), "{status}");
    assert!(status.get_details_retry_info().is_some());
    let broker = info.metadata["broker_id"].clone();
    let message = status.message();
    for part in [&*format!("broker {broker}: its disk is full"), "data.free_bytes_min", "make room"] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
    let record = client.get("before", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(&*record.value, b"1");
    assert!(client.get("refused", Consistency::Linearizable).await.unwrap().is_none());

    // Elections need no room.
    let mut cluster = cluster;
    cluster.lose_and_return(2).await;
    let record = client.get("before", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(&*record.value, b"1");
    for (node, disk) in cluster.disks.iter().enumerate() {
        disk.empty();
        wait_until_full(&cluster, node, false).await;
    }
    cluster.records().put(put()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_meets_a_full_disk_waits_and_loses_nothing() {
    if !SmallDisk::can_be_made() {
        return;
    }
    // Nothing is refused in advance: every log runs into the wall.
    let cluster = Cluster::start(spec().broker("data.free_bytes_min", 0)).await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 4);
    load.progress(100).await;
    // First what was applied waits, in memory; then the log.
    for disk in &cluster.disks {
        disk.fill(4 * MIB);
    }
    wait_until("the state database to wait", async || {
        let waits =
            |broker: &Process| broker.log().contains("goes to the state database when there is room again");
        if cluster.brokers.iter().any(waits) { Ok(()) } else { Err("they go on".to_owned()) }
    })
    .await;
    wait_until("a log to wait for room", async || {
        for node in 0..3 {
            cluster.disks[node].fill(0);
            if cluster.scrape_broker(node).await?.value("evenkeel_data_disk_full", &[]) == Some(1.0) {
                return Ok(());
            }
        }
        // What nobody waits for: whether it was written may stay unknown.
        let value = vec![b'x'; 256 << 10];
        let put = PutRequest { key: "large".into(), value: value.into(), ..Default::default() };
        let answer = tokio::time::timeout(Duration::from_millis(200), cluster.records().put(put)).await;
        Err(format!("no log has met the end of its disk; the last write: {answer:?}"))
    })
    .await;
    for disk in &cluster.disks {
        disk.empty();
    }
    load.progress(200).await;
    let ledger = load.stop().await;
    ledger.check(&client).await;
    let mut cluster = cluster;
    for broker in &mut cluster.brokers {
        assert!(broker.is_running(), "{} did not survive", broker.name);
    }
}
