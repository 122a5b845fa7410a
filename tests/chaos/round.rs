//! One round: a fresh cluster, load and faults for some time, then judgement.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::cluster::{BROKERS, Cluster, GATEWAYS, PARTITIONS};
use crate::faults::{Category, carry_out};
use crate::harness::{http, wait_until};
use crate::load::{Load, Recorded};
use crate::nemesis::{Fault, Schedule};

/// Between two of the operator's wishes, which never stop.
const OPERATOR_PAUSE_MS: std::ops::Range<u64> = 300..1_500;
/// A cluster that takes longer to be well again is worth a line.
const SETTLED_SOON: Duration = Duration::from_secs(4);
/// A broker stays drained this long.
const DRAINED_MS: std::ops::Range<u64> = 500..2_000;

/// What a round found out, if it was not a failure.
#[derive(Debug, Default)]
pub struct Findings {
    pub operations: usize,
    pub acknowledged: u64,
    pub faults: u32,
    /// Calls without a useful answer, by how.
    pub failures: BTreeMap<String, u64>,
    pub waits: BTreeMap<Category, Vec<Duration>>,
}

impl Findings {
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.faults += other.faults;
        for (how, count) in other.failures {
            *self.failures.entry(how).or_default() += count;
        }
        for (category, waits) in other.waits {
            self.waits.entry(category).or_default().extend(waits);
        }
    }

    pub fn print(&self, what: &str) {
        println!(
            "{what}: {} faults, {} operations, {} answered; without: {:?}",
            self.faults, self.operations, self.acknowledged, self.failures
        );
        for (category, waits) in &self.waits {
            let mut waits = waits.clone();
            waits.sort();
            let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize].as_millis();
            println!(
                "  writes waited after {:32} p50 {:5} ms   p99 {:5} ms   max {:5} ms   (of {}; goal for p99: {} ms)",
                category.name(),
                at(0.5),
                at(0.99),
                at(1.0),
                waits.len(),
                category.p99_goal().as_millis()
            );
        }
    }
}

/// Runs for about so long, whatever the seed brings. Panics when what clients saw cannot be explained.
pub async fn run(mut cluster: Cluster, seed: u64, length: Duration) -> Findings {
    cluster.wait_until_healthy().await;
    let load = Load::start(&cluster, format!("r{seed}"));
    let operator = tokio::spawn(operate(seed, (0..GATEWAYS).map(|gateway| cluster.api(gateway)).collect()));
    let mut findings = Findings::default();
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    for event in Schedule::new(seed, BROKERS, GATEWAYS) {
        if began.elapsed() >= length {
            break;
        }
        sleep(event.after).await;
        settle(&mut cluster, &load).await;
        println!(
            "{:6.1} s  {:?} for {} ms",
            began.elapsed().as_secs_f64(),
            event.fault,
            event.lasts.as_millis()
        );
        let led = led_by(&cluster, event.fault).await;
        let hurt_at = Instant::now();
        carry_out(&mut cluster, event, &mut random).await;
        settle(&mut cluster, &load).await;
        findings.faults += 1;
        if let Some(category) = Category::of(event.fault) {
            let waits = load.waits(hurt_at, hurt_at + event.lasts);
            let of_victim = waits.iter().filter(|(partition, _)| led.contains(partition));
            let of_victim: Vec<Duration> = of_victim.map(|(_, wait)| *wait).collect();
            if let Some(longest) = of_victim.iter().max().filter(|longest| **longest > category.p99_goal()) {
                println!("          writes waited {} ms", longest.as_millis());
            }
            // A broker that led nothing made nobody wait.
            if !of_victim.is_empty() {
                findings.waits.entry(category).or_default().extend(of_victim);
            }
        }
    }
    operator.abort();
    let _ = operator.await;
    undrain_all(&cluster).await;
    settle(&mut cluster, &load).await;
    let acknowledged = load.acknowledged();
    let recorded = load.stop(&cluster).await;
    findings.operations = recorded.history.operations().len();
    findings.acknowledged = acknowledged;
    findings.failures.clone_from(&recorded.failures);
    judge(recorded);
    wait_until("all replicas of every partition to hold the same", async || {
        replicas_are_equal(&cluster).await
    })
    .await;
    findings
}

/// Waits until the cluster is well and has acknowledged a write to every partition since: what is done next is done to a
/// whole cluster.
async fn settle(cluster: &mut Cluster, load: &Load) {
    let began = Instant::now();
    cluster.wait_until_healthy().await;
    let well_at = Instant::now();
    wait_until("a write to every partition", async || {
        if load.all_written_since(well_at) { Ok(()) } else { Err("some wait".to_owned()) }
    })
    .await;
    let written_at = Instant::now();
    cluster.wait_until_caught_up().await;
    if began.elapsed() > SETTLED_SOON {
        println!(
            "          well after {} ms, written to after {} ms, caught up after {} ms",
            (well_at - began).as_millis(),
            (written_at - began).as_millis(),
            began.elapsed().as_millis()
        );
    }
}

/// The partitions whose writes should feel the fault.
async fn led_by(cluster: &Cluster, fault: Fault) -> Vec<u32> {
    let Some(broker) = Category::broker(fault) else { return (1..=PARTITIONS).collect() };
    let topology = cluster.topology().await.unwrap();
    let led = topology.partitions.iter().filter(|partition| partition.leader == Some(broker as u64));
    led.map(|partition| partition.partition_id).collect()
}

/// Rebalances and drains, through whichever gateway, whatever comes of it.
async fn operate(seed: u64, gateways: Vec<String>) {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0be7_a702);
    loop {
        sleep(Duration::from_millis(random.random_range(OPERATOR_PAUSE_MS))).await;
        let api = &gateways[random.random_range(0..gateways.len())];
        if random.random_bool(0.6) {
            let _ = http(Method::POST, &format!("{api}/cluster/v2/rebalance")).await;
        } else {
            let drain = format!("{api}/cluster/v2/brokers/{}/drain", random.random_range(0..BROKERS));
            let _ = http(Method::PUT, &drain).await;
            sleep(Duration::from_millis(random.random_range(DRAINED_MS))).await;
            let _ = http(Method::DELETE, &drain).await;
        }
    }
}

async fn undrain_all(cluster: &Cluster) {
    for broker in 0..BROKERS {
        wait_until(&format!("broker {broker} to be drained no longer"), async || {
            let answer =
                http(Method::DELETE, &format!("{}/cluster/v2/brokers/{broker}/drain", cluster.api(0)))
                    .await?;
            if answer.status.is_success() { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
}

/// Nothing acknowledged is lost, nothing is applied twice, no linearizable read is stale, no watcher misses a change.
fn judge(recorded: Recorded) {
    if let Err(violation) = recorded.history.check() {
        panic!("{violation}");
    }
    if let Err(violation) = recorded.watches.check() {
        panic!("{violation}");
    }
}

async fn replicas_are_equal(cluster: &Cluster) -> Result<(), String> {
    for partition in 1..=PARTITIONS {
        let replicas = cluster.replicas(partition).await?;
        for (broker, replica) in replicas.iter().enumerate() {
            if replica != &replicas[0] {
                let differs = replica.iter().zip(&replicas[0]).find(|(one, other)| one != other);
                return Err(format!(
                    "partition {partition}: broker {broker} has {} records, broker 0 {}; {differs:?}",
                    replica.len(),
                    replicas[0].len()
                ));
            }
        }
    }
    Ok(())
}
