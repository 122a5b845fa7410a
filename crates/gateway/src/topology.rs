//! Merges what brokers push into one view of the cluster. Pure: events and the clock come in as arguments.
//!
//! A partition's leader is the replica that claims leadership in the highest epoch (term, then node id) ever
//! claimed, as long as its broker is reachable and still claims it. Because the highest epoch is remembered,
//! a deposed leader that has not noticed can never take the view back to an older term.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_protocol::internal::v1::{FollowerLag, ReplicaPriority, ReplicaStatus};
use evenkeel_protocol::v1::{Health, Role};
use evenkeel_protocol::{Epoch, NodeId, PartitionId, SYSTEM_GROUP};

use crate::options::Contact;
use crate::told_status::ToldStatus;

/// A broker that has said nothing for longer counts as unreachable; brokers speak at least once a second.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// What the view is made of, and what changes it.
#[derive(Clone, Debug)]
pub enum Event {
    /// A broker pushed its state.
    Status(Box<ToldStatus>),
    /// A broker's status stream broke.
    Lost(NodeId),
    /// Time passed.
    Tick,
}

/// Why a pushed status was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusRefused {
    /// Not one of the contact points.
    #[error("broker {0} is not in cluster.brokers; add it there")]
    UnknownBroker(NodeId),
    /// Belongs to another cluster than the reachable brokers do.
    #[error(
        "broker {node} belongs to cluster {theirs}, the others to {ours}; correct its address in cluster.brokers"
    )]
    OtherCluster {
        /// Who.
        node: NodeId,
        /// Its cluster.
        theirs: String,
        /// The cluster that the others form.
        ours: String,
    },
    /// Would route keys elsewhere.
    #[error("broker {node} has {theirs} partitions, the others {ours}; give every broker the same count")]
    PartitionsCount {
        /// Who.
        node: NodeId,
        /// Its count.
        theirs: u32,
        /// The count that the others have.
        ours: u32,
    },
}

/// One replica as the gateway sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaView {
    /// Of which partition.
    pub partition: PartitionId,
    /// `Leader` only for the partition's one leader; `Inactive` when the broker is unreachable.
    pub role: Role,
    /// `Dead` when the broker is unreachable.
    pub health: Health,
    /// Higher leads.
    pub priority: u32,
    /// Term of the leadership that the replica knows.
    pub term: u64,
    /// Log entries that it lacks, as the leader sees it.
    pub lag_entries: Option<u64>,
    /// Bytes that it lacks, as the leader sees it.
    pub lag_bytes: Option<u64>,
    /// How far its log is.
    pub indices: Indices,
}

/// How far a replica's log is, as its broker told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indices {
    /// Of the last entry.
    pub last_log: u64,
    /// Of the last entry known to be committed.
    pub commit: u64,
    /// Of the last entry that was applied.
    pub applied: u64,
}

/// What a broker tells of the machine that it runs on; nothing until it was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Free on the disk with its data folder.
    pub disk_free_bytes: Option<u64>,
    /// Size of that disk.
    pub disk_size_bytes: Option<u64>,
    /// When its certificate expires, in seconds since 1970; `None` without TLS.
    pub certificate_expires_at: Option<u64>,
}

/// One broker as the gateway sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerView {
    /// Who.
    pub node: NodeId,
    /// What clients are shown as its host.
    pub host: String,
    /// What clients are shown as its port.
    pub port: u32,
    /// Version of its program; empty while unknown.
    pub version: String,
    /// Made at its first start, kept in its data folder; empty while unknown.
    pub uuid: String,
    /// Connected, and heard of lately.
    pub reachable: bool,
    /// Stopping: it hands its leaderships over and must be given none.
    pub draining: bool,
    /// An operator wants it to lead nothing.
    pub drained: bool,
    /// Bytes of entries that its leaders have replicated since it started.
    pub replicated_bytes_total: u64,
    /// Of its machine.
    pub facts: HostFacts,
    /// In order of partition.
    pub replicas: Vec<ReplicaView>,
}

