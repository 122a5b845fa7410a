//! What an operator sees and does from the loss of a broker until the cluster is balanced again.

use crate::assert_clean;
use crate::chromium::{Page, installed};
use crate::harness::{Cluster, HeldRun, PATIENT_LEASE, PATIENT_STAGGER, Spec};

const RECORDS: usize = 120;

async fn put_records(cluster: &Cluster) {
    let client = cluster.client();
    let writes = (0..RECORDS).map(|i| client.put(format!("order-{i}"), "v".repeat(200), None));
    futures::future::try_join_all(writes).await.unwrap();
}

/// The same page on dark ground.
async fn in_the_dark(page: &Page, name: &str) {
    page.scheme("dark").await;
    page.picture(name).await;
    page.scheme("light").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_seen_as_it_happens_and_a_rebalance_through_the_dialogue_makes_it_balanced() {
    if !installed() {
        return;
    }
    let spec = Spec::new(3, 12).broker("raft.stagger", PATIENT_STAGGER);
    let mut cluster = Cluster::start_balanced(spec).await;
    put_records(&cluster).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    page.go(&origin).await;
    page.until("#verdict", "balanced", |text| text == "Healthy and balanced.").await;
    page.until_contains("#connection", "live").await;
    page.picture("console-balanced").await;

    cluster.kill(1);
    page.until_contains("#verdict", "Broker 1 is away").await;
    cluster.wait_until_abandoned(1).await;
    page.until_contains("section[aria-labelledby=changes]", "broker 1").await;
    page.picture("console-failover").await;
    page.go(&cluster.api("/#/partitions")).await;
    page.until_true("document.querySelectorAll('#matrix .away').length === 12").await;
    page.until_true("document.querySelectorAll('#matrix .leader.off').length === 4").await;
    put_records(&cluster).await;
    page.picture("console-matrix-failover").await;
    page.go(&cluster.api("/#/partitions/2")).await;
    page.until_contains("main", "its primary and should").await;
    page.until_true("document.querySelectorAll('.timeline rect').length > 1").await;
    page.picture("console-partition").await;

    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    page.go(&origin).await;
    page.until("#verdict", "unbalanced", |text| text.starts_with("Healthy, but 4 leaders of 12")).await;
    page.click("#compare").await;
    page.until_contains("section[aria-labelledby=loads]", "A rebalance now would move 4 partitions.").await;
    page.picture("console-overview").await;
    in_the_dark(&page, "console-overview-dark").await;
    page.go(&cluster.api("/#/partitions")).await;
    page.until_true("document.querySelectorAll('#matrix .away').length === 0").await;
    page.picture("console-matrix").await;
    in_the_dark(&page, "console-matrix-dark").await;

    page.click("#rebalance").await;
    page.until("#plan-sentence", "the plan", |text| text == "4 partitions would move, 8 stay.").await;
    let dialogue = page.until_contains("dialog", "evenkeel rebalance --plan ").await;
    assert!(dialogue.contains(&format!("curl -X POST {origin}cluster/v2/rebalance -d")), "{dialogue}");
    assert!(dialogue.contains("Broker 1 takes"), "{dialogue}");
    page.picture("console-rebalance").await;
    in_the_dark(&page, "console-rebalance-dark").await;
    page.click("#start").await;
    let done = page.until("#run-state", "its end", |text| text.starts_with("Completed")).await;
    assert_eq!(done, "Completed: 4 moved.");
    page.until_true("location.hash === '#/runs/1' && !document.querySelector('dialog')").await;
    page.picture("console-run").await;
    page.click("header .brand").await;
    page.until("#verdict", "balanced", |text| text == "Healthy and balanced.").await;
    cluster.wait_until_balanced().await;

    page.click("#pages a[href='#/history']").await;
    page.until_contains("main", "4 moved").await;
    page.picture("console-history").await;
    page.click("#pages a[href='#/audit']").await;
    page.until_contains("main", "anonymous").await;
    page.picture("console-audit").await;
    assert_clean(&page, &origin, |_| false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_followed_and_cancelled_on_its_page() {
    if !installed() {
        return;
    }
    let mut cluster = Cluster::start_balanced(HeldRun::spec(1)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    page.go(&origin).await;
    page.until_contains("section[aria-labelledby=under-way]", "Rebalance 1").await;
    page.click("section[aria-labelledby=under-way] a").await;
    page.until_contains("#run-state", "Under way: 0 of 3 done").await;
    page.until_contains("main", "moving").await;
    page.picture("console-run-under-way").await;
    page.click("#cancel").await;
    page.until_contains("#run-state", "Cancelling").await;
    HeldRun::let_go(&mut cluster);
    page.until("#run-state", "its end", |text| text.starts_with("Cancelled")).await;
    let run = cluster.rebalance_api(0).finished(held.id).await;
    assert_eq!(run["result"], "CANCELLED", "{run}");
    assert_clean(&page, &origin, |_| false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_it_skips_and_why_and_a_broker_is_drained_and_undrained() {
    if !installed() {
        return;
    }
    let spec = Spec::new(3, 6).broker("raft.lease", PATIENT_LEASE);
    let mut cluster = Cluster::start_balanced(spec).await;
    let page = Page::open().await;
    let origin = cluster.api("/");
    page.go(&cluster.api("/#/brokers/2")).await;
    page.until_contains("main", "free of").await;
    page.click("#drain").await;
    page.click("#confirm-drain").await;
    page.until("#run-state", "its end", |text| text == "Completed: 2 moved.").await;
    page.go(&cluster.api("/#/brokers/2")).await;
    page.until_contains("main", "Leads\n0 of 6 replicas").await;
    page.until_contains("section[aria-labelledby=risk]", "safe to restart").await;
    page.picture("console-broker").await;
    page.click("#undrain").await;
    page.until_contains("#drain", "Drain").await;

    // It should lead two, and cannot be asked.
    cluster.kill(2);
    page.until_contains("main .tools", "away").await;
    page.click("#rebalance").await;
    page.until_contains("#plan-sentence", "skipped").await;
    let told = page.until_contains("dialog", "PRIMARY_UNREACHABLE").await;
    assert!(told.contains("Skipped, and why") && told.contains("broker 2"), "{told}");
    page.picture("console-skips").await;
    page.until_true("document.querySelector('#start').disabled").await;
    assert_clean(&page, &origin, |_| false);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dialogue_shows_for_a_terminal_does_the_same() {
    if !installed() {
        return;
    }
    let cluster = Cluster::start_balanced(Spec::new(3, 3).broker("raft.lease", PATIENT_LEASE)).await;
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_evenkeel"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let page = Page::open().await;
    let origin = cluster.api("/");
    for program in ["evenkeel ", "curl "] {
        cluster.give(1, 1).await;
        page.go(&origin).await;
        page.until_contains("#verdict", "1 leader of 3").await;
        page.click("#rebalance").await;
        page.until_contains("#plan-sentence", "1 partition would move").await;
        let shown = page.until_contains("dialog", program).await;
        let command = shown.lines().find(|line| line.starts_with(program)).unwrap();
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", command]).env("PATH", &path).env("EVENKEEL_API", cluster.api(""));
        let output = shell.kill_on_drop(true).output().await.unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        cluster.wait_until_balanced().await;
        page.press("Escape").await;
        page.until("#verdict", "balanced", |text| text == "Healthy and balanced.").await;
    }
    assert_clean(&page, &origin, |_| false);
}
