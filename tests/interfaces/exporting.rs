//! Exporters: what was acknowledged arrives at a receiver and in files, at least once and in order, whoever leads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use evenkeel_security::{AuthOptions, ClusterRole, Security, TlsOptions};
use http::Method;
use parking_lot::Mutex;
use serde_json::Value;
use toml::Table;

use crate::harness::{Cluster, PATIENT_LEASE, Secured, Spec, http, wait_until};

/// Of requests to the receiver, every one of this many is refused.
const REFUSED_EVERY: u64 = 7;

/// Lines in the order in which they came.
#[derive(Clone, Default)]
struct Received {
    lines: Arc<Mutex<Vec<Value>>>,
    requests: Arc<AtomicU64>,
}

impl Received {
    /// A receiver that takes what comes, but for a refusal now and then; and its address.
    async fn listen() -> (Self, String) {
        let received = Self::default();
        let routes = axum::Router::new().route("/in", post(take)).with_state(received.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (received, url)
    }

    fn lines(&self) -> Vec<Value> {
        self.lines.lock().clone()
    }
}

impl Received {
    /// The same behind TLS, with the certificate of a gateway of this authority; by name.
    async fn listen_encrypted(secured: &Secured) -> (Self, String) {
        let received = Self::default();
        let routes = axum::Router::new().route("/in", post(take)).with_state(received.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/in", listener.local_addr().unwrap().port());
        let tls = TlsOptions {
            certificate_file: secured.path("gateway-0.crt"),
            key_file: secured.path("gateway-0.key"),
            ca_file: secured.path("ca.crt"),
        };
        let options = evenkeel_security::check(&tls, &AuthOptions::default()).unwrap();
        let acceptor = Security::load(options, ClusterRole::Gateway).unwrap().http();
        tokio::spawn(evenkeel_http_server::serve(listener, acceptor, routes, std::future::pending()));
        (received, url)
    }
}

async fn take(State(received): State<Received>, body: String) -> StatusCode {
    if (received.requests.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(REFUSED_EVERY) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let lines = body.lines().map(|line| serde_json::from_str(line).unwrap());
    received.lines.lock().extend(lines);
    StatusCode::OK
}

/// Positions that were acknowledged, by partition.
type Acknowledged = BTreeMap<u32, BTreeSet<u64>>;

fn place(line: &Value) -> (u32, u64) {
    (u32::try_from(line["partitionId"].as_u64().unwrap()).unwrap(), line["position"].as_u64().unwrap())
}

/// What is missing of what was acknowledged; and no position comes for the first time after a higher one.
fn missing(acknowledged: &Acknowledged, lines: &[Value]) -> Vec<(u32, u64)> {
    let mut seen: Acknowledged = BTreeMap::new();
    for line in lines {
        assert_ne!(line["type"], "gap", "{line}");
        let (partition, position) = place(line);
        let seen = seen.entry(partition).or_default();
        let newest = seen.last().copied().unwrap_or(0);
        assert!(position > newest || seen.contains(&position), "{line} comes after position {newest}");
        seen.insert(position);
    }
    let has =
        |partition: &u32, position: &u64| seen.get(partition).is_some_and(|seen| seen.contains(position));
    let all =
        acknowledged.iter().flat_map(|(partition, positions)| positions.iter().map(move |p| (partition, p)));
    all.filter(|(partition, position)| !has(partition, position)).map(|(a, b)| (*a, *b)).collect()
}

/// The lines of each partition's files, by broker.
fn files(folder: &Path) -> Vec<Vec<Value>> {
    let mut found = Vec::new();
    let sorted = |folder: &Path| {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    for partition in sorted(folder).iter().flat_map(|broker| sorted(broker)) {
        let text: String =
            sorted(&partition).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        found.push(whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
    }
    found
}

fn exporters(folder: &Path, url: &str) -> toml::Value {
    let mut files = Table::new();
    files.insert("name".to_owned(), "files".into());
    files.insert("kind".to_owned(), "json-lines".into());
    files.insert("directory".to_owned(), folder.display().to_string().into());
    files.insert("file_bytes_max".to_owned(), 8_192.into());
    files.insert("files_max".to_owned(), 0.into());
    let mut hook = Table::new();
    hook.insert("name".to_owned(), "hook".into());
    hook.insert("kind".to_owned(), "http".into());
    hook.insert("url".to_owned(), url.into());
    hook.insert("batch_records_max".to_owned(), 20.into());
    vec![toml::Value::from(files), toml::Value::from(hook)].into()
}

async fn arrived(what: &str, acknowledged: &Acknowledged, received: &Received, folder: &Path) {
    wait_until(what, async || {
        let lacking = missing(acknowledged, &received.lines());
        if lacking.is_empty() { Ok(()) } else { Err(format!("the receiver lacks {lacking:?}")) }
    })
    .await;
    wait_until(what, async || {
        // Each file is in order by itself; all brokers' files together have everything.
        let files = files(folder);
        files.iter().for_each(|lines| drop(missing(&Acknowledged::new(), lines)));
        let together: BTreeSet<(u32, u64)> = files.iter().flatten().map(place).collect();
        let all = acknowledged.iter().flat_map(|(p, positions)| positions.iter().map(move |at| (*p, *at)));
        let lacking: Vec<_> = all.filter(|place| !together.contains(place)).collect();
        if lacking.is_empty() { Ok(()) } else { Err(format!("the files lack {lacking:?}")) }
    })
    .await;
}

async fn replicas(cluster: &Cluster, node: usize) -> Result<Value, String> {
    let url = format!("http://127.0.0.1:{}/actuator/partitions", cluster.ports.brokers[node].1);
    Ok(http(Method::GET, &url).await?.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_acknowledged_write_is_exported_in_order_although_its_leader_is_killed() {
    let (received, url) = Received::listen().await;
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::new(3, 2)
        .broker("raft.lease", PATIENT_LEASE)
        .broker("exporters", exporters(folder.path(), &url));
    let mut cluster = Cluster::start_balanced(spec).await;

    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, stop, written) = (cluster.client(), Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                let mut acknowledged = Acknowledged::new();
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let put = client
                        .put(format!("{writer}/{}", number % 50), number.to_string(), None)
                        .await
                        .unwrap();
                    acknowledged.entry(put.partition_id).or_default().insert(put.position);
                    written.fetch_add(1, Ordering::Relaxed);
                }
                acknowledged
            })
        })
        .collect();
    let progress = async |more: u64| {
        let goal = written.load(Ordering::Relaxed) + more;
        wait_until("more writes", async || match written.load(Ordering::Relaxed) {
            now if now >= goal => Ok(()),
            now => Err(format!("{now} of {goal}")),
        })
        .await;
    };
    progress(300).await;
    wait_until("some to be exported", async || match received.lines().len() {
        0..100 => Err(format!("{}", received.lines().len())),
        _ => Ok(()),
    })
    .await;
    let leader = usize::try_from(cluster.topology().await.partitions[0].leader.unwrap()).unwrap();
    cluster.kill(leader);
    cluster.wait_until_abandoned(leader as u64).await;
    progress(300).await;
    let untold = http(Method::POST, &cluster.monitoring("/actuator/exporting/resume")).await.unwrap();
    assert_eq!(
        (untold.status.as_u16(), untold.json()["brokers"].clone()),
        (502, serde_json::json!([leader]))
    );

    // Planned changes too: everything goes home again.
    cluster.restart(leader);
    cluster.wait_until_caught_up(leader).await;
    cluster.rebalance().await;
    cluster.wait_until_balanced().await;
    progress(300).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Acknowledged::new();
    for writer in writers {
        for (partition, positions) in writer.await.unwrap() {
            acknowledged.entry(partition).or_default().extend(positions);
        }
    }
    arrived("everything acknowledged to be exported", &acknowledged, &received, folder.path()).await;
    wait_until("lag to be shown as nothing", async || {
        let mut lag = Vec::new();
        for node in 0..3 {
            lag.extend(cluster.scrape_broker(node).await?.values("evenkeel_exporter_lag_entries", &[]));
        }
        if lag.len() == 12 && lag.iter().all(|lag| *lag == 0.0) { Ok(()) } else { Err(format!("{lag:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_over_a_restart_and_nothing_is_missing_after_it() {
    let (received, url) = Received::listen().await;
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::new(1, 1).broker("exporters", exporters(folder.path(), &url));
    let mut cluster = Cluster::start(spec).await;
    let client = cluster.client();
    let mut acknowledged = Acknowledged::new();
    let first = client.put("a", "1", None).await.unwrap();
    acknowledged.entry(1).or_default().insert(first.position);
    arrived("the first write", &acknowledged, &received, folder.path()).await;
    let shown = replicas(&cluster, 0).await.unwrap();
    assert_eq!(
        (&shown["1"]["role"], &shown["1"]["exporterPhase"]),
        (&"LEADER".into(), &"EXPORTING".into()),
        "{shown}"
    );

    let paused = http(Method::POST, &cluster.monitoring("/actuator/exporting/pause")).await.unwrap();
    assert_eq!((paused.status.as_u16(), paused.body.len()), (204, 0));
    cluster.kill(0);
    cluster.restart(0);
    let second = client.put("b", "2", None).await.unwrap();
    acknowledged.entry(1).or_default().insert(second.position);
    wait_until("the restarted broker to be paused and behind", async || {
        let shown = replicas(&cluster, 0).await?;
        let replica = &shown["1"];
        let behind = replica["exportedPosition"].as_u64().is_some_and(|at| at < second.position);
        if replica["exporterPhase"] == "PAUSED" && behind { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    assert!(!received.lines().iter().any(|line| line["key"] == "b"));

    let broker = format!("http://127.0.0.1:{}/actuator/exporting/resume", cluster.ports.brokers[0].1);
    assert_eq!(http(Method::POST, &broker).await.unwrap().status.as_u16(), 204);
    arrived("what was written meanwhile", &acknowledged, &received, folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_kept_long_enough_is_told_as_a_gap() {
    let (received, url) = Received::listen().await;
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::new(1, 1)
        .broker("data.changes_retained_max", 20)
        .broker("exporters", exporters(folder.path(), &url));
    let cluster = Cluster::start(spec).await;
    let client = cluster.client();
    client.put("a", "1", None).await.unwrap();
    wait_until(
        "the first write",
        async || if received.lines().is_empty() { Err(String::new()) } else { Ok(()) },
    )
    .await;
    assert_eq!(
        http(Method::POST, &cluster.monitoring("/actuator/exporting/pause")).await.unwrap().status,
        204
    );
    let mut last = 0;
    for i in 0..100 {
        last = client.put(format!("k{i}"), "v", None).await.unwrap().position;
    }
    assert_eq!(
        http(Method::POST, &cluster.monitoring("/actuator/exporting/resume")).await.unwrap().status,
        204
    );
    wait_until("the newest write", async || {
        if received.lines().iter().any(|line| line["position"] == last) { Ok(()) } else { Err(String::new()) }
    })
    .await;
    let lines = received.lines();
    let gap = lines.iter().find(|line| line["type"] == "gap").unwrap_or_else(|| panic!("{lines:?}"));
    let (after, first) = (gap["afterPosition"].as_u64().unwrap(), gap["firstPosition"].as_u64().unwrap());
    assert!(after < first && first <= last, "{gap}");
    let lost = cluster.scrape_broker(0).await.unwrap().values("evenkeel_exporter_lost_positions_total", &[]);
    assert!(lost.iter().all(|lost| *lost > 0.0) && lost.len() == 2, "{lost:?}");
}

fn hook(url: &str, ca_file: Option<String>) -> toml::Value {
    let mut hook = Table::new();
    hook.insert("name".to_owned(), "hook".into());
    hook.insert("kind".to_owned(), "http".into());
    hook.insert("url".to_owned(), url.into());
    hook.extend(ca_file.map(|file| ("ca_file".to_owned(), file.into())));
    vec![toml::Value::from(hook)].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_behind_tls_is_trusted_by_its_authority_alone() {
    let (secured, other) = (Secured::new().await, Secured::new().await);
    let (received, url) = Received::listen_encrypted(&secured).await;
    let start = async |ca_file: String| {
        let cluster = Cluster::start(Spec::new(1, 1).broker("exporters", hook(&url, Some(ca_file)))).await;
        cluster.client().put("a", "1", None).await.unwrap();
        cluster
    };
    let cluster = start(other.path("ca.crt")).await;
    wait_until("exports that fail", async || {
        let scrape = cluster.scrape_broker(0).await?;
        let failures = scrape.values("evenkeel_exporter_failures_total", &[("exporter", "hook")]);
        if failures.iter().any(|failures| *failures > 1.0) { Ok(()) } else { Err(format!("{failures:?}")) }
    })
    .await;
    assert!(received.lines().is_empty());
    let said = cluster.brokers[0].log();
    assert!(said.contains("is not of an authority that is trusted here"), "{said}");

    let _cluster = start(secured.path("ca.crt")).await;
    wait_until("the write over TLS", async || match &received.lines()[..] {
        [line] if line["key"] == "a" => Ok(()),
        lines => Err(format!("{lines:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_pause_exports_on_and_what_it_exported_comes_again_after_a_restart() {
    let (received, url) = Received::listen().await;
    let spec = Spec::new(1, 1).broker("exporters", hook(&url, None));
    let mut cluster = Cluster::start(spec).await;
    let client = cluster.client();
    let count = |key: &str| received.lines().iter().filter(|line| line["key"] == key).count();
    let came = async |key: &'static str, times: usize| {
        wait_until(&format!("{key} to come {times} times"), async || match count(key) {
            now if now >= times => Ok(()),
            now => Err(format!("{now}")),
        })
        .await;
    };
    let post = async |path: &str| http(Method::POST, &cluster.monitoring(path)).await.unwrap();
    client.put("before", "1", None).await.unwrap();
    came("before", 1).await;
    let nonsense = post("/actuator/exporting/pause?soft=perhaps").await;
    assert_eq!((nonsense.status.as_u16(), &nonsense.json()["reason"]), (400, &"BAD_PARAMETER".into()));
    assert_eq!(post("/actuator/exporting/pause?soft=true").await.status, 204);
    client.put("meanwhile", "1", None).await.unwrap();
    came("meanwhile", 1).await;
    let phase = async |cluster: &Cluster, expected: &'static str| {
        wait_until(expected, async || {
            let shown = replicas(cluster, 0).await?;
            if shown["1"]["exporterPhase"] == expected { Ok(()) } else { Err(shown.to_string()) }
        })
        .await;
    };
    phase(&cluster, "SOFT_PAUSED").await;

    cluster.kill(0);
    cluster.restart(0);
    came("meanwhile", 2).await;
    phase(&cluster, "SOFT_PAUSED").await;
    let resumed = http(Method::POST, &cluster.monitoring("/actuator/exporting/resume")).await.unwrap();
    assert_eq!(resumed.status, 204);
    phase(&cluster, "EXPORTING").await;
}
