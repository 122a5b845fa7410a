//! Carries out Cisco ESC's ownership rebalance: asks what `esc` decides on, hands partitions over, and waits until the
//! topology shows it. Also who owns what, and pausing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evenkeel_protocol::internal::v1::StepDownRequest;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::{NodeId, PartitionId};
use futures::StreamExt;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::esc::{
    self, Account, Earmarked, Handover, Leaderless, OwnershipJson, Refused, account, earmark,
    refused_by_brokers, refused_by_failover,
};
use crate::esc_slot::{Held, Slot, refused};
use crate::metric_definitions;
use crate::planner::REPLICATION_LAG_BYTES_MAX;
use crate::rebalance_runner::{Rebalancer, Thoroughly};
use crate::system_store::{SystemStore, SystemStoreError};
use crate::topology::{SharedTopology, Topology};
use crate::writes::Router;

/// Partitions handed over at once.
const CONCURRENT_MAX: usize = 4;
/// A leader catches the target up, transfers, and may try the next candidate: longer than all of that.
const STEP_DOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the topology may take to show new leaders and what they own; leaders tell at least once a second.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// A refusal must come within 50 ms: a system group without leader is not waited for.
const LEADERLESS_WAIT_MAX: Duration = Duration::from_millis(25);

/// What an ownership rebalance came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Nobody owns too much.
    Nothing,
    /// By broker UUID.
    Done(BTreeMap<String, Account>),
}

/// Cisco ESC's ownership service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EscOwnership {
    router: Arc<Router>,
    store: SystemStore,
    rebalancer: Rebalancer,
    slot: Slot,
    tasks: TaskTracker,
}

impl EscOwnership {
    /// Rebalances run on `tasks`, so that a client that goes away stops none and a stopping gateway waits for them.
    pub(crate) fn new(router: Arc<Router>, rebalancer: Rebalancer, tasks: TaskTracker) -> Self {
        let store = SystemStore::new(Arc::clone(&router));
        let slot = rebalancer.ownership_slot();
        Self { router, store, rebalancer, slot, tasks }
    }

    /// Evens out the records that brokers own, to the end.
    pub(crate) async fn rebalance(&self) -> Result<Answered, Refused> {
        let this = self.clone();
        let ended = self.tasks.spawn(async move { this.run().await }).await;
        let answered = ended.unwrap_or_else(|failed| Err(Refused::Internal(failed.to_string())));
        let outcome = match &answered {
            Ok(Answered::Nothing) => "nothing",
            Ok(Answered::Done(accounts)) if accounts.values().all(Account::is_complete) => "completed",
            Ok(Answered::Done(_)) => "partial",
            Err(refused) => refused.name(),
        };
        metric_definitions::ownership_rebalances(outcome).increment(1);
        match &answered {
            Err(Refused::Internal(problem)) => tracing::error!("ownership rebalance failed: {problem}"),
            Err(because) => tracing::warn!("ownership rebalance refused: {because}"),
            Ok(_) => tracing::info!(outcome, "ownership rebalance finished"),
        }
        answered
    }

    async fn run(&self) -> Result<Answered, Refused> {
        if let Some(because) = refused_by_brokers(&self.topology()) {
            return Err(because);
        }
        if self.is_paused().await? {
            return Err(Refused::Paused);
        }
        if let Some(because) = refused_by_failover(&self.topology()) {
            return Err(because);
        }
        if let Some(id) = self.rebalancer.active_id().await.map_err(|error| refused(&error))? {
            return Err(Refused::RebalanceUnderWay(format!("run {id}")));
        }
        let held = self.slot.take().await?;
        let answered = self.even_out(&held).await;
        held.release().await;
        answered
    }

    async fn even_out(&self, held: &Held) -> Result<Answered, Refused> {
        let topology = self.topology();
        if let Some(because) = refused_by_failover(&topology) {
            return Err(because);
        }
        let now = self.rebalancer.ask_leaders(Thoroughly::No).await;
        let earmarked = earmark(&now.counted(&topology), &now)?;
        if earmarked.handovers.is_empty() {
            return Ok(Answered::Nothing);
        }
        let transferred: BTreeMap<PartitionId, NodeId> = futures::stream::iter(earmarked.handovers.clone())
            .take_until(held.lost.cancelled())
            .map(|handover| async move { (handover.partition, self.hand_over(&handover).await) })
            .buffer_unordered(CONCURRENT_MAX)
            .filter_map(|(partition, to)| std::future::ready(to.map(|to| (partition, to))))
            .collect()
            .await;
        let after = self.after(&earmarked, &transferred).await;
        Ok(Answered::Done(account(&earmarked, &after, &transferred)))
    }