/// One partition as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Which.
    pub id: PartitionId,
    /// Who leads, when someone does.
    pub leader: Option<NodeId>,
    /// Highest leadership ever seen; the current one when there is a leader.
    pub epoch: Option<Epoch>,
    /// The replica with the single highest priority among those whose broker is not drained.
    pub primary: Option<NodeId>,
    /// Brokers that hold a replica.
    pub replicas: Vec<NodeId>,
    /// Records in it, as its leader has applied them; without a leader, the most that any replica has reported.
    pub records: u64,
    /// There is a leader, and it had applied everything committed when it counted.
    pub counted: bool,
}

/// Who led when a request was sent: a change of this is news to it.
pub type SeenLeader = (Option<NodeId>, Option<Epoch>);

impl PartitionView {
    /// The leadership as it is now.
    #[must_use]
    pub fn seen(&self) -> SeenLeader {
        (self.leader, self.epoch)
    }

    /// Whether another broker than `node` has come to lead since `seen`.
    #[must_use]
    pub fn is_led_by_other(&self, node: NodeId, seen: SeenLeader) -> bool {
        self.leader.is_some_and(|leader| leader != node) && self.seen() != seen
    }
}

/// The cluster as the gateway sees it; immutable, published as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Brokers that the cluster should have.
    pub cluster_size: u32,
    /// 0 until a broker has been heard.
    pub partitions_count: u32,
    /// Replicas of each partition.
    pub replication_factor: u32,
    /// Whether any reachable broker elects by priority.
    pub priority_election: bool,
    /// In order of node id.
    pub brokers: Vec<BrokerView>,
    /// In order of id, all of 1..=`partitions_count`.
    pub partitions: Vec<PartitionView>,
    /// The system group: routed to like a partition, shown as none.
    pub system: Option<PartitionView>,
}

/// A published [`Topology`].
pub type SharedTopology = Arc<Topology>;

impl Topology {
    /// The partition, when the cluster has it, or the system group.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionView> {
        if id == SYSTEM_GROUP {
            return self.system.as_ref();
        }
        self.partitions.get((id.0 as usize).checked_sub(1)?)
    }

    /// The broker, when it is a contact point.
    #[must_use]
    pub fn broker(&self, node: NodeId) -> Option<&BrokerView> {
        self.brokers.binary_search_by_key(&node, |broker| broker.node).ok().map(|i| &self.brokers[i])
    }

    /// Whether any broker can be reached.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.brokers.iter().any(|broker| broker.reachable)
    }
}

#[derive(Debug)]
struct Known {
    contact: Contact,
    status: Option<ToldStatus>,
    /// When the broker last spoke; `None` while its stream is down.
    heard_at: Option<Instant>,
}

impl Known {
    fn is_reachable(&self, now: Instant) -> bool {
        self.heard_at.is_some_and(|at| now.saturating_duration_since(at) <= SILENCE_MAX)
    }
}

/// Everything heard so far.
#[derive(Debug)]
pub struct ClusterState {
    brokers: BTreeMap<NodeId, Known>,
    highest_epochs: HashMap<u32, Epoch>,
    cluster_id: Option<String>,
    partitions_count: u32,
}

impl ClusterState {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(contacts: &[Contact]) -> Self {
        let known = |contact: &Contact| {
            (contact.node, Known { contact: contact.clone(), status: None, heard_at: None })
        };
        Self {
            brokers: contacts.iter().map(known).collect(),
            highest_epochs: HashMap::new(),
            cluster_id: None,
            partitions_count: 0,
        }
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// When a status cannot belong to this cluster; the state is as before.
    pub fn apply(&mut self, event: Event, now: Instant) -> Result<(), StatusRefused> {
        match event {
            Event::Status(status) => self.take(*status, now),
            Event::Lost(node) => {
                if let Some(known) = self.brokers.get_mut(&node) {
                    known.heard_at = None;
                }
                Ok(())
            }
            Event::Tick => Ok(()),
        }
    }

