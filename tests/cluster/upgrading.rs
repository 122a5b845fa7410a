//! Upgrades: one broker after the other under load, and data and peers of a newer version that are refused.

use std::path::Path;

use evenkeel_protocol::internal::v1::broker_client::BrokerClient;
use evenkeel_protocol::internal::v1::raft_client::RaftClient;
use evenkeel_protocol::internal::v1::{ProbeRequest, WatchStatusRequest};
use rustix::process::Signal;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::harness::{Cluster, Load, Spec, all_led};

/// Far longer than a gateway parks a request: whoever waited for a lease would fail.
const LEASE: &str = "60s";

#[tokio::test(flavor = "multi_thread")]
async fn every_broker_is_restarted_under_load_and_no_request_fails() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 6).broker("raft.lease", LEASE)).await;
    let load = Load::without_retries(cluster.records(), 6);
    load.progress(200).await;
    for node in 0..3 {
        cluster.brokers[node].signal(Signal::TERM);
        assert_eq!(cluster.brokers[node].ended().await.code(), Some(0));
        load.progress(100).await;
        cluster.restart(node);
        cluster.wait_until_caught_up(node).await;
        cluster.wait_for("every partition to be led", all_led).await;
        load.progress(100).await;
    }
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&cluster.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_newer_version_is_refused_with_both_versions_and_left_alone() {
    let mut cluster = Cluster::start(Spec::new(1, 1)).await;
    cluster.client().put("key", "value", None).await.unwrap();
    cluster.kill(0);
    let folder = cluster.data_directory(0);
    let segment = folder.join("log").join("00000000000000000001.log");
    type Raise = fn(&mut Vec<u8>);
    let cases: [(&Path, &str, Raise); 2] = [
        (&folder.join("identity.json"), "newer than 1", |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            *bytes = text.replace("\"format\": 1", "\"format\": 7").into_bytes();
        }),
        (&segment, "newer than 2", |bytes| bytes[8] = 7),
    ];
    for (path, newest, raise) in cases {
        let before = std::fs::read(path).unwrap();
        let mut newer = before.clone();
        raise(&mut newer);
        assert_ne!(newer, before);
        std::fs::write(path, &newer).unwrap();
        cluster.restart(0);
        assert_eq!(cluster.brokers[0].ended().await.code(), Some(2));
        let log = cluster.brokers[0].log();
        let error = log.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap();
        for part in ["format 7", newest, "run the version that wrote it or a later one"] {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
        assert_eq!(std::fs::read(path).unwrap(), newer);
        std::fs::write(path, before).unwrap();
    }
    cluster.restart(0);
    cluster.wait_for("the broker to be back", all_led).await;
    assert!(cluster.client().get("key", Default::default()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_speaks_only_newer_versions_is_refused_with_both_ranges() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let url = format!("http://127.0.0.1:{}", cluster.ports.brokers[0].0);
    let newer = Endpoint::from_shared(url).unwrap().user_agent("evenkeel-wire/8-9").unwrap().connect_lazy();
    let as_gateway =
        BrokerClient::new(newer.clone()).watch_status(WatchStatusRequest::default()).await.unwrap_err();
    let as_broker = RaftClient::new(newer).probe(ProbeRequest { group: 1 }).await.unwrap_err();
    for refused in [as_gateway, as_broker] {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        for part in ["8 to 9", "1 to 1", "upgrade"] {
            assert!(refused.message().contains(part), "{part:?} is missing in: {}", refused.message());
        }
    }
}
