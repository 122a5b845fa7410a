//! `evenkeel demo`: the whole story in one command, on real processes, real disks and real input.
//!
//! Start a cluster, import, write under load, kill a broker, see the skew, start the broker again, see it catch
//! up, rebalance, see even leaders, and check that nothing acknowledged was lost or applied twice. The exit code
//! is 0 only if every check held; the times are measured and printed, and no check depends on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use clap::Args;
use evenkeel_client::{Client, ListQuery};
use indicatif::ProgressBar;

use crate::bench::load::{KeyLedger, Load, LoadPlan};
use crate::bench::metrics_text::samples;
use crate::cluster::actuator::{self, Accepted};
use crate::cluster::cluster_api::ClusterApi;
use crate::cluster::http::{Http, join};
use crate::commands::rebalance::follow::follow;
use crate::commands::rebalance::report::run_table;
use crate::commands::records::import::Job;
use crate::commands::records::json_lines::JsonLines;
use crate::commands::status::{is_balanced, lags_are_known, leaders_per_broker, status_table};
use crate::output::outcome::{Failure, note, print};
use crate::output::verdict::{Wishes, verdict};
use crate::processes::demo_input::{PACKAGE_KEY, packages_file};
use crate::processes::dev::automatic_ports;
use crate::processes::local_cluster::{LocalCluster, Plan, all_led};
use crate::processes::signals::stop_requested;

const STEPS: u32 = 10;
const LAG_METRIC: &str = "atomix_non_replicated_entries";
const LAG_POLL_INTERVAL: Duration = Duration::from_millis(50);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(120);
/// Writes that the killed broker misses before it is started again, so that there is something to catch up.
const MISSED_WRITES_MIN: u64 = 500;
const MISSED_WRITES_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the load runs before anything happens, and after.
const QUIET: Duration = Duration::from_secs(1);
const PAGE_RECORDS: u32 = 1000;
/// Every key of the load begins with this.
const LOAD_PREFIX: &str = "demo-load-";

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Records to import, as JSON Lines [default: the packages that cargo names for the current folder]
    #[arg(long, value_name = "FILE", requires = "key")]
    file: Option<PathBuf>,
    /// Field of the file that holds the key
    #[arg(long, value_name = "FIELD", requires = "file")]
    key: Option<String>,
    /// Broker to kill
    #[arg(long, default_value_t = 1, value_name = "N")]
    kill_broker: usize,
    /// Brokers to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=20))]
    brokers: u32,
    /// Partitions of the cluster
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Writers of the load
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Folder for data and logs, kept afterwards [default: a temporary one, kept only when something failed]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    if args.kill_broker >= args.brokers as usize {
        let last = args.brokers - 1;
        return Err(Failure::usage(format!("--kill-broker {}: choose 0 to {last}", args.kill_broker)));
    }
    let stop = stop_requested()?;
    let (folder, temporary) = match &args.data_dir {
        Some(folder) => {
            let created = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
            let refuse =
                |error| Failure::usage(format!("--data-dir {}: {error}; choose another", folder.display()));
            (created.map_err(refuse)?, None)
        }
        None => {
            let folder = tempfile::Builder::new().prefix("evenkeel-demo-").tempdir()?;
            (folder.path().to_owned(), Some(folder))
        }
    };
    let story = Story { args, folder: folder.clone(), step: 0, broken: Vec::new() };
    let result = tokio::select! {
        result = Box::pin(story.tell()) => result,
        signal = stop => Err(Failure::new(1, format!("{signal}: stopped before the end"))),
    };
    if let (Err(failure), Some(temporary)) = (&result, temporary) {
        let kept = temporary.keep();
        return Err(Failure::new(
            failure.code,
            format!("{failure}; data and logs are in {}", kept.display()),
        ));
    }
    result
}

/// The story as far as it is told.
struct Story {
    args: DemoArgs,
    folder: PathBuf,
    step: u32,
    /// What did not hold.
    broken: Vec<String>,
}

/// What was measured on the way.
struct Measured {
    steady_us: u64,
    failover_us: u64,
    rebalance_us: u64,
    writes: u64,
    failed: u64,
    retried: u64,
}

impl Story {
    fn step(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        self.step += 1;
        print(format_args!("\n[{}/{STEPS}] {text}", self.step))
    }

