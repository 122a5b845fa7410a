//! Cisco ESC's ownership rebalance, decided: when it is refused, which partitions are earmarked, and the account
//! given afterwards. Pure; `esc_runner` does the asking.
//!
//! What ESC calls a configuration is a record here, and records move with their partition. The words of the answer
//! are ESC's own: *previous* and *current* are the records that a broker owns before and after, *requested* those of
//! the partitions earmarked to leave it, *accepted* those of the partitions that really left. Counts are taken
//! once, before: so accepted never exceeds requested, whatever is written meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_protocol::{Epoch, NodeId, PartitionId};
use serde::Serialize;

use crate::cluster_view::{LeadersNow, cluster_view};
use crate::planner::{ClusterView, Decision, PlanRequest, Policy, plan};
use crate::topology::{BrokerView, PartitionView, Topology};

/// Fewer brokers than these have nobody to share with.
const HEALTHY_MIN: usize = 2;

/// Why an ownership rebalance is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("ESC is standalone: the cluster has one broker, there is nobody to share ownership with")]
    Standalone,
    #[error("less than two healthy ESC nodes ({healthy} of {brokers}); start the brokers that are away")]
    TooFewHealthy { healthy: usize, brokers: usize },
    #[error("ownership is paused; resume it with PUT /ESCManager/internal/ownership/resume")]
    Paused,
    #[error(
        "transfer of ownership due to a failover is under way ({leaderless} without owner); retry shortly"
    )]
    FailoverUnderWay { leaderless: Leaderless },
    #[error("a rebalance is under way ({0}); retry when it has finished")]
    RebalanceUnderWay(String),
    #[error("{0}; retry when most brokers run")]
    SystemGroupAway(String),
    /// The message is ESC's own; the log says what happened.
    #[error("Internal Error")]
    Internal(String),
}

/// What has no leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaderless {
    Partition(PartitionId),
    SystemGroup,
}

impl std::fmt::Display for Leaderless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Partition(partition) => write!(f, "partition {partition}"),
            Self::SystemGroup => f.write_str("the system group"),
        }
    }
}

impl Refused {
    /// HTTP status, and ESC's `error_code`.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Standalone => 501,
            Self::TooFewHealthy { .. } | Self::SystemGroupAway(_) => 503,
            Self::Paused | Self::FailoverUnderWay { .. } | Self::RebalanceUnderWay(_) => 409,
            Self::Internal(_) => 500,
        }
    }

    /// As metrics label it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Standalone => "refused_standalone",
            Self::TooFewHealthy { .. } => "refused_too_few_healthy",
            Self::Paused => "refused_paused",
            Self::FailoverUnderWay { .. } => "refused_failover",
            Self::RebalanceUnderWay(_) => "refused_rebalance",
            Self::SystemGroupAway(_) => "refused_system_group",
            Self::Internal(_) => "failed",
        }
    }
}

/// Refusals that the brokers' states decide. They come before those that need the system group, which cannot
/// answer when they apply.
pub(crate) fn refused_by_brokers(topology: &Topology) -> Option<Refused> {
    let brokers = match topology.cluster_size as usize {
        // Nobody has been heard yet.
        0 => topology.brokers.len(),
        size => size,
    };
    if brokers == 1 {
        return Some(Refused::Standalone);
    }
    let healthy = topology.brokers.iter().filter(|broker| is_healthy(broker)).count();
    (healthy < HEALTHY_MIN).then_some(Refused::TooFewHealthy { healthy, brokers })
}

/// Answers, and is not about to stop.
fn is_healthy(broker: &BrokerView) -> bool {
    broker.reachable && !broker.draining
}

/// Whether ownership is being transferred because a broker failed: then something has no leader.
pub(crate) fn refused_by_failover(topology: &Topology) -> Option<Refused> {
    let system = topology.system.as_ref().filter(|group| group.leader.is_none());
    let leaderless = topology.partitions.iter().find(|partition| partition.leader.is_none());
    let leaderless = leaderless
        .map(|partition| Leaderless::Partition(partition.id))
        .or(system.map(|_| Leaderless::SystemGroup))?;
    Some(Refused::FailoverUnderWay { leaderless })
}

/// A partition to be handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handover {
    pub(crate) partition: PartitionId,
    pub(crate) from: NodeId,
    pub(crate) epoch: Epoch,
    /// Best first.
    pub(crate) candidates: Vec<NodeId>,
    records: u64,
}

/// What is to be moved, and how things were before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Earmarked {
    pub(crate) handovers: Vec<Handover>,
    brokers: BTreeMap<NodeId, Before>,
    /// Who led what.
    owners: BTreeMap<PartitionId, NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Before {
    uuid: String,
    owned: u64,
}

