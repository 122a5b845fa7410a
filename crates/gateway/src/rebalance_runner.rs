//! Runs rebalances. At most one is under way in the cluster; it lives in the system group, so any gateway can show it,
//! cancel it, and carry it on when the gateway that carried it out is gone.
//!
//! A partition is first journalled as begun and then handed over. Whoever takes a run over finds in the journal what
//! may have been asked for, and in the topology what came of it; and since a leader is asked to step down in a given
//! term, two gateways that both think that they own the run cannot move a partition twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use evenkeel_protocol::internal::v1::WatchStatusRequest;
use evenkeel_protocol::{NodeId, PartitionId};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster_view::{LeadersNow, cluster_view};
use crate::esc_slot::Slot;
use crate::metric_definitions;
use crate::planner::{Plan, Policy, Reason};
use crate::rebalance::{
    Decision, Outcome, PartitionResult, PlannedPartition, RefusedBecause, RunResult, all_planned, decide,
    refused,
};
use crate::rebalance_events::RunEvents;
use crate::rebalance_journal::{Journal, Lost};
use crate::rebalance_record::{
    ActiveRun, BalanceJson, Run, RunHead, RunJson, Transition, balance, outcome_of_plan, timestamp,
};
use crate::rebalance_request::{RebalanceRequest, RunSettings};
use crate::rebalance_store::{ACTIVE_RUN_KEY, KeyUse, RunStore};
use crate::rebalance_transfer::Transfers;
use crate::system_store::{Batch, Expect, SystemStore, SystemStoreError, Versioned};
use crate::topology::SharedTopology;
use crate::writes::Router;

/// Of so many partitions one may be without leader for a moment; at least one in any case.
const PARTITIONS_PER_TRANSFER: u32 = 100;
/// How long brokers may take to tell their followers' lag before a plan.
const LEADERS_ASKED_TIMEOUT: Duration = Duration::from_millis(100);
/// With probes: how long each broker waits for the others, and how long all may take.
const PROBE_MS: u32 = 200;
const LEADERS_PROBED_TIMEOUT: Duration = Duration::from_millis(400);
/// Statuses that a broker sends to who asks: what it published last, and then what is so now.
const STATUSES_ASKED: usize = 2;
/// How often a gateway looks for a run under way, and how often once there is one of another gateway.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const LOOK_CLOSELY_INTERVAL: Duration = Duration::from_millis(100);
/// An owner that shows no life for so long is replaced. Three beats; with the look before it, within a second.
const SILENT_MAX: Duration = Duration::from_millis(700);
/// Two looks further apart say nothing about the time between: the system group may have been without leader.
const LOOKS_APART_MAX: Duration = Duration::from_millis(400);
/// Times that asking to cancel may meet a beat.
const CANCEL_ATTEMPTS_MAX: u32 = 20;

/// How leaders are asked about their followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thoroughly {
    /// What they know. A process that hangs is found by the transfer's own probe.
    No,
    /// They ask their followers first: a plan that is shown, or was, says what the run would find.
    WithProbes,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Accepted {
    Started {
        id: u64,
    },
    /// The same request has started this run before.
    StartedBefore {
        id: u64,
    },
    Noop,
}

