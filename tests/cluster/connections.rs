//! Connections: very many at once, and those of clients that say nothing, stop half-way or vanish.

use std::net::Ipv4Addr;
use std::time::Duration;

use evenkeel_protocol::v1::PutRequest;
use evenkeel_protocol::v1::records_client::RecordsClient;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::{Cluster, PATIENCE, Spec, raw_http2};

const IDLE: usize = 10_000;
const ACTIVE: usize = 1_000;
const WRITES_OF_EACH: usize = 3;
/// Connections that are being opened at once: the listener's backlog is not what this is about.
const OPENING_MAX: usize = 64;
/// For eleven thousand connections of a debug build.
const GATEWAY_BYTES_MAX: f64 = (1u64 << 30) as f64;

/// This process needs a file for each connection as well.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let needed = (IDLE + ACTIVE + 500) as u64;
    assert!(
        maximum.is_none_or(|files| files >= needed),
        "a process may open {maximum:?} files here, and this needs {needed}: raise the hard limit (ulimit -Hn {needed})"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_and_a_thousand_active_connections_are_served_at_once() {
    raise_file_limit();
    let cluster = Cluster::start(Spec::new(3, 3)).await;
    let port = cluster.ports.gateways[0][0];
    let mut idle = JoinSet::new();
    for _ in 0..IDLE / OPENING_MAX + 1 {
        let opening = (0..OPENING_MAX).map(|_| raw_http2::connect(port));
        for opened in futures::future::join_all(opening).await {
            idle.spawn(raw_http2::stay_idle(opened.unwrap()));
        }
    }
    assert!(idle.len() >= IDLE);

    let mut active = JoinSet::new();
    for number in 0..ACTIVE {
        // A connection of its own each.
        let mut records = RecordsClient::new(cluster.channel(0));
        active.spawn(async move {
            for nth in 0..WRITES_OF_EACH {
                let (key, value) = (format!("active-{number}").into(), nth.to_string().into());
                let request = PutRequest { key, value, ..Default::default() };
                let put = timeout(PATIENCE, records.put(request)).await;
                let put = put.unwrap_or_else(|_| panic!("client {number}: no answer")).unwrap().into_inner();
                assert_eq!(put.version, nth as u64 + 1);
            }
            records
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = active.join_next().await {
        clients.push(client.unwrap());
    }
    assert_eq!(clients.len(), ACTIVE);
    let ended = idle.try_join_next();
    assert!(ended.is_none(), "an idle connection ended: {ended:?}");
    let scrape = cluster.scrape_gateway(0).await.unwrap();
    let open = scrape.value("process_open_fds", &[]).unwrap();
    assert!(open >= (IDLE + ACTIVE) as f64, "the gateway has {open} files open");
    let memory = scrape.value("process_resident_memory_bytes", &[]).unwrap();
    println!("the gateway holds {:.0} MiB and {open} open files", memory / 1048576.0);
    assert!(memory < GATEWAY_BYTES_MAX, "{memory} bytes");
}

/// How long the other side kept a connection, from when it was asked for nothing more.
async fn kept_for(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
    let mut sink = [0; 4096];
    let ended = async { while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
    timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("still open after {PATIENCE:?}"));
    began.elapsed()
}

async fn saying(port: u16, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(words).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_stop_half_way_or_vanish_are_dropped_in_time() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let [gateway, api, monitoring] = cluster.ports.gateways[0];
    let (broker, broker_monitoring) = cluster.ports.brokers[0];
    let mut dropped = JoinSet::new();
    for port in [api, monitoring, broker_monitoring] {
        for words in [
            &b""[..],
            b"GET /actuator/health HTTP/1.1\r\nHost: a\r\nAccept",
            b"POST /x HTTP/1.1\r\nHost: a\r\n",
        ] {
            let stream = saying(port, words).await;
            dropped.spawn(async move {
                (format!("HTTP port {port}, {} bytes", words.len()), kept_for(stream).await)
            });
        }
    }
    for port in [gateway, broker] {
        for words in [&b""[..], &raw_http2::PREFACE[..10]] {
            let stream = saying(port, words).await;
            dropped.spawn(async move {
                (format!("gRPC port {port}, {} bytes", words.len()), kept_for(stream).await)
            });
        }
        // Begins properly and answers nothing any more: as one whose machine or network is gone.
        let vanished = raw_http2::connect(port).await.unwrap();
        dropped.spawn(async move { (format!("gRPC port {port}, vanished"), kept_for(vanished).await) });
        // Stops in the middle of a header.
        let mut half_header = raw_http2::connect(port).await.unwrap();
        half_header.write_all(&[0, 1, 0, 1, 4, 0, 0, 0, 1, 0x82]).await.unwrap();
        dropped
            .spawn(async move { (format!("gRPC port {port}, half a header"), kept_for(half_header).await) });
    }
    while let Some(kept) = dropped.join_next().await {
        let (what, kept) = kept.unwrap();
        println!("{what}: dropped after {kept:.1?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_body_does_not_come_is_answered_and_its_connection_ended() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let request = "POST /cluster/v2/rebalance HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let mut stream = saying(cluster.ports.gateways[0][1], request.as_bytes()).await;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(cluster.topology().await.partitions.iter().all(|partition| partition.leader.is_some()));
}