/// Earmarks the partitions that bring overloaded brokers down to the optimal count, as far as partitions allow.
///
/// # Errors
/// When healthy brokers cannot be told apart by their UUIDs.
pub(crate) fn earmark(topology: &Topology, now: &LeadersNow) -> Result<Earmarked, Refused> {
    let mut brokers = BTreeMap::new();
    let mut uuids = BTreeSet::new();
    for broker in topology.brokers.iter().filter(|broker| broker.reachable) {
        if broker.uuid.is_empty() || !uuids.insert(&broker.uuid) {
            let node = broker.node;
            return Err(Refused::Internal(format!(
                "broker {node}: UUID {:?} is empty or another broker's; give each its own data folder",
                broker.uuid
            )));
        }
        brokers
            .insert(broker.node, Before { uuid: broker.uuid.clone(), owned: owned(topology, broker.node).0 });
    }
    let request = PlanRequest { policy: Policy::Records, ..PlanRequest::default() };
    let view = cluster_view(topology, now);
    let plan = match plan(&view, &request) {
        // What only lag keeps where it is stays earmarked, and will not be accepted: who is told that nothing was found
        // takes ownership for even.
        plan if plan.is_empty() => crate::planner::plan(&without_lag(view), &request),
        plan => plan,
    };
    let handover = |transfer: &crate::planner::Transfer| {
        let partition = topology.partition(transfer.partition)?;
        let decided = plan.decisions.iter().find(|decision| decision.partition == transfer.partition)?;
        let Decision::Move { from, to, alternatives } = &decided.decision else { return None };
        Some(Handover {
            partition: transfer.partition,
            from: *from,
            epoch: partition.epoch?,
            candidates: std::iter::once(*to).chain(alternatives.iter().copied()).collect(),
            records: partition.records,
        })
    };
    let handovers = plan.transfers.iter().filter_map(handover).collect();
    let led = topology.partitions.iter().filter_map(|partition| Some((partition.id, partition.leader?)));
    Ok(Earmarked { handovers, brokers, owners: led.collect() })
}

/// The cluster as it will be once everybody has caught up.
fn without_lag(mut view: ClusterView) -> ClusterView {
    for replica in view.partitions.iter_mut().flat_map(|partition| &mut partition.replicas) {
        (replica.lag_entries, replica.lag_bytes) = (Some(0), Some(0));
    }
    view
}

/// Records and partitions that a broker owns.
fn owned(topology: &Topology, node: NodeId) -> (u64, u64) {
    let own = topology.partitions.iter().filter(|partition| partition.leader == Some(node));
    own.fold((0, 0), |(records, partitions), partition| (records + partition.records, partitions + 1))
}

/// Whether the topology shows who leads the partition after `before`, and with a complete count.
pub(crate) fn is_settled(topology: &Topology, partition: PartitionId, before: Epoch) -> bool {
    topology.partition(partition).is_some_and(|now| {
        now.leader.is_some() && now.counted && now.epoch.is_some_and(|epoch| epoch > before)
    })
}

/// One broker's account, under ESC's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    pub(crate) previous_configs_count: u64,
    pub(crate) requested_unload_count: u64,
    pub(crate) accepted_unload_count: u64,
    pub(crate) current_configs_count: u64,
}

impl Account {
    /// Everything earmarked has left.
    pub(crate) fn is_complete(&self) -> bool {
        self.accepted_unload_count == self.requested_unload_count
    }
}

/// The account of a finished rebalance, by broker UUID. `after` is the topology that followed, `transferred` names
/// the new leaders that the old ones reported. A partition counts for the leader that `after` shows; where it does
/// not show the news yet, or no leader, for the last that is known.
pub(crate) fn account(
    earmarked: &Earmarked,
    after: &Topology,
    transferred: &BTreeMap<PartitionId, NodeId>,
) -> BTreeMap<String, Account> {
    let stale: BTreeMap<PartitionId, NodeId> = earmarked
        .handovers
        .iter()
        .filter(|handover| {
            after.partition(handover.partition).is_some_and(|p| p.epoch <= Some(handover.epoch))
        })
        .filter_map(|handover| Some((handover.partition, *transferred.get(&handover.partition)?)))
        .collect();
    let owner = |partition: &PartitionView| {
        let known = |owners: &BTreeMap<PartitionId, NodeId>| owners.get(&partition.id).copied();
        known(&stale).or(partition.leader).or(known(transferred)).or(known(&earmarked.owners))
    };
    let brokers = earmarked.brokers.iter();
    let mut accounts: BTreeMap<NodeId, Account> = brokers
        .map(|(node, broker)| (*node, Account { previous_configs_count: broker.owned, ..Account::default() }))
        .collect();
    for handover in &earmarked.handovers {
        let account = accounts.entry(handover.from).or_default();
        account.requested_unload_count += handover.records;
        let now = after.partition(handover.partition).and_then(owner);
        if now.is_some_and(|now| now != handover.from) {
            account.accepted_unload_count += handover.records;
        }
    }
    for partition in &after.partitions {
        if let Some(owner) = owner(partition) {
            accounts.entry(owner).or_default().current_configs_count += partition.records;
        }
    }
    let uuid = |node: NodeId| {
        let known = earmarked.brokers.get(&node).map(|broker| broker.uuid.clone());
        // A broker that returned meanwhile, and leads already.
        known.or_else(|| after.broker(node).map(|broker| broker.uuid.clone()))
    };
    accounts.into_iter().filter_map(|(node, account)| Some((uuid(node)?, account))).collect()
}

/// Who owns what: `GET /ESCManager/internal/ownership`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OwnershipJson {
    /// `null` while the system group, which knows, cannot be asked.
    paused: Option<bool>,
    brokers: Vec<OwnerJson>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct OwnerJson {
    /// `null` until the broker has been heard.
    uuid: Option<String>,
    node_id: u64,
    records: u64,
    partitions_led: u64,
    healthy: bool,
}

/// Who owns what, in order of node id.
pub(crate) fn ownership(topology: &Topology, paused: Option<bool>) -> OwnershipJson {
    let owner = |broker: &BrokerView| {
        let (records, partitions_led) = owned(topology, broker.node);
        let uuid = Some(broker.uuid.clone()).filter(|uuid| !uuid.is_empty());
        OwnerJson { uuid, node_id: broker.node.0, records, partitions_led, healthy: is_healthy(broker) }
    };
    OwnershipJson { paused, brokers: topology.brokers.iter().map(owner).collect() }
}

#[cfg(test)]
#[path = "esc_tests.rs"]
mod tests;
