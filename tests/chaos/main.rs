//! Real processes on real, if virtual, networks and disks, and a nemesis that never rests.
//!
//! Three brokers and two gateways run on hosts of their own ([`network`]). Clients read and write all the while ([`load`])
//! and record everything; the nemesis kills, pauses, cuts, fills disks and flips bits ([`nemesis`], [`faults`]), and an
//! operator rebalances and drains ([`round`]). In the end the recorded history is judged: `evenkeel-history`.
//!
//! ```sh
//! cargo test -p evenkeel-cli --test chaos -- --nocapture                  # a round of a minute
//! CHAOS_MINUTES=480 cargo test -p evenkeel-cli --test chaos -- --nocapture  # rounds of 90 s, for a night
//! CHAOS_SEED=7 cargo test -p evenkeel-cli --test chaos -- --nocapture       # the schedule of a round again
//! ```
//!
//! Where this machine has no network namespaces (root, iproute2 and nftables are needed) it says SKIPPED, unless
//! `EVENKEEL_REQUIRE_CHAOS` is set.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod cluster;
mod faults;
#[path = "../cluster/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the stories in tests/cluster use all of it")]
mod harness;
mod load;
mod nemesis;
mod network;
mod round;

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::round::Findings;

const SHORT: Duration = Duration::from_secs(60);
/// Of one round, when there is time for several.
const ROUND: Duration = Duration::from_secs(90);

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_processes_network_and_disks_nothing_acknowledged_is_lost_or_done_twice() {
    let first_seed = setting("CHAOS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let minutes: Option<f64> = setting("CHAOS_MINUTES");
    let length = minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let began = Instant::now();
    let mut all = Findings::default();
    let mut rounds = 0;
    while rounds == 0 || began.elapsed() + ROUND / 2 < length {
        let seed = first_seed + rounds;
        let cluster = match Cluster::start() {
            Ok(cluster) => cluster,
            Err(why) if std::env::var_os("EVENKEEL_REQUIRE_CHAOS").is_none() => {
                println!("SKIPPED: there is no chaos here: {why}");
                return;
            }
            Err(why) => panic!("there is no chaos here: {why}"),
        };
        println!("\nround with CHAOS_SEED={seed}");
        let findings = round::run(cluster, seed, length.min(ROUND)).await;
        findings.print(&format!("CHAOS_SEED={seed}"));
        all.add(findings);
        rounds += 1;
    }
    if rounds > 1 {
        all.print(&format!("{rounds} rounds, {:.0} minutes", began.elapsed().as_secs_f64() / 60.0));
    }
}