    fn check(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.broken.push(what.into());
        }
    }

    async fn tell(mut self) -> Result<(), Failure> {
        let plan = Plan {
            partitions: self.args.partitions,
            replication_factor: 3,
            data_dir: self.folder.clone(),
            ports: automatic_ports(self.args.brokers)?,
        };
        let brokers = self.args.brokers;
        self.step(format_args!("start {brokers} brokers and a gateway"))?;
        let mut cluster = LocalCluster::start(plan)?;
        let result = self.with_cluster(&mut cluster).await;
        let stopped = cluster.stop().await;
        result?;
        stopped?;
        match self.broken.is_empty() {
            true => print("\neverything held"),
            false => Err(Failure::new(1, format!("this did not hold: {}", self.broken.join("; ")))),
        }
    }

    async fn with_cluster(&mut self, cluster: &mut LocalCluster) -> Result<(), Failure> {
        let client = cluster.client(1)?;
        let ready = |topology: &_| all_led(topology) && is_balanced(topology);
        let (topology, took) = cluster.wait_for(&client, "balanced leaders", |_| true, ready).await?;
        print(format_args!(
            "ready after {:.2} s; {}",
            took.as_secs_f64(),
            verdict(&topology, &Wishes::default())
        ))?;

        let imported = self.import(&client).await?;

        let clients = self.args.clients;
        self.step(format_args!("write with {clients} clients, each with one write under way"))?;
        let plan = LoadPlan {
            clients: usize::from(self.args.clients),
            value_bytes: 256,
            partitions: self.args.partitions,
            skew: 0.0,
            key_prefix: LOAD_PREFIX.into(),
            per_second: None,
            in_flight: None,
        };
        let load = Load::start(&client, &plan)?;
        tokio::time::sleep(QUIET).await;
        load.begin_measuring();
        let (began, acknowledged) = (Instant::now(), load.acknowledged());
        tokio::time::sleep(QUIET).await;
        let per_second = (load.acknowledged() - acknowledged) as f64 / began.elapsed().as_secs_f64();
        let steady_us = load.take_gaps().worst_us();
        print(format_args!(
            "{per_second:.0} writes/s; longest gap of any partition {:.1} ms",
            millis(steady_us)
        ))?;

        let failover_us = self.fail_over(cluster, &client, &load).await?;
        self.catch_up(cluster, &load).await?;
        load.take_gaps();
        let rebalance_us = self.rebalance(cluster, &client, &load).await?;

        let report = load.stop().await?;
        let measured = Measured {
            steady_us,
            failover_us,
            rebalance_us,
            writes: report.acknowledged,
            failed: report.failed,
            retried: client.retries(),
        };
        self.verify(&client, &imported, &report.ledger).await?;
        if let Some(failure) = &report.last_failure {
            note(format_args!("the last failed request: {failure}"));
        }
        self.check(measured.failed == 0, format!("{} client requests failed", measured.failed));
        self.step("what it cost")?;
        print(summary(&measured))
    }

    async fn import(&mut self, client: &Client) -> Result<BTreeMap<Bytes, Bytes>, Failure> {
        let (file, key) = match (self.args.file.clone(), self.args.key.clone()) {
            (Some(file), Some(key)) => (file, key),
            _ => (packages_file(&self.folder).await?, PACKAGE_KEY.to_owned()),
        };
        self.step(format_args!("import {}", file.display()))?;
        let job = Job {
            key_field: key.clone(),
            skip_bad: false,
            writers: 32,
            bar: ProgressBar::hidden(),
            tally: Default::default(),
        };
        let began = Instant::now();
        job.file(client, &file).await?;
        let open = std::fs::File::open(&file)?;
        let lines = JsonLines::new(std::io::BufReader::new(open), &key).map_while(Result::ok);
        let expected: BTreeMap<Bytes, Bytes> = lines.map(|line| (line.key, line.value)).collect();
        print(format_args!("{} records in {:.2} s", expected.len(), began.elapsed().as_secs_f64()))?;
        if expected.is_empty() {
            return Err(Failure::usage(format!("{} holds no record; give another --file", file.display())));
        }
        Ok(expected)
    }

    /// Kills the broker and waits for new leaders. Answers the longest gap of any partition.
    async fn fail_over(
        &mut self,
        cluster: &LocalCluster,
        client: &Client,
        load: &Load,
    ) -> Result<u64, Failure> {
        let victim = self.args.kill_broker;
        let name = format!("broker {victim}");
        self.step(format_args!("kill -9 {name} (pid {})", cluster.brokers[victim].process.pid()))?;
        let missed_from = load.acknowledged();
        load.take_gaps();
        cluster.brokers[victim].process.kill().await?;
        let node = victim as u64;
        let moved = |topology: &_| {
            let leads = |(id, led): &(u64, usize)| *id == node && *led > 0;
            all_led(topology) && !leaders_per_broker(topology).iter().any(leads)
        };
        let survives = |member: &crate::processes::local_cluster::Member| member.name != name;
        let (_, took) = cluster.wait_for(client, "leaders on the other brokers", survives, moved).await?;
        let deadline = Instant::now() + MISSED_WRITES_TIMEOUT;
        while load.acknowledged() < missed_from + MISSED_WRITES_MIN {
            if Instant::now() > deadline {
                return Err(anyhow!("no more writes are acknowledged after the failover").into());
            }
            tokio::time::sleep(LAG_POLL_INTERVAL).await;
        }
        let gap_us = load.take_gaps().worst_us();
        print(format_args!(
            "its partitions are led again after {:.2} s; longest write gap of any partition {:.0} ms",
            took.as_secs_f64(),
            millis(gap_us)
        ))?;
        let topology = client.topology().await?;
        self.step("the skew it leaves")?;
        print(format_args!("{}\n{}", status_table(&topology), verdict(&topology, &Wishes::default())))?;
        self.check(!is_balanced(&topology), "leaders were not skewed after the failover");
        Ok(gap_us)
    }

    async fn catch_up(&mut self, cluster: &mut LocalCluster, load: &Load) -> Result<(), Failure> {
        let victim = self.args.kill_broker;
        self.step(format_args!("start broker {victim} again and watch {LAG_METRIC}"))?;
        cluster.restart_broker(victim)?;
        let http = Http::new();
        let began = Instant::now();
        // Under load something is always just being replicated: a partition has caught up once its lag was 0.
        let mut caught_up = BTreeSet::new();
        let mut told = None;
        loop {
            let lags = follower_lags(&http, cluster, victim).await?;
            caught_up.extend(lags.iter().filter(|(_, lag)| **lag == 0).map(|(partition, _)| *partition));
            let missing: u64 =
                lags.iter().filter(|(id, _)| !caught_up.contains(*id)).map(|(_, lag)| lag).sum();
            if told != Some(missing) {
                told = Some(missing);
                let seconds = began.elapsed().as_secs_f64();
                print(format_args!("  {seconds:6.2} s  {missing:>8} entries missing"))?;
            }
            if caught_up.len() >= replicas_of(cluster, victim) {
                break;
            }
            if began.elapsed() > CATCH_UP_TIMEOUT {
                let behind =
                    lags.keys().filter(|partition| !caught_up.contains(*partition)).collect::<Vec<_>>();
                return Err(anyhow!(
                    "broker {victim} did not catch up within {CATCH_UP_TIMEOUT:?}: partitions {behind:?} lag"
                )
                .into());
            }
            tokio::time::sleep(LAG_POLL_INTERVAL).await;
        }
        let writes = load.acknowledged();
        print(format_args!(
            "broker {victim} has caught up on every partition, while writes went on ({writes} so far)"
        ))
    }

    /// Answers the longest gap of any partition.
    async fn rebalance(
        &mut self,
        cluster: &LocalCluster,
        client: &Client,
        load: &Load,
    ) -> Result<u64, Failure> {
        self.step(format_args!("POST {}", join(&cluster.monitoring_url(), actuator::REBALANCE_PATH)))?;
        let http = Http::new();
        let began = Instant::now();
        match actuator::rebalance(&http, &cluster.monitoring_url()).await? {
            Accepted::Started(id) => {
                let api = ClusterApi::new(http, &cluster.api_url());
                let (run, _) = follow(&api, id, &mut ()).await?;
                print(run_table(&run))?;
                let failed = run.partitions.iter().filter(|partition| !partition.went_well()).count();
                self.check(failed == 0, format!("{failed} transfers failed"));
            }
            Accepted::NotStarted(status) => {
                self.check(false, format!("the rebalance was not started: Rebalance-Status {status}"));
            }
        }
        cluster.wait_for(client, "leaders on their primaries", |_| true, is_balanced).await?;
        let took = began.elapsed();
        tokio::time::sleep(QUIET).await;
        // The lag of a new leader's followers is known once each has answered it.
        let settled = |topology: &_| is_balanced(topology) && lags_are_known(topology);
        let (topology, _) = cluster.wait_for(client, "the lag of every follower", |_| true, settled).await?;
        let gap_us = load.take_gaps().worst_us();
        print(format_args!(
            "done after {:.2} s; longest write gap of any partition {:.1} ms",
            took.as_secs_f64(),
            millis(gap_us)
        ))?;
        self.step("even leaders")?;
        print(format_args!("{}\n{}", status_table(&topology), verdict(&topology, &Wishes::default())))?;
        Ok(gap_us)
    }

    async fn verify(
        &mut self,
        client: &Client,
        imported: &BTreeMap<Bytes, Bytes>,
        ledger: &BTreeMap<Bytes, KeyLedger>,
    ) -> Result<(), Failure> {
        self.step("check every acknowledged write")?;
        let records = all_records(client).await?;
        let lost = |(key, value): &(&Bytes, &Bytes)| records.get(*key).is_none_or(|found| found.0 != **value);
        let lost = imported.iter().filter(lost).count();
        let wrong_imports = imported.keys().filter(|key| records.get(*key).is_some_and(|r| r.1 != 1)).count();
        let wrong = ledger.iter().filter(|(key, known)| {
            !version_fits(**known, records.get(*key).map_or(0, |(_, version)| *version))
        });
        let wrong = wrong.count();
        self.check(lost == 0, format!("{lost} imported records are missing or different"));
        self.check(
            wrong_imports == 0,
            format!("{wrong_imports} imported records were written more than once"),
        );
        self.check(
            wrong == 0,
            format!("{wrong} keys of the load do not have the version that their writes gave"),
        );
        let writes: u64 = ledger.values().map(|known| known.acknowledged).sum();
        print(format_args!(
            "{} imported records: {lost} lost; {writes} writes to {} keys: {wrong} keys with a lost or repeated write",
            imported.len(),
            ledger.len()
        ))
    }
}