    fn take(&mut self, status: ToldStatus, now: Instant) -> Result<(), StatusRefused> {
        let node = NodeId(status.head.node_id);
        if !self.brokers.contains_key(&node) {
            return Err(StatusRefused::UnknownBroker(node));
        }
        let others_reachable = self.brokers.iter().any(|(id, known)| *id != node && known.is_reachable(now));
        match &self.cluster_id {
            Some(ours) if *ours != status.head.cluster_id && others_reachable => {
                let (theirs, ours) = (status.head.cluster_id, ours.clone());
                return Err(StatusRefused::OtherCluster { node, theirs, ours });
            }
            // All that we knew is gone: this is a new cluster at the old addresses, whose terms begin anew.
            Some(ours) if *ours != status.head.cluster_id => {
                self.highest_epochs.clear();
                self.partitions_count = 0;
                for known in self.brokers.values_mut() {
                    known.status = None;
                    known.heard_at = None;
                }
            }
            _ => {}
        }
        if self.partitions_count != 0 && self.partitions_count != status.head.partitions_count {
            let (theirs, ours) = (status.head.partitions_count, self.partitions_count);
            return Err(StatusRefused::PartitionsCount { node, theirs, ours });
        }
        self.cluster_id = Some(status.head.cluster_id.clone());
        self.partitions_count = status.head.partitions_count;
        for replica in &status.replicas {
            if replica.role == Role::Leader as i32 {
                let epoch = Epoch { term: replica.term, node };
                let highest = self.highest_epochs.entry(replica.partition_id).or_insert(epoch);
                *highest = (*highest).max(epoch);
            }
        }
        if let Some(known) = self.brokers.get_mut(&node) {
            known.status = Some(status);
            known.heard_at = Some(now);
        }
        Ok(())
    }

    /// What the cluster looks like at `now`.
    #[must_use]
    pub fn view(&self, now: Instant) -> Topology {
        let reachable: Vec<&Known> = self.brokers.values().filter(|known| known.is_reachable(now)).collect();
        let newest =
            reachable.iter().copied().chain(self.brokers.values()).find_map(|known| known.status.as_ref());
        let (system, partitions) = self.group_views(now);
        let brokers =
            self.brokers.values().map(|known| self.broker_view(known, now, &partitions)).collect::<Vec<_>>();
        Topology {
            cluster_size: newest.map_or(0, |status| status.head.cluster_size),
            partitions_count: self.partitions_count,
            replication_factor: newest.map_or(0, |status| status.head.replication_factor),
            priority_election: reachable
                .iter()
                .any(|known| known.status.as_ref().is_some_and(|status| status.head.priority_election)),
            brokers,
            partitions: partitions.into_iter().map(|merged| merged.view).collect(),
            system: Some(system.view).filter(|view| !view.replicas.is_empty()),
        }
    }

    /// The system group, and all partitions in order.
    fn group_views(&self, now: Instant) -> (MergedPartition<'_>, Vec<MergedPartition<'_>>) {
        let mut merged: Vec<MergedPartition<'_>> = (SYSTEM_GROUP.0..=self.partitions_count)
            .map(|id| MergedPartition {
                view: PartitionView {
                    id: PartitionId(id),
                    leader: None,
                    epoch: self.highest_epochs.get(&id).copied(),
                    primary: None,
                    replicas: Vec::new(),
                    records: 0,
                    counted: false,
                },
                replica_set: &[],
                lags: &[],
            })
            .collect();
        for (node, known) in &self.brokers {
            let Some(status) = &known.status else { continue };
            let reachable = known.is_reachable(now);
            for replica in &status.replicas {
                let Some(partition) = merged.get_mut(replica.partition_id as usize) else { continue };
                let leads = reachable
                    && replica.role == Role::Leader as i32
                    && partition.view.epoch == Some(Epoch { term: replica.term, node: *node });
                if leads {
                    partition.view.leader = Some(*node);
                    partition.view.records = replica.records;
                    partition.view.counted = replica.applied_index >= replica.commit_index;
                    partition.lags = &replica.followers;
                } else if partition.view.leader.is_none() {
                    partition.view.records = partition.view.records.max(replica.records);
                }
                if leads || partition.replica_set.is_empty() {
                    partition.replica_set = &replica.replicas;
                }
            }
        }
        let drained: HashSet<u64> = self
            .brokers
            .iter()
            .filter(|(_, known)| known.status.as_ref().is_some_and(|status| status.head.drained))
            .map(|(node, _)| node.0)
            .collect();
        for partition in &mut merged {
            partition.view.primary = primary_of(partition.replica_set, &drained);
            partition.view.replicas =
                partition.replica_set.iter().map(|replica| NodeId(replica.node_id)).collect();
        }
        let partitions = merged.split_off(1);
        (merged.remove(0), partitions)
    }

