//! Drains brokers when asked, and keeps drained ones free of leaderships for as long as they are.
//!
//! Every gateway looks after that; runs exclude each other, and telling a broker twice does nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evenkeel_protocol::internal::v1::{SetDrainedRequest, StepDownRequest};
use evenkeel_protocol::{NodeId, PartitionId, SYSTEM_GROUP};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Entry};
use crate::drain::{DrainedBrokers, DrainedSince, Undrainable, may_drain, upkeep};
use crate::planner::Policy;
use crate::rebalance::refused;
use crate::rebalance_record::timestamp;
use crate::rebalance_request::{RebalanceRequest, RunSettings};
use crate::rebalance_runner::{Accepted, NotStarted, Rebalancer};
use crate::system_store::{SystemStore, SystemStoreError};
use crate::topology::SharedTopology;
use crate::writes::Router;

const DRAINED_KEY: &str = "drained-brokers";
/// How often a gateway looks whether everything is as wished.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A broker that has not answered by then is told again later.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a broker may take to say that it is drained.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(3);
const SYSTEM_STEP_DOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Before leaderships that could not be moved away are tried again; doubled each time.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why a broker was not drained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDrained {
    #[error(transparent)]
    Undrainable(#[from] Undrainable),
    /// It is wished, but what the broker leads is not on its way.
    #[error(transparent)]
    NotStarted(#[from] NotStarted),
    #[error(transparent)]
    Store(#[from] SystemStoreError),
}

/// Drains brokers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Drains {
    router: Arc<Router>,
    store: SystemStore,
    rebalancer: Rebalancer,
    audit: Audit,
    stopping: CancellationToken,
}

impl Drains {
    pub(crate) fn new(
        router: Arc<Router>,
        rebalancer: Rebalancer,
        audit: Audit,
        stopping: CancellationToken,
    ) -> Self {
        let store = SystemStore::new(Arc::clone(&router));
        Self { router, store, rebalancer, audit, stopping }
    }

    fn topology(&self) -> SharedTopology {
        self.router.topology.borrow().clone()
    }

    /// Which brokers are to lead nothing.
    pub(crate) async fn wished(&self) -> Result<DrainedBrokers, SystemStoreError> {
        Ok(self.store.get(DRAINED_KEY).await?.map(|stored| stored.value).unwrap_or_default())
    }

    /// From now on the broker is to lead nothing; the run that moves away what it leads, when it leads anything.
    pub(crate) async fn drain(&self, node: NodeId) -> Result<Option<u64>, NotDrained> {
        may_drain(&self.topology(), &self.wished().await?, node)?;
        // What stands in the way of a run is told before anything is changed.
        self.rebalancer.check_free().await?;
        let since = timestamp(SystemTime::now());
        let with = |stored: Option<&DrainedBrokers>| {
            let mut drained = stored.cloned().unwrap_or_default();
            let new = !drained.contains(node);
            drained.0.entry(node).or_insert_with(|| DrainedSince { since: since.clone() });
            new.then_some(drained)
        };
        self.store.change(DRAINED_KEY, with).await?;
        tracing::info!(%node, "broker drained: it is to lead nothing");
        self.tell(node, true).await;
        self.until_shown(node, true).await;
        let topology = self.topology();
        let led = topology.partitions.iter().filter(|partition| partition.leader == Some(node));
        let led = led.map(|partition| partition.id).collect();
        self.hand_system_group_over().await;
        match self.move_away(led).await {
            // The wish is stored: the keeper of any gateway may have been faster.
            Err(NotStarted::Active { id }) => Ok(Some(id)),
            moved => Ok(moved?),
        }
    }

    /// The broker may lead again; whether it was drained. Nothing moves back by itself.
    pub(crate) async fn undrain(&self, node: NodeId) -> Result<bool, NotDrained> {
        if self.topology().broker(node).is_none() {
            return Err(Undrainable::Unknown(node).into());
        }
        let was_drained = self.wished().await?.contains(node);
        let without = |stored: Option<&DrainedBrokers>| {
            let mut drained = stored.cloned()?;
            drained.0.remove(&node).map(|_| drained)
        };
        self.store.change(DRAINED_KEY, without).await?;
        self.tell(node, false).await;
        self.until_shown(node, false).await;
        tracing::info!(%node, was_drained, "broker undrained: it may lead again");
        Ok(was_drained)
    }

    /// A broker that cannot be told now is told by whoever sees it back.
    async fn tell(&self, node: NodeId, drained: bool) {
        let reachable = self.topology().broker(node).is_some_and(|broker| broker.reachable);
        let Some(link) = self.router.links.get(node).filter(|_| reachable) else { return };
        let mut client = link.client();
        match timeout(TELL_TIMEOUT, client.set_drained(SetDrainedRequest { drained })).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                tracing::warn!(%node, drained, "telling whether to lead: {}", status.message())
            }
            Err(_) => tracing::warn!(%node, drained, "telling whether to lead: no answer"),
        }
    }

    async fn until_shown(&self, node: NodeId, drained: bool) {
        let mut topology = self.router.topology.clone();
        let shown = topology.wait_for(|view| {
            view.broker(node).is_none_or(|broker| !broker.reachable || broker.drained == drained)
        });
        if timeout(SHOWN_TIMEOUT, shown).await.is_err() {
            tracing::warn!(%node, drained, "the broker has not taken it in yet");
        }
    }

    /// The planner gives each of these to the best of the others, or spreads them when priorities do not decide.
    fn move_away_request(&self, led: BTreeSet<PartitionId>) -> RebalanceRequest {
        let by_priority = refused(&self.topology(), Policy::Primary).is_none();
        let policy = if by_priority { Policy::Primary } else { Policy::EvenCount };
        let settings = RunSettings { policy, partitions: Some(led), ..RunSettings::default() };
        RebalanceRequest { settings, ..RebalanceRequest::default() }
    }

    async fn move_away(&self, led: BTreeSet<PartitionId>) -> Result<Option<u64>, NotStarted> {
        if led.is_empty() {
            return Ok(None);
        }
        match self.rebalancer.start(&self.move_away_request(led)).await? {
            Accepted::Started { id } | Accepted::StartedBefore { id } => Ok(Some(id)),
            Accepted::Noop => Ok(None),
        }
    }

    /// No run moves the system group, which keeps the runs.
    async fn hand_system_group_over(&self) {
        let topology = self.topology();
        let Some(group) = &topology.system else { return };
        let Some((leader, epoch)) = group.leader.zip(group.epoch) else { return };
        let drained = |node: NodeId| topology.broker(node).is_some_and(|broker| broker.drained);
        if !drained(leader) {
            return;
        }
        let others = group.replicas.iter().filter(|node| !drained(**node));
        let willing = others.filter(|node| topology.broker(**node).is_some_and(|broker| broker.reachable));
        let candidates: Vec<u64> = willing.map(|node| node.0).collect();
        let Some(link) = self.router.links.get(leader).filter(|_| !candidates.is_empty()) else { return };
        let request = StepDownRequest {
            partition_id: SYSTEM_GROUP.0,
            term: epoch.term,
            candidates,
            ..StepDownRequest::default()
        };
        match timeout(SYSTEM_STEP_DOWN_TIMEOUT, link.client().step_down(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                tracing::info!(from = %leader, to = ?answer.to, "system group: {}", answer.detail);
            }
            Ok(Err(status)) => tracing::warn!(from = %leader, "system group: {}", status.message()),
            Err(_) => tracing::warn!(from = %leader, "system group: its leader did not answer"),
        }
    }

    /// Looks after drained brokers until the gateway stops.
    pub(crate) async fn keep(self) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = RETRY_MIN;
        let mut again_at = Instant::now();
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = look.tick() => {}
            }
            let topology = self.topology();
            if topology.system.as_ref().is_none_or(|group| group.leader.is_none()) {
                continue;
            }
            let Ok(wished) = self.wished().await else { continue };
            let todo = upkeep(&topology, &wished);
            for (node, drained) in todo.tell {
                self.tell(node, drained).await;
            }
            if todo.leads_system.is_some() {
                self.hand_system_group_over().await;
            }
            if todo.led.is_empty() {
                pause = RETRY_MIN;
                again_at = Instant::now();
            } else if Instant::now() >= again_at {
                let request = self.move_away_request(todo.led);
                // A run that could move nothing would only fill the history.
                if !self.rebalancer.would_move(&request.settings) {
                    continue;
                }
                match self.rebalancer.start(&request).await {
                    Ok(accepted) => {
                        tracing::info!("drained brokers had come to lead: moving that away");
                        if let Accepted::Started { id } = accepted {
                            self.audit.record(Entry::automatic("upkeep of drains", "rebalance", id)).await;
                        }
                    }
                    Err(because) => tracing::debug!("moving leaderships off drained brokers: {because}"),
                }
                again_at = Instant::now() + pause;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}
