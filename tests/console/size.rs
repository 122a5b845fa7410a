//! A large cluster: a thousand partitions on five brokers, as the gateway would stream them.

use crate::assert_clean;
use crate::chromium::{Page, installed};
use crate::harness::{Cluster, Spec};

/// Stands in for the stream of the topology, in its format; all else is the gateway's. `window.change(partition, leader)`
/// tells of a new leader.
const LARGE: &str = r#"(() => {
    const partition = (id, leader, term) => ({
        partitionId: id, leader, primary: (id - 1) % 5, term, records: id, balanced: leader === (id - 1) % 5, quorumMargin: 1,
        replicas: [0, 1, 2].map((j) => (id - 1 + j) % 5).map((nodeId, j) => ({
            nodeId, role: nodeId === leader ? "leader" : "follower", health: "healthy", priority: 3 - j, lagEntries: 0, lagBytes: 0 })),
    });
    const partitions = Array.from({ length: 1000 }, (_, i) => partition(i + 1, i % 5, 1));
    const brokers = [0, 1, 2, 3, 4].map((nodeId) => ({ nodeId, host: "b", port: 1, version: "1", uuid: "u", reachable: true, drained: false,
        stopping: false, leaders: 200, primaries: 200, replicas: 600, records: 1, replicatedBytesTotal: 0, diskFreeBytes: 1, diskSizeBytes: 2, certificateExpiresAt: null }));
    const snapshot = { clusterSize: 5, partitionsCount: 1000, replicationFactor: 3, priorityElection: true, gatewayVersion: "1", systemLeader: 0, brokers, partitions };
    const real = window.fetch;
    window.fetch = (path, options) => {
        if (path !== "/cluster/v2/topology/events") return real(path, options);
        const encoder = new TextEncoder();
        const body = new ReadableStream({
            start(stream) {
                const send = (name, data) => stream.enqueue(encoder.encode(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`));
                send("snapshot", snapshot);
                window.change = (id, leader) => send("changed", { brokers: [], partitions: [partition(id, leader, 2)] });
            },
        });
        return Promise.resolve(new Response(body));
    };
})()"#;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_partitions_on_five_brokers_only_what_changed_is_drawn_anew() {
    if !installed() {
        return;
    }
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    page.prepare(LARGE).await;
    page.go(&cluster.api("/#/partitions")).await;
    page.until_true("document.querySelectorAll('#matrix tbody tr').length === 1000").await;
    page.until_contains("#shown", "1,000 partitions").await;
    page.picture("console-large").await;
    // What is marked was drawn once and not again.
    page.value("document.querySelectorAll('#matrix td').forEach((cell) => { cell.marked = true; cell.text = cell.innerText; })").await;
    page.value("change(500, 1)").await;
    page.until_true("document.querySelectorAll('#matrix .leader.off').length === 1").await;
    let others = "[...document.querySelectorAll('#matrix td')].filter((cell) => !cell.marked).length";
    assert_eq!(page.value(others).await, 0, "elements were made anew");
    page.value("(() => { const select = document.querySelector('#filter'); select.value = 'off'; select.onchange({target: select}); })()").await;
    page.until_contains("#shown", "1 of 1,000 partitions").await;
    page.value("change(7, 3)").await;
    page.until_contains("#shown", "2 of 1,000 partitions").await;
    page.value("change(500, 4)").await;
    page.until_contains("#shown", "1 of 1,000 partitions").await;
    page.go(&cluster.api("/#/")).await;
    page.until_contains("#verdict", "1 leader of 1,000").await;
    assert_clean(&page, &origin, |_| false);
}
