//! A replica whose files were damaged is refused at the start and fetched from its peers, and nothing acknowledged is lost
//! while it has forgotten what it promised.

use std::path::{Path, PathBuf};

use evenkeel_client::{Client, ListQuery};
use evenkeel_protocol::internal::v1::{BrokerListRequest, broker_list_response};
use evenkeel_protocol::v1::{Consistency, Record};

use crate::harness::{Cluster, Load, Spec, evenkeel, wait_until};

const PARTITIONS: u32 = 3;
const HURT: usize = 2;

fn spec() -> Spec {
    Spec::new(3, PARTITIONS)
        .broker("data.segment_bytes_max", 16 << 10)
        .broker("raft.snapshot_after_entries", 300)
        .broker("raft.log_entries_kept", 100)
}

/// The broker's log segments, oldest first.
fn segments(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let mut segments: Vec<PathBuf> = files_below(&cluster.data_directory(node).join("log"));
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    segments
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

fn flip_bit(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// Offset of the first byte of `text`, which is inside a record's value, from `from` on.
fn find(path: &Path, from: usize, text: &[u8]) -> usize {
    let bytes = std::fs::read(path).unwrap();
    from + bytes[from..].windows(text.len()).position(|window| window == text).unwrap()
}

/// Starts the damaged broker, which must end at once; returns its one line of error.
async fn refusal(cluster: &mut Cluster) -> String {
    cluster.restart(HURT);
    let status = cluster.brokers[HURT].ended().await;
    let log = cluster.brokers[HURT].log();
    assert_eq!(status.code(), Some(2), "{log}");
    let error = log.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap();
    error.to_owned()
}

/// Runs the command that a refusal names, on the broker's own configuration.
async fn follow(cluster: &Cluster, refusal: &str) -> String {
    let (_, rest) = refusal.split_once("`evenkeel ").unwrap();
    let (command, _) = rest.split_once('`').unwrap();
    run(cluster, HURT, command).await
}

async fn run(cluster: &Cluster, node: usize, command: &str) -> String {
    let file = cluster.config_file(node).display().to_string();
    let args = command.split(' ').map(|word| if word == "FILE" { file.clone() } else { word.to_owned() });
    let output = evenkeel(args).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{command}: {told}");
    told
}

/// Waits until none of the broker's replicas is being rebuilt any more.
async fn wait_until_whole(cluster: &Cluster, node: usize, at_least: usize) {
    wait_until("every replica to be rebuilt", async || {
        let rebuilding = cluster.scrape_broker(node).await?.values("evenkeel_replica_rebuilding", &[]);
        match rebuilding.len() >= at_least && rebuilding.iter().all(|value| *value == 0.0) {
            true => Ok(()),
            false => Err(format!("{rebuilding:?}")),
        }
    })
    .await;
    cluster.wait_until_caught_up(node).await;
}

/// A partition's records as one broker has them, without asking the leader.
async fn records_on(cluster: &Cluster, node: usize, partition: u32) -> Result<Vec<Record>, String> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let request = BrokerListRequest {
            partition_id: partition,
            after_key: records.last().map_or_else(Default::default, |record| record.key.clone()),
            limit: 1000,
            stale: true,
            bytes_max: 2 << 20,
            ..Default::default()
        };
        let answer = cluster.broker_service(node).list(request).await.map_err(|status| status.to_string())?;
        match answer.into_inner().result {
            Some(broker_list_response::Result::Page(page)) => {
                records.extend(page.records);
                if !page.more {
                    return Ok(records);
                }
            }
            other => return Err(format!("{other:?}")),
        }
    }
}

async fn wait_until_equal(cluster: &Cluster) {
    for partition in 1..=PARTITIONS {
        wait_until(&format!("equal replicas of partition {partition}"), async || {
            let [first, second, third] = [
                records_on(cluster, 0, partition).await?,
                records_on(cluster, 1, partition).await?,
                records_on(cluster, 2, partition).await?,
            ];
            let equal = first == second && second == third;
            if equal { Ok(()) } else { Err(format!("{} {} {}", first.len(), second.len(), third.len())) }
        })
        .await;
    }
}

