//! `evenkeel bench rebalance`: what clients see while leaders move, round after round, on a cluster that runs.
//!
//! First the cluster's capacity is measured with as many writes as the clients get answers to; the rounds then run under
//! a share of it, written at fixed times. A round drains a broker, so that its leaderships go to the others, undrains
//! it, counts the partitions that are not led by their primary now, and rebalances them home. The exit code is 0 only if
//! no request failed and exactly those partitions were moved; times are measured and printed, and none is judged.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use evenkeel_client::Client;
use evenkeel_protocol::v1::TopologyResponse;
use parking_lot::Mutex;

use crate::bench::load::{Load, LoadPlan, LoadReport, Phase};
use crate::bench::rebalance_report::{Report, Round, in_json, in_words};
use crate::cluster::cluster_api::{ClusterApi, RebalanceBody, Run};
use crate::cluster::connection::Connection;
use crate::commands::rebalance::follow::follow;
use crate::commands::status::{is_balanced, lags_are_known, leaders_per_broker, misplaced};
use crate::output::format::Output;
use crate::output::outcome::{EXIT_ALREADY_ACTIVE, Failure, note, print};
use crate::processes::local_cluster::all_led;
use crate::processes::signals::stop_requested;

const WARM_UP: Duration = Duration::from_secs(1);
/// How long each round watches the load before its rebalance: what "before" is measured over.
const QUIET: Duration = Duration::from_secs(1);
/// How long after a run its last writes are still watched.
const TAIL: Duration = Duration::from_millis(250);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The topology shows what was done before this, or something is wrong.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Times that a drain may meet a run of the cluster's own.
const DRAIN_ATTEMPTS_MAX: u32 = 20;
const DRAIN_PAUSE: Duration = Duration::from_millis(250);

#[derive(Args, Debug)]
pub struct RebalanceBenchArgs {
    /// Times to make leaders uneven and bring them home
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Brokers that each round drains at once: more of them misplace more partitions
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    drained_brokers: u32,
    /// Transfers under way at once [default: the gateway's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    max_concurrent: Option<u32>,
    /// Writers, each with at most one write under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Load during the rounds, as a share of what the cluster takes at most
    #[arg(long, default_value_t = 70, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    load_percent: u32,
    /// How long to measure what the cluster takes at most
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    capacity_seconds: u64,
    /// Size of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: RebalanceBenchArgs, connection: &Connection) -> Result<(), Failure> {
    let client = connection.client_for(args.clients as usize).await?;
    let api = connection.cluster_api()?;
    let output = args.output;
    let bench = Bench { args, client, api, drained: Mutex::default() };
    let stop = stop_requested()?;
    let measured = tokio::select! {
        measured = Box::pin(bench.measure()) => measured,
        signal = stop => Err(Failure::new(1, format!("{signal}: stopped before the end"))),
    };
    // However it ended, no broker stays drained.
    let left: Vec<u64> = bench.drained.lock().iter().copied().collect();
    for node in left {
        if let Err(failure) = bench.api.undrain(node).await {
            note(format_args!("broker {node} is still drained: {failure}; run `evenkeel undrain {node}`"));
        }
    }
    let report = measured?;
    match output {
        Output::Table | Output::Wide => print(in_words(&report))?,
        data => data.print(in_json(&report))?,
    }
    match report.broken() {
        broken if broken.is_empty() => Ok(()),
        broken => Err(Failure::new(1, format!("this did not hold: {}", broken.join("; ")))),
    }
}

struct Bench {
    args: RebalanceBenchArgs,
    client: Client,
    api: ClusterApi,
    /// Brokers that this bench has drained and not yet undrained.
    drained: Mutex<BTreeSet<u64>>,
}

