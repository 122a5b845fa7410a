//! One seed: a cluster, its users, its troubles, and what is left of it in the end.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use evenkeel_gateway::{InProcess, Options};
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;
use tempfile::TempDir;
use turmoil::{Builder, Sim};

use crate::chance::Chance;
use crate::clients::{Client, Operator, read_back, watch};
use crate::machine::{Machine, Shape, contacts, name};
use crate::nemesis::{Clocks, GATEWAY, LATENCY_MAX, Nemesis};
use crate::witness::{Shared, Witness};
use crate::{network, process};

/// After the last fault every partition has a leader within this.
const LED_WITHIN: Duration = Duration::from_secs(12);
/// And all replicas hold the same within this.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);
const BROKERS: usize = 3;
const LATENCY_MIN: Duration = Duration::from_micros(200);
const TICK: Duration = Duration::from_millis(1);
/// Segments under way on one connection, far above what flow control lets grow.
const SEGMENTS_MAX: usize = 1 << 16;

/// What is asked of a run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// With faults.
    pub simulated: Duration,
    /// Prints the trace as it comes.
    pub loud: bool,
}

/// What came of it.
pub struct Report {
    pub failure: Option<String>,
    pub hash: u64,
    pub events: u64,
    pub counts: BTreeMap<&'static str, u64>,
    /// How long partitions were without leader after the last fault.
    pub led_after: Duration,
    pub tail: Vec<String>,
}

/// Simulates one seed. This process is good for nothing else afterwards.
///
/// # Errors
/// When the run could not be set up.
pub fn run(plan: Plan) -> anyhow::Result<Report> {
    let folders = prepare()?;
    process::simulate(plan.seed);
    let mut chance = Chance::new(plan.seed, "shape");
    let shape = Shape {
        brokers: BROKERS,
        partitions: 2,
        snapshot_after_entries: chance.between(40, 400),
        log_entries_kept: chance.between(10, 100),
    };
    let clocks = match chance.between(0, 10) {
        0..5 => Clocks::Right,
        5..8 => Clocks::Drifting,
        _ => Clocks::Wild,
    };
    let shared: Shared = Arc::new(Mutex::new(Witness::new(shape.brokers, clocks != Clocks::Wild, plan.loud)));
    shared.lock().note(&format!("seed {}: {shape:?}, clocks {clocks:?}", plan.seed));
    fail_on_panic(&shared);
    let mut sim = Builder::new()
        .tick_duration(TICK)
        .simulation_duration(Duration::MAX)
        .epoch(std::time::SystemTime::now())
        .min_message_latency(LATENCY_MIN)
        .max_message_latency(LATENCY_MAX)
        .tcp_capacity(SEGMENTS_MAX)
        .enable_random_order()
        .rng_seed(plan.seed)
        .build();
    let machines: Vec<_> = folders
        .into_iter()
        .enumerate()
        .map(|(node, folder)| Machine::new(node, folder, shape.clone()))
        .collect();
    for machine in &machines {
        let (machine, shared) = (machine.clone(), shared.clone());
        sim.host(name(machine.node), move || {
            let (machine, shared) = (machine.clone(), shared.clone());
            async move {
                machine.run(shared).await;
                Ok(())
            }
        });
    }
    {
        let (shared, shape) = (shared.clone(), shape.clone());
        sim.host(GATEWAY, move || use_cluster(plan.seed, shared.clone(), shape.clone()));
    }
    let mut nemesis = Nemesis::new(plan.seed, machines, clocks);
    let led_after = drive(plan, &shape, &mut sim, &mut nemesis, &shared);
    let mut witness = shared.lock();
    Ok(Report {
        failure: witness.failure.clone(),
        hash: witness.trace.hash(),
        events: witness.trace.count(),
        counts: std::mem::take(&mut witness.counts),
        led_after,
        tail: witness.trace.tail().map(str::to_owned).collect(),
    })
}

