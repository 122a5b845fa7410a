//! Anything may happen to one broker at a time, at any moment: what was acknowledged stays, once.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::harness::{Cluster, Load, Spec, wait_until};

const BROKERS: usize = 3;
const EVENTS: u32 = 12;
/// Sets the seed, to go the way of a failed run again as far as timing allows.
const SEED_VARIABLE: &str = "CHAOS_SEED";

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_stops_pauses_and_rebalances_lose_and_repeat_no_acknowledged_write() {
    let seed = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("replay with {SEED_VARIABLE}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let spec = Spec::new(BROKERS as u64, 6)
        .broker("raft.snapshot_after_entries", 200)
        .broker("raft.log_entries_kept", 50);
    let mut cluster = Cluster::start(spec).await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 6);
    load.progress(100).await;
    for _ in 0..EVENTS {
        let node = random.random_range(0..BROKERS);
        let moment = Duration::from_millis(random.random_range(0..900));
        match random.random_range(0..4) {
            0 => {
                println!("kill broker {node} for {moment:?}");
                cluster.kill(node);
                tokio::time::sleep(moment).await;
                cluster.restart(node);
            }
            1 => {
                println!("pause broker {node} for {moment:?}");
                cluster.pause(node);
                tokio::time::sleep(moment).await;
                cluster.resume(node);
            }
            2 => {
                println!("stop broker {node}, start it after {moment:?}");
                cluster.brokers[node].signal(Signal::TERM);
                cluster.brokers[node].ended().await;
                tokio::time::sleep(moment).await;
                cluster.restart(node);
            }
            _ => {
                println!("rebalance, and kill broker {node} meanwhile");
                assert_eq!(cluster.rebalance().await.status.as_u16(), 200);
                cluster.kill(node);
                cluster.restart(node);
            }
        }
        if random.random_bool(0.5) {
            cluster.rebalance().await;
        }
        // The others must be a majority when the next one is hurt.
        cluster.wait_until_caught_up(node).await;
        load.progress(30).await;
    }
    let ledger = load.stop().await;
    ledger.assert_no_failures();
    ledger.check(&client).await;
    wait_until("the balance to come back on demand", async || {
        cluster.rebalance().await;
        let topology = cluster.topology().await;
        let misplaced = topology.partitions.iter().filter(|partition| partition.leader != partition.primary);
        match misplaced.map(|partition| partition.partition_id).collect::<Vec<_>>()[..] {
            [] => Ok(()),
            ref misplaced => Err(format!("partitions {misplaced:?} are not led by their primaries")),
        }
    })
    .await;
}
