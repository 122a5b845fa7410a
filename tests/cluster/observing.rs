//! What an operator's dashboard shows.

use crate::harness::{Cluster, PARTITIONS, Scrape, Spec, leaders, wait_until};

const WRITES: u64 = 60;
const VALUE_BYTES: u64 = 500;
/// More than what the log keeps after a snapshot, and than what is purged at once.
const LOG_ENTRIES_LOST: u64 = 600;

/// The table of metrics that Zeebe's dashboard reads, by kind.
const BROKER_METRICS: [(&str, &str); 18] = [
    ("atomix_role", "gauge"),
    ("atomix_non_replicated_entries", "gauge"),
    ("atomix_non_committed_entries", "gauge"),
    ("atomix_append_entries_rate_total", "counter"),
    ("atomix_append_entries_data_rate_total", "counter"),
    ("atomix_append_entries_latency", "histogram"),
    ("atomix_commit_entries_rate_total", "counter"),
    ("atomix_partition_raft_commit_index", "gauge"),
    ("atomix_partition_raft_append_index", "gauge"),
    ("atomix_heartbeat_time_in_s", "histogram"),
    ("atomix_heartbeat_miss_count_total", "counter"),
    ("atomix_election_latency_in_ms", "gauge"),
    ("atomix_raft_messages_send_total", "counter"),
    ("atomix_raft_messages_received_total", "counter"),
    ("atomix_snapshot_replication_count", "gauge"),
    ("atomix_snapshot_replication_duration_milliseconds", "gauge"),
    ("zeebe_health", "gauge"),
    ("zeebe_leader_transition_latency", "gauge"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_zeebes_dashboard_is_there() {
    let spec = Spec::new(3, 1).broker("raft.snapshot_after_entries", 20).broker("raft.log_entries_kept", 5);
    let mut cluster = Cluster::start(spec).await;
    cluster.wait_until_balanced().await;
    let client = cluster.client();
    // An election by time-out, and a snapshot to a broker that was away: some metrics tell of nothing else.
    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    let writes = (0..LOG_ENTRIES_LOST).map(|i| client.put(format!("k{i}"), "v", None));
    futures::future::try_join_all(writes).await.unwrap();
    cluster.restart(0);
    cluster.wait_until_caught_up(0).await;
    wait_until("all of the dashboard's metrics", async || {
        let scrapes = [0, 1, 2].map(|node| cluster.scrape_broker(node));
        let scrapes = futures::future::try_join_all(scrapes).await?;
        let missing = |(name, kind): &&(&str, &str)| !scrapes.iter().any(|s| s.kind(name) == Some(*kind));
        let missing: Vec<_> = BROKER_METRICS.iter().filter(missing).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?}")) }
    })
    .await;
    let scrape = cluster.scrape_broker(1).await.unwrap();
    let labelled = scrape.values("atomix_role", &[PARTITIONS[0], ("partition", "1")]);
    assert_eq!(labelled.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_and_indexes_match_what_was_written() {
    let cluster = Cluster::start(Spec::new(3, 1)).await;
    cluster.wait_until_balanced().await;
    let client = cluster.client();
    client.put("warm", "up", None).await.unwrap();
    cluster.wait_until_caught_up(1).await;
    cluster.wait_until_caught_up(2).await;
    let before = cluster.scrape_broker(0).await.unwrap();
    let mut last = 0;
    for _ in 0..WRITES {
        last = client.put("k", vec![b'v'; VALUE_BYTES as usize], None).await.unwrap().position;
    }
    cluster.wait_until_caught_up(1).await;
    cluster.wait_until_caught_up(2).await;

    wait_until("the leader's metrics to match the writes", async || {
        let after = cluster.scrape_broker(0).await?;
        let grown = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
        for follower in ["1", "2"] {
            let labels = [("partition", "1"), ("follower", follower)];
            expect(grown("atomix_append_entries_rate_total", &labels), WRITES, WRITES, "entries appended")?;
            let bytes = grown("atomix_append_entries_data_rate_total", &labels);
            expect(bytes, WRITES * VALUE_BYTES, WRITES * (VALUE_BYTES + 100), "bytes appended")?;
            // Heartbeats are timed as well.
            let appends = grown("atomix_append_entries_latency_count", &labels);
            expect(appends, 1, 100_000, "appends timed")?;
        }
        // Counted once a second: entries from just before may come in late.
        expect(
            grown("atomix_commit_entries_rate_total", &PARTITIONS),
            WRITES,
            WRITES + 2,
            "entries committed",
        )?;
        let sent = grown("atomix_raft_messages_send_total", &[("type", "AppendRequest")]);
        expect(sent, 2, 100_000, "append requests sent")
    })
    .await;
    for node in 0..3 {
        wait_until(&format!("broker {node} to show the last position"), async || {
            let scrape = cluster.scrape_broker(node).await?;
            expect(
                scrape.sum("atomix_partition_raft_append_index", &PARTITIONS),
                last,
                last,
                "append index",
            )?;
            expect(
                scrape.sum("atomix_partition_raft_commit_index", &PARTITIONS),
                last,
                last,
                "commit index",
            )?;
            expect(scrape.sum("atomix_non_committed_entries", &PARTITIONS), 0, 0, "entries not committed")?;
            expect(scrape.sum("evenkeel_partition_records", &PARTITIONS), 2, 2, "records")?;
            expect(scrape.sum("zeebe_health", &PARTITIONS), 1, 1, "health")?;
            expect(scrape.sum("atomix_role", &PARTITIONS), if node == 0 { 3 } else { 1 }, 3, "role")
        })
        .await;
    }

    let gateway = cluster.scrape_gateway(0).await.unwrap();
    assert_eq!(
        gateway.value("evenkeel_gateway_requests_total", &[("method", "Put"), ("status", "OK")]),
        Some((WRITES + 1) as f64)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_shows_which_broker_leads_which_partition() {
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    let topology = cluster.wait_until_balanced().await;
    shows_leaders(&cluster, leaders(&topology)).await;
    cluster.kill(1);
    let topology = cluster.wait_until_abandoned(1).await;
    shows_leaders(&cluster, leaders(&topology)).await;
}

async fn shows_leaders(cluster: &Cluster, leaders: std::collections::BTreeMap<u32, u64>) {
    wait_until("the gateway's roles", async || {
        let scrape = cluster.scrape_gateway(0).await?;
        for (partition, leader) in &leaders {
            for broker in 0..3u64 {
                let role = role(&scrape, *partition, broker);
                if (broker == *leader) != (role == Some(3.0)) {
                    return Err(format!(
                        "partition {partition}, led by {leader}: broker {broker} has {role:?}"
                    ));
                }
            }
        }
        Ok(())
    })
    .await;
}

fn role(scrape: &Scrape, partition: u32, broker: u64) -> Option<f64> {
    let labels = [("partition", &*partition.to_string()), ("broker", &*broker.to_string())];
    scrape.value("zeebe_gateway_topology_partition_roles", &labels)
}

fn expect(value: f64, least: u64, most: u64, what: &str) -> Result<(), String> {
    let fits = (least as f64..=most as f64).contains(&value);
    if fits { Ok(()) } else { Err(format!("{what}: {value}, not {least} to {most}")) }
}