/// Each acknowledged write raised the version by one; one of unknown outcome may have.
fn version_fits(known: KeyLedger, version: u64) -> bool {
    (known.acknowledged..=known.acknowledged + known.unknown).contains(&version)
}

fn summary(measured: &Measured) -> String {
    format!(
        "longest write gap of any partition:  steady {:.1} ms   failover {:.0} ms   rebalance {:.1} ms\n\
         {} writes acknowledged, {} failed, {} sent again before they succeeded",
        millis(measured.steady_us),
        millis(measured.failover_us),
        millis(measured.rebalance_us),
        measured.writes,
        measured.failed,
        measured.retried
    )
}

fn millis(us: u64) -> f64 {
    us as f64 / 1e3
}

fn replicas_of(cluster: &LocalCluster, node: usize) -> usize {
    // Round-robin: partition p is on brokers p-1, p, p+1 … modulo their number.
    let brokers = cluster.brokers.len() as u32;
    let on_node =
        |p: &u32| (0..cluster.plan.replication_factor).any(|j| (p - 1 + j) % brokers == node as u32);
    (1..=cluster.plan.partitions).filter(on_node).count()
}

/// What this follower lacks of each partition, as the leaders' metrics tell.
async fn follower_lags(
    http: &Http,
    cluster: &LocalCluster,
    follower: usize,
) -> Result<BTreeMap<u32, u64>, Failure> {
    let follower = follower.to_string();
    let mut lags = BTreeMap::new();
    for (node, (_, monitoring)) in cluster.plan.ports.brokers.iter().enumerate() {
        if node.to_string() == follower {
            continue;
        }
        let answer = http.get(&format!("http://127.0.0.1:{monitoring}/metrics")).await?;
        for sample in samples(&answer.text(), LAG_METRIC) {
            if sample.label("follower") != Some(&follower) {
                continue;
            }
            if let Some(partition) = sample.label("partition").and_then(|label| label.parse().ok()) {
                // A broker that led before may still show what it knew last: the higher figure is the newer.
                let lag = lags.entry(partition).or_insert(0);
                *lag = (*lag).max(sample.value as u64);
            }
        }
    }
    Ok(lags)
}

/// Value and version of every record, by key.
async fn all_records(client: &Client) -> Result<BTreeMap<Bytes, (Bytes, u64)>, Failure> {
    let mut records = BTreeMap::new();
    let mut query = ListQuery { page_size: PAGE_RECORDS, ..ListQuery::default() };
    loop {
        let page = client.list(query.clone()).await?;
        records.extend(page.records.into_iter().map(|record| (record.key, (record.value, record.version))));
        if page.next_page_token.is_empty() {
            return Ok(records);
        }
        query.page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_tells_a_lost_and_a_repeated_write() {
        let known = |acknowledged, unknown| KeyLedger { acknowledged, unknown };
        assert!(version_fits(known(3, 0), 3));
        assert!(!version_fits(known(3, 0), 2), "lost");
        assert!(!version_fits(known(3, 0), 4), "applied twice");
        assert!(version_fits(known(3, 1), 3) && version_fits(known(3, 1), 4));
        assert!(version_fits(known(0, 1), 0));
    }
}