async fn write_some(client: &Client, name: &str, count: usize) {
    for i in 0..count {
        client.put(format!("{name}-{i:04}"), format!("value-of-{name}-{i:04}"), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_in_any_segment_is_refused_with_the_place_and_the_partition_fetched_from_its_peers() {
    let mut cluster = Cluster::start(spec()).await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 4);
    write_some(&client, "old", 200).await;
    for sealed in [true, false] {
        write_some(&client, if sealed { "sealed" } else { "active" }, 40).await;
        cluster.wait_until_caught_up(HURT).await;
        cluster.kill(HURT);
        let segments = segments(&cluster, HURT);
        assert!(segments.len() >= 2, "{segments:?}");
        let path = if sealed { &segments[segments.len() - 2] } else { &segments[segments.len() - 1] };
        // Every checkpoint ends long before a client's key or value can come; the first entry is not the last frame.
        let offset = find(path, 0, b"load-");
        flip_bit(path, offset);

        let refusal = refusal(&mut cluster).await;
        assert!(refusal.contains(&path.display().to_string()), "{refusal}");
        assert!(refusal.contains("is corrupt at byte "), "{refusal}");
        assert!(refusal.contains("`evenkeel broker rebuild --config FILE --partition "), "{refusal}");
        assert_eq!(
            refusal.matches("--partition").count(),
            1,
            "a bit of an entry is one partition's: {refusal}"
        );
        let told = follow(&cluster, &refusal).await;
        assert!(told.contains("log.replaced-"), "{told}");

        // The others have served all the while.
        load.progress(50).await;
        cluster.restart(HURT);
        wait_until_whole(&cluster, HURT, 1).await;
    }
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&client).await;
    wait_until_equal(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_in_a_table_of_the_state_database_is_refused_and_every_replica_fetched() {
    // Within the first block, which holds rows.
    a_bit_flipped_in_the_state_database_is_refused("tables", 512, |_| 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_in_a_large_value_is_refused_and_every_replica_fetched() {
    a_bit_flipped_in_the_state_database_is_refused("blobs", 1 << 20, |length| length / 2).await;
}

/// Flips one in the largest file of `folder`, once that has more than `bytes_min`.
async fn a_bit_flipped_in_the_state_database_is_refused(
    folder: &str,
    bytes_min: u64,
    at: impl Fn(usize) -> usize,
) {
    let mut cluster = Cluster::start(spec()).await;
    let client = cluster.client();
    // A table is written every 32 MiB; a value is stored twice, as the record and as the change.
    let large = vec![b'x'; 1 << 20];
    for i in 0..24 {
        client.put(format!("large-{i:02}"), large.clone(), None).await.unwrap();
    }
    write_some(&client, "small", 50).await;
    cluster.wait_until_caught_up(HURT).await;
    let state = cluster.data_directory(HURT).join("state");
    let largest = || {
        let files = files_below(&state)
            .into_iter()
            .filter(|path| path.parent().is_some_and(|parent| parent.ends_with(folder)));
        files.max_by_key(|path| std::fs::metadata(path).map_or(0, |meta| meta.len()))
    };
    wait_until("a large file", async || match largest().and_then(|path| std::fs::metadata(path).ok()) {
        Some(meta) if meta.len() > bytes_min => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Orderly, so that none is half written.
    cluster.brokers[HURT].signal(rustix::process::Signal::TERM);
    cluster.brokers[HURT].ended().await;
    let damaged = largest().unwrap();
    flip_bit(&damaged, at(usize::try_from(std::fs::metadata(&damaged).unwrap().len()).unwrap()));

    let refusal = refusal(&mut cluster).await;
    assert!(refusal.contains(&damaged.display().to_string()), "{refusal}");
    assert!(refusal.contains("is corrupt at byte "), "{refusal}");
    let file = cluster.config_file(HURT).display().to_string();
    let too_few = evenkeel(["broker", "rebuild", "--config", &file, "--partition", "1"]).await;
    let told = String::from_utf8(too_few.stderr).unwrap();
    assert!(
        !too_few.status.success() && told.contains("more is damaged") && told.contains("--all"),
        "{told}"
    );
    follow(&cluster, &refusal).await;
    write_some(&client, "meanwhile", 20).await;
    cluster.restart(HURT);
    wait_until_whole(&cluster, HURT, 1 + PARTITIONS as usize).await;
    wait_until_equal(&cluster).await;
    let listed = client.list(ListQuery { page_size: 1000, prefix: "s".into(), ..Default::default() });
    assert_eq!(listed.await.unwrap().records.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_forgot_helps_nobody_win_who_lacks_an_acknowledged_write() {
    // Only brokers 0 and 2 have the write, and 2 forgets it: together with 1, which never had it, it is a majority.
    let mut cluster = Cluster::start_balanced(Spec::new(3, 1)).await;
    cluster.give(1, 0).await;
    let client = cluster.client();
    client.put("before", "1", None).await.unwrap();
    cluster.wait_until_caught_up(1).await;
    cluster.kill(1);
    client.put("acknowledged", "by 0 and 2", None).await.unwrap();
    cluster.kill(2);
    cluster.kill(0);
    let told = run(&cluster, 2, "broker rebuild --config FILE --all").await;
    assert!(told.contains("no vote"), "{told}");
    cluster.restart(1);
    cluster.restart(2);

    // Broker 1 stands again and again, with a peer within reach and no vote to be had.
    let missed = async || -> Result<f64, String> {
        Ok(cluster.scrape_broker(1).await?.sum("atomix_heartbeat_miss_count_total", &[]))
    };
    wait_until("several candidacies of broker 1", async || match missed().await? {
        times if times >= 12.0 => Ok(()),
        times => Err(format!("{times}")),
    })
    .await;
    let scrape = cluster.scrape_broker(1).await.unwrap();
    assert_eq!(scrape.sum("evenkeel_elections_won_total", &[]), 0.0);
    let rebuilding = cluster.scrape_broker(2).await.unwrap().values("evenkeel_replica_rebuilding", &[]);
    assert_eq!(rebuilding, [1.0, 1.0], "the partition and the system group");

    // With the one that has it everything comes back.
    cluster.restart(0);
    wait_until_whole(&cluster, 2, 2).await;
    let record = client.get("acknowledged", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(&*record.value, b"by 0 and 2");
    // Now it counts: it and broker 1 are a majority that has the write.
    cluster.wait_until_caught_up(1).await;
    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    client.put("after", "2", None).await.unwrap();
    assert!(client.get("acknowledged", Consistency::Linearizable).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_disk_was_lost_is_fetched_whole_and_where_that_is_not_safe_it_is_refused() {
    let mut cluster = Cluster::start(spec()).await;
    let client = cluster.client();
    write_some(&client, "kept", 400).await;
    cluster.wait_until_caught_up(HURT).await;
    cluster.kill(HURT);
    std::fs::remove_dir_all(cluster.data_directory(HURT)).unwrap();
    run(&cluster, HURT, "broker rebuild --config FILE --all").await;
    write_some(&client, "meanwhile", 50).await;
    cluster.restart(HURT);
    wait_until_whole(&cluster, HURT, 1 + PARTITIONS as usize).await;
    wait_until_equal(&cluster).await;

    // While it runs, and in a cluster whose other replicas are no majority.
    let file = cluster.config_file(HURT).display().to_string();
    let running = evenkeel(["broker", "rebuild", "--config", &file, "--all"]).await;
    let told = String::from_utf8(running.stderr).unwrap();
    assert!(running.status.code() == Some(2) && told.contains("locked by a running broker"), "{told}");
    drop(cluster);
    let mut pair = Cluster::start(Spec::new(2, 1)).await;
    pair.kill(1);
    let file = pair.config_file(1).display().to_string();
    let refused = evenkeel(["broker", "rebuild", "--config", &file, "--partition", "1"]).await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && told.contains("fewer than 3 replicas"), "{told}");
}