/// Why no run was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotStarted {
    #[error("rebalance {id} is under way; wait for it, or cancel it with DELETE /cluster/v2/rebalance")]
    Active { id: u64 },
    #[error("ownership is being rebalanced through ESC's API; ask again when that has finished")]
    OwnershipRebalance,
    #[error("ownership is paused; resume it with PUT /ESCManager/internal/ownership/resume")]
    Paused,
    #[error(
        "the plan is {now} now and not {given}: the cluster has changed since the dry run; look at a new one"
    )]
    PlanChanged { given: String, now: String },
    #[error("partition {partition} does not exist: the cluster has 1 to {partitions_count}")]
    UnknownPartition { partition: PartitionId, partitions_count: u32 },
    #[error("targets: broker {node} does not exist; GET /cluster/v2/brokers lists those that do")]
    UnknownBroker { node: NodeId },
    #[error(transparent)]
    Refused(#[from] RefusedBecause),
    #[error(transparent)]
    Store(#[from] SystemStoreError),
}

/// Starts runs, carries them out, and shows them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rebalancer(Arc<Inner>);

struct Inner {
    router: Arc<Router>,
    runs: RunStore,
    events: RunEvents,
    /// Held while ownership is rebalanced through ESC's API, which excludes runs.
    slot: Slot,
    /// This gateway's name as an owner, drawn at its start.
    me: String,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// The run that this gateway carries out.
    driving: Mutex<Option<(u64, Journal)>>,
}

impl Rebalancer {
    /// Runs are spawned on `tasks`, so that a stopping gateway can wait until it has left them to others.
    pub(crate) fn new(router: Arc<Router>, tasks: TaskTracker, stopping: CancellationToken) -> Self {
        let store = SystemStore::new(Arc::clone(&router));
        let slot = Slot::new(store.clone());
        let runs = RunStore { store };
        let events = RunEvents::new(runs.clone(), stopping.clone());
        let me = format!("{:032x}", rand::random::<u128>());
        Self(Arc::new(Inner { router, runs, events, slot, me, tasks, stopping, driving: Mutex::default() }))
    }

    fn topology(&self) -> SharedTopology {
        self.0.router.topology.borrow().clone()
    }

    /// Runs as they go on.
    pub(crate) fn events(&self) -> &RunEvents {
        &self.0.events
    }

    /// The place that an ownership rebalance needs.
    pub(crate) fn ownership_slot(&self) -> Slot {
        self.0.slot.clone()
    }

    /// Starts a run unless there is nothing to do, nothing that can be done, or one under way.
    pub(crate) async fn start(&self, request: &RebalanceRequest) -> Result<Accepted, NotStarted> {
        let started = self.start_once(request).await;
        match &started {
            Ok(Accepted::Noop) => {
                metric_definitions::rebalance_runs("noop").increment(1);
                tracing::info!("rebalance: nothing to do, every partition is led as wanted");
            }
            Ok(_) | Err(NotStarted::Active { .. }) => {}
            Err(because) => {
                metric_definitions::rebalance_runs("refused").increment(1);
                tracing::warn!("rebalance refused: {because}");
            }
        }
        started
    }

    /// The same key gives the same run, also when it is given to two gateways at once: the one that comes second may
    /// find the run of the first active, or done with and nothing left to do.
    async fn start_once(&self, request: &RebalanceRequest) -> Result<Accepted, NotStarted> {
        let started = self.try_start(request).await;
        match (&started, &request.idempotency_key) {
            (Ok(Accepted::Started { .. } | Accepted::StartedBefore { .. }), _) | (_, None) => started,
            (_, Some(key)) => match self.0.runs.key_use(key, SystemTime::now()).await {
                Ok(KeyUse::Gave(id)) => Ok(Accepted::StartedBefore { id }),
                Ok(KeyUse::Unused(_)) | Err(_) => started,
            },
        }
    }

    async fn try_start(&self, request: &RebalanceRequest) -> Result<Accepted, NotStarted> {
        let settings = &request.settings;
        let runs = &self.0.runs;
        if let Some(because) = refused(&self.topology(), settings.policy) {
            return Err(because.into());
        }
        self.check_names(&request.settings)?;
        let now = SystemTime::now();
        let key = match &request.idempotency_key {
            None => None,
            Some(key) => match runs.key_use(key, now).await? {
                KeyUse::Gave(id) => return Ok(Accepted::StartedBefore { id }),
                KeyUse::Unused(expect) => Some((key.as_str(), expect)),
            },
        };
        self.check_free().await?;
        let thoroughly = if request.plan.is_some() { Thoroughly::WithProbes } else { Thoroughly::No };
        let pushed = cluster_view(&self.topology(), &LeadersNow::default());
        let latest = match decide(&self.topology(), &pushed, settings).0 {
            // A balanced cluster is left alone: nobody is asked anything. But records come and go faster than they are told.
            Decision::Balanced if settings.policy != Policy::Records => LeadersNow::default(),
            Decision::Balanced | Decision::Refused(_) | Decision::Run(_) => {
                self.ask_leaders(thoroughly).await
            }
        };
        let topology = self.topology();
        let (decision, plan) = decide(&topology, &cluster_view(&topology, &latest), settings);
        let fingerprint = plan.map(|plan| plan.fingerprint).unwrap_or_default();
        if let Some(given) = request.plan.as_ref().filter(|given| **given != fingerprint) {
            return Err(NotStarted::PlanChanged { given: given.clone(), now: fingerprint });
        }
        let plan = match decision {
            Decision::Balanced => return Ok(Accepted::Noop),
            Decision::Refused(because) => return Err(because.into()),
            Decision::Run(plan) => plan,
        };
        let head = RunHead {
            id: 0,
            started_at: timestamp(now),
            settings: settings.clone(),
            fingerprint,
            cancel_requested: false,
            finished_at: None,
            result: None,
            results: BTreeMap::new(),
        };
        let Some(unheld) = self.0.slot.unheld().await? else { return Err(NotStarted::OwnershipRebalance) };
        match runs.create(head, &plan, &self.0.me, unheld, key, now).await {
            Ok((head, version)) => {
                let id = head.id;
                tracing::info!(run = id, partitions = plan.len(), "rebalance started");
                for outcome in plan.iter().filter_map(outcome_of_plan) {
                    metric_definitions::rebalance_partition_results(outcome.result.name()).increment(1);
                }
                let value = ActiveRun { id, owner: self.0.me.clone(), beat: 0, cancel_requested: false };
                self.drive(Run::assemble(head, plan, []), Versioned { value, version }, 0);
                Ok(Accepted::Started { id })
            }
            Err(error) if error.is_conflict() => match runs.active().await? {
                Some(active) => Err(NotStarted::Active { id: active.value.id }),
                None if self.0.slot.unheld().await?.is_none() => Err(NotStarted::OwnershipRebalance),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Whether anything stands in the way of a run: another one, or a pause.
    pub(crate) async fn check_free(&self) -> Result<(), NotStarted> {
        if let Some(active) = self.0.runs.active().await? {
            return Err(NotStarted::Active { id: active.value.id });
        }
        if self.0.runs.store.ownership().await?.paused {
            return Err(NotStarted::Paused);
        }
        Ok(())
    }

    /// The plan as a run would make it now.
    pub(crate) async fn plan_now(&self, settings: &RunSettings) -> Result<Plan, NotStarted> {
        if let Some(because) = refused(&self.topology(), settings.policy) {
            return Err(because.into());
        }
        self.check_free().await?;
        let latest = self.ask_leaders(Thoroughly::WithProbes).await;
        let view = cluster_view(&self.topology(), &latest);
        Ok(crate::planner::plan(&view, &settings.plan_request()))
    }

    /// Partitions that runs have moved since then.
    pub(crate) async fn moved_since(
        &self,
        since: SystemTime,
    ) -> Result<BTreeSet<PartitionId>, SystemStoreError> {
        let since = timestamp(since);
        let mut moved = BTreeSet::new();
        // Times of one format sort as text.
        let recent = |head: &&RunHead| head.finished_at.as_ref().is_some_and(|at| *at >= since);
        for head in self.0.runs.heads().await?.iter().filter(recent) {
            let Some(run) = self.0.runs.load(head.id).await? else { continue };
            moved.extend(run.plan.iter().map(|planned| planned.partition).filter(|partition| {
                run.outcome(*partition).is_some_and(|o| o.result == PartitionResult::Transferred)
            }));
        }
        Ok(moved)
    }

    /// Whether a run would move anything, as far as the topology tells. Nobody is asked.
    pub(crate) fn would_move(&self, settings: &RunSettings) -> bool {
        let view = cluster_view(&self.topology(), &LeadersNow::default());
        !crate::planner::plan(&view, &settings.plan_request()).is_empty()
    }

    /// Whether every partition and broker that the request names exists.
    fn check_names(&self, settings: &RunSettings) -> Result<(), NotStarted> {
        let topology = self.topology();
        let partitions_count = topology.partitions_count;
        let unknown = |partition: &&PartitionId| !(1..=partitions_count).contains(&partition.0);
        let mut named = settings.partitions.iter().flatten().chain(settings.targets.keys());
        if let Some(partition) = named.find(unknown) {
            return Err(NotStarted::UnknownPartition { partition: *partition, partitions_count });
        }
        match settings.targets.values().find(|node| topology.broker(**node).is_none()) {
            Some(node) => Err(NotStarted::UnknownBroker { node: *node }),
            None => Ok(()),
        }
    }

    /// What a run would do now. Nothing is stored.
    pub(crate) async fn dry_run(&self, request: &RebalanceRequest) -> Result<BalanceJson, NotStarted> {
        if !self.topology().is_reachable() {
            return Err(RefusedBecause::NoBroker.into());
        }
        self.check_names(&request.settings)?;
        let paused = self.0.runs.store.ownership().await?.paused;
        let latest = self.ask_leaders(Thoroughly::WithProbes).await;
        let topology = self.topology();
        let mut view = cluster_view(&topology, &latest);
        view.paused = paused;
        let plan = crate::planner::plan(&view, &request.settings.plan_request());
        if let Some(given) = request.plan.as_ref().filter(|given| **given != plan.fingerprint) {
            return Err(NotStarted::PlanChanged { given: given.clone(), now: plan.fingerprint });
        }
        let planned = all_planned(&topology, &plan);
        let dry = RunJson::dry(&request.settings, &plan.fingerprint, planned, SystemTime::now());
        let mut shown = self.balance().await?;
        shown.planned_rebalance = Some(dry);
        Ok(shown)
    }

    /// Asks every broker what its followers lack now, and which of them it reaches. Who does not answer in time is not
    /// waited for.
    pub(crate) async fn ask_leaders(&self, thoroughly: Thoroughly) -> LeadersNow {
        let topology = self.topology();
        let reachable = topology.brokers.iter().filter(|broker| broker.reachable);
        let latest = Mutex::new(LeadersNow::default());
        let (probe_ms, patience) = match thoroughly {
            Thoroughly::No => (0, LEADERS_ASKED_TIMEOUT),
            Thoroughly::WithProbes => (PROBE_MS, LEADERS_PROBED_TIMEOUT),
        };
        let ask = reachable.filter_map(|broker| self.0.router.links.get(broker.node)).map(|link| async {
            let mut client = link.client();
            let Ok(statuses) = client.watch_status(WatchStatusRequest { probe_ms, partial: false }).await
            else {
                return;
            };
            let mut statuses = statuses.into_inner().take(STATUSES_ASKED);
            while let Some(Ok(status)) = statuses.next().await {
                latest.lock().take(&status);
            }
        });
        // What has been told until then counts.
        let _ = timeout(patience, futures::future::join_all(ask)).await;
        latest.into_inner()
    }

    /// How balanced the cluster is, with the active and the last run.
    pub(crate) async fn balance(&self) -> Result<BalanceJson, SystemStoreError> {
        let runs = &self.0.runs;
        let running = match runs.active().await? {
            Some(active) => self.shown(active.value.id, Some(&active.value)).await?,
            None => None,
        };
        let finished = runs.heads().await?.into_iter().find(|head| head.finished_at.is_some());
        let last = match finished {
            Some(head) => runs.load(head.id).await?,
            None => None,
        };
        // It may have finished in between, before or after it was read.
        let last_id = last.as_ref().map(|last| last.head.id);
        let running = running
            .filter(|run| run.head.finished_at.is_none() && last_id.is_none_or(|last| last < run.head.id));
        Ok(balance(&self.topology(), running.as_ref(), last.as_ref()))
    }

    async fn shown(&self, id: u64, active: Option<&ActiveRun>) -> Result<Option<Run>, SystemStoreError> {
        let Some(mut run) = self.0.runs.load(id).await? else { return Ok(None) };
        run.head.cancel_requested |= active.is_some_and(|active| active.id == id && active.cancel_requested);
        Ok(Some(run))
    }

    /// A run by its id, while it is remembered.
    pub(crate) async fn find(&self, id: u64) -> Result<Option<RunJson>, SystemStoreError> {
        let active = self.0.runs.active().await?;
        let run = self.shown(id, active.as_ref().map(|active| &active.value)).await?;
        Ok(run.as_ref().map(RunJson::of))
    }

    /// The run under way in the cluster.
    pub(crate) async fn active_id(&self) -> Result<Option<u64>, SystemStoreError> {
        Ok(self.0.runs.active().await?.map(|active| active.value.id))
    }

    /// The heads of all runs that are remembered, the newest first.
    pub(crate) async fn history(&self) -> Result<Vec<RunHead>, SystemStoreError> {
        self.0.runs.heads().await
    }

    /// Asks the run under way (if an id is given, this one) to stop; whether there is one. Transfers under way finish.
    pub(crate) async fn cancel(&self, id: Option<u64>) -> Result<bool, SystemStoreError> {
        let mut attempt = 1;
        loop {
            let active = self.0.runs.active().await?;
            let Some(Versioned { value, version }) = active.filter(|a| id.is_none_or(|id| id == a.value.id))
            else {
                return Ok(false);
            };
            if let Some((_, journal)) = self.0.driving.lock().as_ref().filter(|(run, _)| *run == value.id) {
                journal.cancelled.cancel();
            }
            let cancelled = ActiveRun { cancel_requested: true, ..value };
            match self.0.runs.store.put(ACTIVE_RUN_KEY, &cancelled, Expect::Version(version)).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_conflict() && attempt < CANCEL_ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Carries out a run that this gateway owns; `next` is the number of its journal's next record.
    fn drive(&self, run: Run, active: Versioned<ActiveRun>, next: u64) {
        let id = run.head.id;
        let journal = Journal::start(self.0.runs.clone(), active, next);
        *self.0.driving.lock() = Some((id, journal.clone()));
        let this = self.clone();
        self.0.tasks.spawn(async move {
            let began = Instant::now();
            let lost = journal.lost.clone();
            let carried_out = tokio::select! {
                biased;
                carried_out = this.carry_out(run, &journal) => carried_out,
                () = lost.cancelled() => Err(Lost),
            };
            match carried_out {
                Ok(Some((result, partitions))) => {
                    metric_definitions::rebalance_runs(result.name()).increment(1);
                    metric_definitions::rebalance_run_seconds().record(began.elapsed());
                    tracing::info!(run = id, result = result.name(), partitions, "rebalance finished");
                }
                Ok(None) => {
                    tracing::info!(run = id, "this gateway stops: another one carries the rebalance on")
                }
                Err(Lost) => tracing::warn!(run = id, "another gateway carries this rebalance on"),
            }
            *this.0.driving.lock() = None;
            if let Err(error) = this.0.runs.forget_old(SystemTime::now()).await {
                tracing::warn!("old rebalances are forgotten later: {error}");
            }
        });
    }

    /// How the run ended, and of how many partitions; `None` when this gateway stops and leaves it to another one.
    async fn carry_out(&self, run: Run, journal: &Journal) -> Result<Option<(RunResult, usize)>, Lost> {
        let settings = &run.head.settings;
        let transfers = Transfers { router: Arc::clone(&self.0.router), settings: settings.clone() };
        let partitions_count = self.topology().partitions_count;
        let at_once = settings.concurrent_max.min((partitions_count / PARTITIONS_PER_TRANSFER).max(1));
        let frozen_us = AtomicU64::new(u64::try_from(run.frozen().as_micros()).unwrap_or(u64::MAX));
        let budget_us =
            settings.pause_budget.map(|budget| u64::try_from(budget.as_micros()).unwrap_or(u64::MAX));
        let outcomes: Mutex<BTreeMap<PartitionId, Outcome>> = Mutex::default();
        let open = |planned: &&PlannedPartition| run.outcome(planned.partition).is_none();
        let (begun, pending): (Vec<_>, Vec<_>) =
            run.plan.iter().filter(open).partition(|planned| run.is_begun(planned.partition));
        futures::stream::iter(begun.into_iter().chain(pending))
            .for_each_concurrent(at_once as usize, async |planned| {
                let (id, partition) = (run.head.id, planned.partition);
                let begun = run.is_begun(partition);
                if self.0.stopping.is_cancelled() {
                    return;
                }
                let spent = budget_us.is_some_and(|budget| frozen_us.load(Ordering::Relaxed) >= budget);
                let cancelled = || stopped(planned, planned.reason, "the run was cancelled before its turn");
                let outcome = if !begun && journal.cancelled.is_cancelled() {
                    cancelled()
                } else if !begun && spent {
                    stopped(planned, Reason::BudgetSpent, "the run's pauseBudget was spent before its turn")
                } else {
                    if !begun && journal.begun(Transition::Begun(partition)).await.is_err() {
                        return;
                    }
                    // Another gateway may have been asked to cancel since: writing the journal tells.
                    if !begun && journal.cancelled.is_cancelled() {
                        cancelled()
                    } else {
                        transfers.hand_over(planned, begun).await
                    }
                };
                frozen_us.fetch_add(outcome.frozen_us.unwrap_or(0), Ordering::Relaxed);
                told(id, planned, &outcome);
                outcomes.lock().insert(partition, outcome.clone());
                // A journal that is lost ends this run as a whole.
                let _ = journal.ended(Transition::Ended(partition, outcome)).await;
            })
            .await;
        let outcomes = outcomes.into_inner();
        let all: Vec<&Outcome> = run
            .plan
            .iter()
            .filter_map(|planned| run.outcome(planned.partition).or_else(|| outcomes.get(&planned.partition)))
            .collect();
        if all.len() < run.plan.len() {
            // Partitions are left out only then, or when the journal is lost.
            if !self.0.stopping.is_cancelled() {
                return Err(Lost);
            }
            journal.release().await?;
            return Ok(None);
        }
        let mut results: BTreeMap<String, u64> = BTreeMap::new();
        for outcome in &all {
            *results.entry(outcome.result.name().to_owned()).or_default() += 1;
        }
        let result = RunResult::of(&all, journal.cancelled.is_cancelled());
        let finished_at = Some(timestamp(SystemTime::now()));
        let head = RunHead { finished_at, result: Some(result), results, ..run.head.clone() };
        journal.finish(head).await?;
        Ok(Some((result, run.plan.len())))
    }

    /// Looks for runs whose gateway is gone, until this gateway stops, and carries them on.
    pub(crate) async fn watch_over(self) {
        let mut seen: Option<Seen> = None;
        while !self.0.stopping.is_cancelled() {
            let pause = if seen.is_some() { LOOK_CLOSELY_INTERVAL } else { LOOK_INTERVAL };
            tokio::select! {
                () = self.0.stopping.cancelled() => return,
                () = sleep(pause) => {}
            }
            if self.0.driving.lock().is_some() || !self.is_system_group_led() {
                seen = None;
                continue;
            }
            match self.0.runs.active().await {
                Ok(None) => seen = None,
                Ok(Some(active)) => {
                    let now = Instant::now();
                    let known = seen
                        .filter(|seen| seen.version == active.version && now - seen.last < LOOKS_APART_MAX);
                    let since = known.map_or(now, |known| known.since);
                    seen = Some(Seen { version: active.version, since, last: now });
                    if active.value.owner.is_empty() || now - since >= SILENT_MAX {
                        seen = None;
                        self.take_over(active).await;
                    }
                }
                Err(error) => {
                    seen = None;
                    tracing::debug!("looking for a rebalance under way: {error}");
                }
            }
        }
    }

    fn is_system_group_led(&self) -> bool {
        self.topology().system.as_ref().is_some_and(|group| group.leader.is_some())
    }

    async fn take_over(&self, silent: Versioned<ActiveRun>) {
        let id = silent.value.id;
        let mine = ActiveRun { owner: self.0.me.clone(), beat: silent.value.beat + 1, ..silent.value };
        let runs = &self.0.runs;
        // First the ownership, then the journal: from now on nobody else adds to it.
        let version = match runs.store.put(ACTIVE_RUN_KEY, &mine, Expect::Version(silent.version)).await {
            Ok(version) => version,
            Err(error) if error.is_conflict() => return,
            Err(error) => return tracing::warn!(run = id, "taking a rebalance over: {error}"),
        };
        match runs.load_with_journal(id).await {
            Ok(Some((run, next))) => {
                tracing::warn!(run = id, "the gateway of this rebalance is gone: carrying it on");
                self.drive(run, Versioned { value: mine, version }, next);
            }
            Ok(None) => {
                tracing::error!(run = id, "this rebalance has no plan any more: it is given up");
                let mut batch = Batch::default();
                batch.delete(ACTIVE_RUN_KEY, Expect::Version(version));
                if let Err(error) = runs.store.commit(batch).await {
                    tracing::warn!(run = id, "giving a rebalance up: {error}");
                }
            }
            // Silent again, it is taken over again.
            Err(error) => tracing::warn!(run = id, "reading a rebalance to carry it on: {error}"),
        }
    }
}

/// A sign of life of another gateway.
#[derive(Clone, Copy)]
struct Seen {
    version: u64,
    /// When it was seen first, and last.
    since: Instant,
    last: Instant,
}

fn stopped(planned: &PlannedPartition, reason: Reason, why: &str) -> Outcome {
    Outcome {
        result: PartitionResult::Cancelled,
        reason: Some(reason),
        detail: format!("partition {} stays as it is: {why}", planned.partition),
        from: planned.leader,
        to: None,
        leader: None,
        frozen_us: None,
        phases: None,
    }
}

fn told(run: u64, planned: &PlannedPartition, outcome: &Outcome) {
    metric_definitions::rebalance_partition_results(outcome.result.name()).increment(1);
    if let Some(us) = outcome.frozen_us {
        metric_definitions::rebalance_gap_seconds().record(Duration::from_micros(us));
    }
    tracing::info!(
        run,
        partition = %planned.partition,
        result = outcome.result.name(),
        from = ?outcome.from.map(|node| node.0),
        to = ?outcome.to.map(|node| node.0),
        "{}", outcome.detail
    );
}