/// Steps through the time with faults and the time after them. Returns how long it took until all partitions were led.
fn drive(plan: Plan, shape: &Shape, sim: &mut Sim<'_>, nemesis: &mut Nemesis, shared: &Shared) -> Duration {
    while sim.elapsed() < plan.simulated {
        nemesis.act(sim.elapsed(), sim, shared);
        if !step(sim, shared) {
            return Duration::ZERO;
        }
    }
    nemesis.heal(sim, shared);
    shared.lock().quiet = true;
    let healed_at = sim.elapsed();
    let mut led_after = None;
    loop {
        // Disks that failed still end their brokers, which are started again.
        nemesis.act(sim.elapsed(), sim, shared);
        if !step(sim, shared) {
            return Duration::ZERO;
        }
        let since = sim.elapsed() - healed_at;
        let mut witness = shared.lock();
        if led_after.is_none() && witness.is_led(shape.partitions) {
            led_after = Some(since);
        }
        if led_after.is_none() && since > LED_WITHIN {
            witness.fail(format!("a partition is without leader {LED_WITHIN:?} after the last fault"));
            return since;
        }
        let read_back = witness.read_back == keys(shape);
        let settled = read_back && witness.is_settled(shape.partitions);
        drop(witness);
        if settled && nemesis.all_run(shared) {
            break;
        }
        if since > SETTLED_WITHIN {
            let mut witness = shared.lock();
            let read = witness.read_back;
            let states: Vec<String> = witness
                .replicas()
                .iter()
                .map(|(node, seen)| {
                    format!(
                        "broker {node} partition {}: term {}, leads {:?}, applied {}, appended {}",
                        seen.partition, seen.term, seen.leads, seen.applied, seen.appended
                    )
                })
                .collect();
            let states = states.join("\n");
            witness.fail(format!(
                "{SETTLED_WITHIN:?} after the last fault {read} of {} keys were read back, and:\n{states}",
                keys(shape)
            ));
            return since;
        }
    }
    let mut witness = shared.lock();
    witness.check_replicas_are_equal();
    witness.check_records();
    led_after.unwrap_or_default()
}

/// One tick; false once something has failed.
fn step(sim: &mut Sim<'_>, shared: &Shared) -> bool {
    process::set_elapsed(sim.elapsed());
    let stepped = sim.step();
    let mut witness = shared.lock();
    witness.now = sim.elapsed();
    if let Err(error) = stepped {
        witness.fail(format!("a host failed: {error}"));
    }
    witness.check_now();
    witness.failure.is_none()
}

fn keys(shape: &Shape) -> usize {
    6 * shape.partitions as usize
}

/// A gateway and those who use it.
async fn use_cluster(seed: u64, shared: Shared, shape: Shape) -> turmoil::Result {
    const CLIENTS: u64 = 5;
    let mut options = Options::default();
    options.cluster.brokers = contacts(shape.brokers);
    options.routing.park_timeout = Duration::from_secs(4);
    let gateway = Arc::new(InProcess::start(&options, &network::dialer())?);
    let client = |number: u64| Client {
        gateway: gateway.clone(),
        shared: shared.clone(),
        chance: Chance::new(seed, &format!("client {number}")),
        number,
        keys: keys(&shape),
        partitions: shape.partitions,
    };
    for partition in 1..=shape.partitions {
        tokio::spawn(watch(gateway.clone(), shared.clone(), partition));
    }
    let operator = Operator {
        gateway: gateway.clone(),
        shared: shared.clone(),
        chance: Chance::new(seed, "operator"),
        brokers: shape.brokers,
        partitions: shape.partitions,
        dialer: network::dialer(),
    };
    tokio::spawn(Box::pin(operator.run()));
    let clients = (0..CLIENTS).map(|number| tokio::spawn(client(number).run())).collect::<Vec<_>>();
    for client in clients {
        client.await?;
    }
    read_back(client(CLIENTS)).await;
    std::future::pending().await
}

/// What is no function of the seed, on a thread of its own, so that this one's first hash map and its first random number
/// are still to come. Returns the folders of the brokers.
fn prepare() -> anyhow::Result<Vec<TempDir>> {
    let prepared = std::thread::spawn(|| {
        // The clock of the metrics library compares the processor's counter with the kernel's clock once, and would wait for
        // ever for a simulated one to move.
        drop(PrometheusBuilder::new().build_recorder());
        (0..BROKERS).map(|_| tempfile::tempdir()).collect::<Result<Vec<_>, _>>()
    });
    let Ok(folders) = prepared.join() else { anyhow::bail!("the preparation panicked") };
    folders.context("create a folder for each broker")
}

/// tokio keeps a task's panic to itself. With `RUST_BACKTRACE=1` the failure says where it came from.
fn fail_on_panic(shared: &Shared) {
    let shared = shared.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let mut text = panic.to_string();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\n{backtrace}"));
        }
        // Whoever panics may hold the lock.
        match shared.try_lock() {
            Some(mut witness) => witness.fail(text),
            None => {
                eprintln!("{text}");
                std::process::abort();
            }
        }
    }));
}