    /// The new leader, when there is one.
    async fn hand_over(&self, handover: &Handover) -> Option<NodeId> {
        let Handover { partition, from, epoch, candidates, .. } = handover;
        let request = StepDownRequest {
            partition_id: partition.0,
            term: epoch.term,
            candidates: candidates.iter().map(|node| node.0).collect(),
            lag_bytes_max: Some(REPLICATION_LAG_BYTES_MAX),
            ..StepDownRequest::default()
        };
        let link = self.router.links.get(*from)?;
        let answer = match timeout(STEP_DOWN_TIMEOUT, link.client().step_down(request)).await {
            Err(_) => {
                tracing::warn!(%partition, %from, "its owner did not answer in time");
                return None;
            }
            Ok(Err(status)) => {
                tracing::warn!(%partition, %from, "its owner could not be asked: {}", status.message());
                return None;
            }
            Ok(Ok(answer)) => answer.into_inner(),
        };
        let result = answer.result();
        tracing::info!(%partition, %from, to = ?answer.to, ?result, "ownership: {}", answer.detail);
        answer.to.filter(|_| result == StepDown::Transferred).map(NodeId)
    }

    /// The topology, once it shows every new leader, or when that takes too long; with what leaders then say that they own.
    async fn after(&self, earmarked: &Earmarked, transferred: &BTreeMap<PartitionId, NodeId>) -> Topology {
        let mut topology = self.router.topology.clone();
        let shown = topology.wait_for(|view| {
            let moved = earmarked.handovers.iter().filter(|h| transferred.contains_key(&h.partition));
            moved.into_iter().all(|handover| esc::is_settled(view, handover.partition, handover.epoch))
        });
        if timeout(SHOWN_TIMEOUT, shown).await.is_err() {
            tracing::warn!("some new owners have not shown themselves yet");
        }
        self.rebalancer.ask_leaders(Thoroughly::No).await.counted(&self.topology())
    }

    /// Whether ownership is paused. A system group without leader is a failover under way.
    async fn is_paused(&self) -> Result<bool, Refused> {
        let mut topology = self.router.topology.clone();
        let leaderless = async {
            let led =
                |view: &SharedTopology| view.system.as_ref().is_some_and(|group| group.leader.is_some());
            // A closed topology means that the gateway stops.
            let _ = topology.wait_for(|view| !led(view)).await;
            sleep(LEADERLESS_WAIT_MAX).await;
        };
        tokio::select! {
            biased;
            read = self.store.ownership() => {
                read.map(|ownership| ownership.paused).map_err(|error| refused(&error))
            }
            () = leaderless => Err(Refused::FailoverUnderWay { leaderless: Leaderless::SystemGroup }),
        }
    }

    /// Who owns what, and whether that is paused.
    pub(crate) async fn show(&self) -> OwnershipJson {
        let paused = self.is_paused().await;
        if let Err(Refused::Internal(problem)) = &paused {
            tracing::error!("whether ownership is paused cannot be told: {problem}");
        }
        esc::ownership(&self.topology(), paused.ok())
    }

    /// Pauses or resumes, durably.
    pub(crate) async fn set_paused(&self, paused: bool) -> Result<bool, Refused> {
        let by = if paused { "ownership/pause" } else { "ownership/resume" };
        match self.store.set_ownership_paused(paused, by, SystemTime::now()).await {
            Ok(ownership) => Ok(ownership.paused),
            Err(error @ SystemStoreError::Unavailable(_)) => Err(Refused::SystemGroupAway(error.to_string())),
            Err(error) => Err(Refused::Internal(error.to_string())),
        }
    }

    fn topology(&self) -> SharedTopology {
        self.router.topology.borrow().clone()
    }
}