impl Bench {
    async fn measure(&self) -> Result<Report, Failure> {
        let nodes = self.ready().await?;
        let partitions = self.client.topology().await?.partitions_count;
        let (capacity, at_capacity) = self.capacity(partitions).await?;
        let per_second = capacity * f64::from(self.args.load_percent) / 100.0;
        note(format_args!(
            "the cluster takes {capacity:.0} writes/s; the rounds run under {per_second:.0} writes/s"
        ));
        let load = Load::start(&self.client, &self.load_plan(partitions, Some(per_second)))?;
        tokio::time::sleep(WARM_UP).await;
        let (began, before) = (Instant::now(), load.acknowledged());
        let mut rounds = Vec::new();
        for number in 0..self.args.rounds {
            let at = |i: u32| nodes[(number as usize + i as usize) % nodes.len()];
            let victims: Vec<u64> = (0..self.args.drained_brokers).map(at).collect();
            let round = self.round(&load, &victims).await?;
            let took = round.took.map_or_else(|| "-".into(), |took| format!("{:.3} s", took.as_secs_f64()));
            note(format_args!(
                "round {}/{}: broker {}, {} misplaced, {} moved, in {took}",
                number + 1,
                self.args.rounds,
                victims.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
                round.misplaced.len(),
                round.moved.len()
            ));
            rounds.push(round);
        }
        let per_second = (load.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
        let load = load.stop().await?;
        for failure in [&at_capacity.last_failure, &load.last_failure].into_iter().flatten() {
            note(format_args!("a failed request: {failure}"));
        }
        Ok(Report {
            partitions,
            clients: self.args.clients,
            value_bytes: self.args.value_bytes,
            load_percent: self.args.load_percent,
            capacity_per_second: capacity,
            per_second,
            failed: at_capacity.failed + load.failed,
            retried: self.client.retries(),
            p99_before_ms: load.latencies.value_at_quantile(0.99) as f64 / 1e3,
            p99_during_ms: load.latencies_in_change.value_at_quantile(0.99) as f64 / 1e3,
            rounds,
        })
    }

    /// Every broker answers, none is drained, and leaders are where they belong. Answers the node ids.
    async fn ready(&self) -> Result<Vec<u64>, Failure> {
        let brokers = self.api.brokers().await?;
        if let Some(away) = brokers.iter().find(|broker| !broker.reachable) {
            let message = format!("broker {} does not answer; start it, then run this again", away.node_id);
            return Err(Failure::unreachable(message));
        }
        if let Some(drained) = brokers.iter().find(|broker| broker.drained) {
            let node = drained.node_id;
            return Err(Failure::unreachable(format!(
                "broker {node} is drained; run `evenkeel undrain {node}`, then this again"
            )));
        }
        if self.args.drained_brokers as usize >= brokers.len() {
            return Err(Failure::usage(format!(
                "--drained-brokers {}: of {} brokers one has to lead; give at most {}",
                self.args.drained_brokers,
                brokers.len(),
                brokers.len().saturating_sub(1)
            )));
        }
        if let Some(id) = self.api.start(&RebalanceBody::default()).await? {
            note(format_args!("leaders are not where they belong: rebalance {id} brings them home first"));
            follow(&self.api, id, &mut ()).await?;
        }
        self.wait_for("every partition to be led by its primary", is_balanced).await?;
        Ok(brokers.iter().map(|broker| broker.node_id).collect())
    }

    fn load_plan(&self, partitions: u32, per_second: Option<f64>) -> LoadPlan {
        LoadPlan {
            clients: self.args.clients as usize,
            value_bytes: self.args.value_bytes,
            partitions,
            skew: 0.0,
            key_prefix: "bench-rebalance-".into(),
            per_second,
            in_flight: None,
        }
    }

    /// Writes a second when every client writes as fast as it is answered.
    async fn capacity(&self, partitions: u32) -> Result<(f64, LoadReport), Failure> {
        note(format_args!("measuring for {} s what the cluster takes", self.args.capacity_seconds));
        let load = Load::start(&self.client, &self.load_plan(partitions, None))?;
        tokio::time::sleep(WARM_UP).await;
        let (began, before) = (Instant::now(), load.acknowledged());
        tokio::time::sleep(Duration::from_secs(self.args.capacity_seconds)).await;
        let capacity = (load.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
        Ok((capacity, load.stop().await?))
    }

    async fn round(&self, load: &Load, victims: &[u64]) -> Result<Round, Failure> {
        load.begin(Phase::Unmeasured);
        for node in victims {
            self.drain(*node).await?;
        }
        let abandoned = |topology: &TopologyResponse| {
            let leads = |(node, led): &(u64, usize)| victims.contains(node) && *led > 0;
            all_led(topology) && !leaders_per_broker(topology).iter().any(leads)
        };
        self.wait_for("the drained broker to lead nothing", abandoned).await?;
        for node in victims {
            self.api.undrain(*node).await?;
            self.drained.lock().remove(node);
        }
        let lags_known = |topology: &TopologyResponse| all_led(topology) && lags_are_known(topology);
        self.wait_for("the lag of every follower", lags_known).await?;

        load.begin_measuring();
        tokio::time::sleep(QUIET).await;
        let misplaced = misplaced(&self.client.topology().await?);
        let gaps_before = load.take_gaps();
        load.begin(Phase::Change);
        let run = self.rebalance().await?;
        load.begin(Phase::Unmeasured);
        tokio::time::sleep(TAIL).await;
        let gaps = load.take_gaps();
        self.wait_for("every partition to be led by its primary", is_balanced).await?;
        Ok(Round::new(misplaced, run.as_ref(), &gaps_before, &gaps))
    }

    /// Drains the broker, and waits for the run that this takes.
    async fn drain(&self, node: u64) -> Result<(), Failure> {
        self.drained.lock().insert(node);
        let mut attempt = 1;
        let drained = loop {
            match self.api.drain(node).await {
                // The cluster looks after drained brokers by itself, too.
                Err(failure) if failure.code == EXIT_ALREADY_ACTIVE && attempt < DRAIN_ATTEMPTS_MAX => {
                    attempt += 1;
                    tokio::time::sleep(DRAIN_PAUSE).await;
                }
                answer => break answer?,
            }
        };
        if let Some(id) = drained.rebalance_id {
            follow(&self.api, id, &mut ()).await?;
        }
        Ok(())
    }

    /// The run that brings leaders home; `None` when the gateway sees nothing to do.
    async fn rebalance(&self) -> Result<Option<Run>, Failure> {
        let body = RebalanceBody { max_concurrent: self.args.max_concurrent, ..RebalanceBody::default() };
        match self.api.start(&body).await? {
            Some(id) => Ok(Some(follow(&self.api, id, &mut ()).await?.0)),
            None => Ok(None),
        }
    }

    async fn wait_for(&self, what: &str, holds: impl Fn(&TopologyResponse) -> bool) -> Result<(), Failure> {
        let began = Instant::now();
        while !holds(&self.client.topology().await?) {
            if began.elapsed() > SETTLE_TIMEOUT {
                return Err(Failure::new(
                    1,
                    format!("waited {SETTLE_TIMEOUT:?} in vain for {what}; see `evenkeel status`"),
                ));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}
