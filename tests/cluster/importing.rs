//! Records from a file.

use std::fmt::Write as _;

use evenkeel_client::{Client, ListQuery};
use rustix::process::Signal;

use crate::harness::{Cluster, Process, Spec, evenkeel, wait_until};

const LINES: usize = 3000;

async fn count(client: &Client) -> usize {
    let mut query = ListQuery { page_size: 1000, ..Default::default() };
    let mut count = 0;
    loop {
        let page = client.list(query.clone()).await.unwrap();
        assert!(page.records.iter().all(|record| record.version == 1), "a record was written twice");
        count += page.records.len();
        query.page_token = page.next_page_token;
        if query.page_token.is_empty() {
            return count;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_killed_goes_on_without_writing_anything_twice() {
    let cluster = Cluster::start(Spec::new(1, 3)).await;
    let client = cluster.client();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("records.jsonl");
    let mut lines = String::new();
    for i in 0..LINES {
        writeln!(lines, r#"{{"name":"package-{i:05}","description":"what package {i} is for"}}"#).unwrap();
    }
    std::fs::write(&file, lines).unwrap();
    let gateway = format!("--gateway=127.0.0.1:{}", cluster.ports.gateways[0][0]);
    // One write at a time, so that it can be caught half-way.
    let slow = ["import", file.to_str().unwrap(), "--key", "name", "--in-flight", "1", &gateway];
    let mut import = Process::start("import", slow, &folder.path().join("import.log"));
    let written = wait_until("some records to be imported", async || match count(&client).await {
        0 => Err("none yet".to_owned()),
        some => Ok(some),
    })
    .await;
    import.signal(Signal::KILL);
    import.ended().await;
    assert!(written < LINES, "the import was over before it could be killed");

    let args = ["import", file.to_str().unwrap(), "--key", "name", "--output", "json", &gateway];
    let output = evenkeel(args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [fresh, there] = ["written", "already_there"].map(|field| summary[field].as_u64().unwrap() as usize);
    assert_eq!(fresh + there, LINES, "{summary}");
    assert!(fresh > 0 && there >= written, "{summary}");
    assert_eq!(count(&client).await, LINES);
}
