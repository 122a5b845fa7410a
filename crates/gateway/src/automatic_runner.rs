//! Rebalances without being asked, when the options say so: measures how busy the cluster is, and holds the rounds that
//! [`crate::automatic`] decides about.
//!
//! Every gateway that is told to does it; runs exclude each other, and what one has moved cools down for all, since that
//! is read from the runs themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use croner::Cron;
use evenkeel_protocol::PartitionId;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Entry};
use crate::automatic::{Activity, AppendRate, IdleGate, Round, Skipped, decide};
use crate::clock;
use crate::metric_definitions;
use crate::options::{Automatic, OptionsError, RebalanceOptions};
use crate::rebalance_request::{RebalanceRequest, RunSettings};
use crate::rebalance_runner::{Accepted, NotStarted, Rebalancer};
use crate::system_store::SystemStoreError;
use crate::topology::SharedTopology;

/// How often the brokers' totals are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Holds rounds.
pub(crate) struct AutomaticRebalancer {
    options: RebalanceOptions,
    rebalancer: Rebalancer,
    audit: Audit,
    topology: tokio::sync::watch::Receiver<SharedTopology>,
    stopping: CancellationToken,
    /// The last round's outcome, so that the log tells changes only.
    told: Option<&'static str>,
}

/// When the next round is.
enum Rounds {
    Every(Duration, Instant),
    At(Box<Cron>, Option<DateTime<Utc>>),
}

impl Rounds {
    fn of(options: &RebalanceOptions) -> Result<Option<Self>, OptionsError> {
        Ok(match options.automatic {
            Automatic::Off => None,
            Automatic::WhenIdle => Some(Self::Every(options.interval, clock::now() + options.interval)),
            Automatic::Scheduled => {
                let cron = options.cron()?;
                let next = next_after(&cron, SystemTime::now().into());
                Some(Self::At(Box::new(cron), next))
            }
        })
    }

    /// Whether a round is due.
    fn due(&mut self, now: Instant, time: DateTime<Utc>) -> bool {
        match self {
            Self::Every(interval, next) if now >= *next => {
                *next = now + *interval;
                true
            }
            Self::At(cron, Some(next)) if time >= *next => {
                // Rounds that were missed, say by a machine that slept, are not made up for.
                *self = Self::At(cron.clone(), next_after(cron, time));
                true
            }
            Self::Every(..) | Self::At(..) => false,
        }
    }
}

fn next_after(cron: &Cron, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    cron.find_next_occurrence(&time, false).ok()
}

impl AutomaticRebalancer {
    pub(crate) fn new(
        options: RebalanceOptions,
        rebalancer: Rebalancer,
        audit: Audit,
        topology: tokio::sync::watch::Receiver<SharedTopology>,
        stopping: CancellationToken,
    ) -> Self {
        Self { options, rebalancer, audit, topology, stopping, told: None }
    }

    /// Until the gateway stops; at once when it is not to do anything by itself.
    ///
    /// # Errors
    /// When the schedule cannot be understood.
    pub(crate) async fn run(mut self) -> Result<(), OptionsError> {
        let Some(mut rounds) = Rounds::of(&self.options)? else { return Ok(()) };
        tracing::info!(automatic = ?self.options.automatic, "rebalancing without being asked");
        let mut rate = AppendRate::default();
        let mut gate = IdleGate::new(self.options.idle_bytes_per_s as f64, self.options.idle_window);
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return Ok(()),
                _ = look.tick() => {}
            }
            let now = clock::now();
            let topology = self.topology.borrow().clone();
            let reachable = topology.brokers.iter().filter(|broker| broker.reachable);
            let totals: BTreeMap<_, _> =
                reachable.map(|broker| (broker.node, broker.replicated_bytes_total)).collect();
            if let Some(bytes_per_s) = rate.observe(totals, now) {
                gate.observe(bytes_per_s, now);
                metric_definitions::append_rate().set(bytes_per_s);
            }
            if rounds.due(now, SystemTime::now().into()) {
                let outcome = self.round(gate.activity()).await;
                self.tell(outcome);
            }
        }
    }

    async fn round(&self, activity: Activity) -> Result<u64, Skipped> {
        let settings = RunSettings { policy: self.options.policy, ..RunSettings::default() };
        let plan = self.rebalancer.plan_now(&settings).await.map_err(skipped)?;
        let cooling = self.cooling().await.map_err(|error| skipped(error.into()))?;
        let ready = match decide(&plan, activity, &cooling) {
            Round::Start(ready) => ready,
            Round::Skip(because) => return Err(because),
        };
        let settings = RunSettings { partitions: Some(ready), ..settings };
        let request = RebalanceRequest { settings, ..RebalanceRequest::default() };
        match self.rebalancer.start(&request).await.map_err(skipped)? {
            Accepted::Started { id } | Accepted::StartedBefore { id } => {
                self.audit.record(Entry::automatic("automatic rebalancing", "rebalance", id)).await;
                Ok(id)
            }
            Accepted::Noop => Err(Skipped::Balanced),
        }
    }

    /// Partitions that runs have moved since the cool-down began.
    async fn cooling(&self) -> Result<BTreeSet<PartitionId>, SystemStoreError> {
        let Some(since) = SystemTime::now().checked_sub(self.options.cool_down) else {
            return Ok(BTreeSet::new());
        };
        self.rebalancer.moved_since(since).await
    }

    fn tell(&mut self, outcome: Result<u64, Skipped>) {
        let name = match &outcome {
            Ok(_) => "started",
            Err(because) => because.name(),
        };
        metric_definitions::automatic_rounds(name).increment(1);
        let changed = self.told.replace(name) != Some(name);
        match outcome {
            Ok(run) => tracing::info!(run, "rebalancing without being asked"),
            Err(Skipped::Balanced) => {}
            Err(because) if changed => tracing::info!("not rebalancing now: {because}"),
            Err(because) => tracing::debug!("not rebalancing now: {because}"),
        }
    }
}

fn skipped(because: NotStarted) -> Skipped {
    match because {
        NotStarted::Active { id } => Skipped::Active { id },
        NotStarted::Paused => Skipped::Paused,
        NotStarted::Store(error) => Skipped::SystemGroupAway(error.to_string()),
        other => Skipped::Refused(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_due_once_at_each_of_its_times_and_makes_up_for_none() {
        let options = RebalanceOptions {
            automatic: Automatic::Scheduled,
            schedule: "0 3 * * *".into(),
            ..RebalanceOptions::default()
        };
        let time = |text: &str| -> DateTime<Utc> { humantime::parse_rfc3339(text).unwrap().into() };
        let cron = options.cron().unwrap();
        let next = next_after(&cron, time("2026-01-01T12:00:00Z"));
        let mut rounds = Rounds::At(Box::new(cron), next);
        let table = [
            ("2026-01-01T12:00:01Z", false),
            ("2026-01-02T02:59:59Z", false),
            ("2026-01-02T03:00:00Z", true),
            ("2026-01-02T03:00:01Z", false),
            // The machine slept for two nights.
            ("2026-01-05T08:00:00Z", true),
            ("2026-01-05T08:00:01Z", false),
            ("2026-01-06T03:00:00Z", true),
        ];
        for (at, due) in table {
            assert_eq!(rounds.due(Instant::now(), time(at)), due, "{at}");
        }
    }
}
