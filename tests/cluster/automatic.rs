//! A cluster that rebalances without being asked.

use crate::harness::{Cluster, Load, Spec, leads_per_broker, wait_until};

const ROUNDS: &str = "evenkeel_rebalance_automatic_rounds_total";

async fn until_round(cluster: &Cluster, outcome: &str) {
    wait_until(&format!("a round that is {outcome}"), async || {
        let scrape = cluster.scrape_gateway(0).await?;
        match scrape.sum(ROUNDS, &[("outcome", outcome)]) {
            0.0 => Err(format!("none of {:?}", scrape.values(ROUNDS, &[]))),
            _ => Ok(()),
        }
    })
    .await;
}

fn spec() -> Spec {
    Spec::new(3, 6)
        .gateway("rebalance.idle_window", "1s")
        .gateway("rebalance.interval", "1s")
        .gateway("rebalance.cool_down", "0s")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skewed_cluster_is_evened_out_once_it_is_idle_and_not_while_it_is_busy() {
    let spec = spec().gateway("rebalance.automatic", "when-idle").gateway("rebalance.idle_bytes_per_s", 200);
    let mut cluster = Cluster::start(spec).await;
    cluster.wait_until_balanced().await;
    until_round(&cluster, "balanced").await;
    let load = Load::without_retries(cluster.records(), 4);
    load.progress(100).await;
    cluster.kill(2);
    cluster.wait_until_abandoned(2).await;
    cluster.restart(2);
    cluster.wait_until_caught_up(2).await;
    until_round(&cluster, "busy").await;
    assert_eq!(leads_per_broker(&cluster.topology().await)[2], 0, "a busy cluster is left alone");
    load.stop().await;

    let topology = cluster.wait_until_balanced().await;
    assert_eq!(leads_per_broker(&topology), [2, 2, 2]);
    until_round(&cluster, "started").await;
    let log = cluster.gateways[0].log();
    assert!(log.contains("not rebalancing now: the cluster is busy"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_schedule_it_is_evened_out_at_the_next_time_that_finds_it_idle() {
    // Six fields: every second.
    let spec =
        spec().gateway("rebalance.automatic", "scheduled").gateway("rebalance.schedule", "* * * * * *");
    let mut cluster = Cluster::start(spec).await;
    cluster.wait_until_balanced().await;
    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    cluster.restart(0);
    cluster.wait_until_balanced().await;
    until_round(&cluster, "started").await;
}