    fn broker_view(&self, known: &Known, now: Instant, partitions: &[MergedPartition<'_>]) -> BrokerView {
        let node = known.contact.node;
        let reachable = known.is_reachable(now);
        let mut own = vec![None; partitions.len() + 1];
        for replica in known.status.iter().flat_map(|status| &status.replicas) {
            if let Some(slot) = own.get_mut(replica.partition_id as usize) {
                *slot = Some(replica);
            }
        }
        let replicas = partitions
            .iter()
            .filter_map(|partition| {
                let id = partition.view.id;
                let status: Option<&ReplicaStatus> = own[id.0 as usize].map(Arc::as_ref);
                let priority = partition
                    .replica_set
                    .iter()
                    .find(|replica| replica.node_id == node.0)
                    .map(|replica| replica.priority)
                    .or(status.map(|replica| replica.priority))?;
                let (lag_entries, lag_bytes) = partition.lag_of(node);
                Some(ReplicaView {
                    partition: id,
                    role: role_of(status.filter(|_| reachable), partition.view.leader == Some(node)),
                    health: if reachable {
                        status.map_or(Health::Unhealthy, ReplicaStatus::health)
                    } else {
                        Health::Dead
                    },
                    priority,
                    term: status.map_or(0, |replica| replica.term),
                    lag_entries,
                    lag_bytes,
                    indices: status.map_or_else(Indices::default, |replica| Indices {
                        last_log: replica.last_log_index,
                        commit: replica.commit_index,
                        applied: replica.applied_index,
                    }),
                })
            })
            .collect();
        let advertised = known.status.as_ref().filter(|status| !status.head.host.is_empty());
        BrokerView {
            node,
            host: advertised.map_or_else(|| known.contact.host.clone(), |status| status.head.host.clone()),
            port: advertised.map_or(u32::from(known.contact.port), |status| status.head.port),
            version: known.status.as_ref().map_or_else(String::new, |status| status.head.version.clone()),
            uuid: known.status.as_ref().map_or_else(String::new, |status| status.head.broker_uuid.clone()),
            reachable,
            draining: known.status.as_ref().is_some_and(|status| status.head.draining),
            drained: known.status.as_ref().is_some_and(|status| status.head.drained),
            replicated_bytes_total: known
                .status
                .as_ref()
                .map_or(0, |status| status.head.replicated_bytes_total),
            facts: known.status.as_ref().map_or_else(HostFacts::default, |status| HostFacts {
                disk_free_bytes: status.head.disk_free_bytes,
                disk_size_bytes: status.head.disk_size_bytes,
                certificate_expires_at: status.head.certificate_expires_at,
            }),
            replicas,
        }
    }
}

/// A partition's view with what the broker views still need.
struct MergedPartition<'a> {
    view: PartitionView,
    replica_set: &'a [ReplicaPriority],
    /// As the leader tells.
    lags: &'a [FollowerLag],
}

impl MergedPartition<'_> {
    /// Entries and bytes that the replica lacks.
    fn lag_of(&self, node: NodeId) -> (Option<u64>, Option<u64>) {
        if self.view.leader == Some(node) {
            return (Some(0), Some(0));
        }
        let lag = self.lags.iter().find(|lag| lag.node_id == node.0);
        lag.map_or((None, None), |lag| (lag.entries, lag.bytes))
    }
}

/// A claim to lead that is not the highest epoch's is a deposed leader's: it follows.
fn role_of(status: Option<&ReplicaStatus>, leads: bool) -> Role {
    match status.map(ReplicaStatus::role) {
        _ if leads => Role::Leader,
        Some(Role::Leader | Role::Follower) => Role::Follower,
        Some(Role::Candidate) => Role::Candidate,
        _ => Role::Inactive,
    }
}

fn primary_of(replicas: &[ReplicaPriority], drained: &HashSet<u64>) -> Option<NodeId> {
    let willing = || replicas.iter().filter(|replica| !drained.contains(&replica.node_id));
    let highest = willing().map(|replica| replica.priority).max()?;
    let mut primaries = willing().filter(|replica| replica.priority == highest);
    let first = primaries.next()?;
    primaries.next().is_none().then_some(NodeId(first.node_id))
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
