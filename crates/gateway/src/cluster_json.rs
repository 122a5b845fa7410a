//! Partitions and brokers as the API port shows them: in full detail, and by numbers rather than by text. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use evenkeel_protocol::v1::{Health, Role};
use evenkeel_protocol::{NodeId, PartitionId};
use serde::Serialize;

use crate::rebalance_record::{is_balanced, timestamp};
use crate::topology::{BrokerView, Indices, PartitionView, ReplicaView, Topology};
use crate::topology_feed::quorum_margins;
use crate::topology_views::GATEWAY_VERSION;

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterJson {
    cluster_size: u32,
    partitions_count: u32,
    replication_factor: u32,
    priority_election: bool,
    gateway_version: &'static str,
    /// Leader of the system group, without which no run can start.
    system_leader: Option<NodeId>,
    pub(crate) brokers: Vec<BrokerJson>,
    pub(crate) partitions: Vec<PartitionJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BrokerJson {
    pub(crate) node_id: NodeId,
    host: String,
    port: u32,
    version: String,
    uuid: String,
    reachable: bool,
    drained: bool,
    /// Handing its leaderships over before it stops.
    stopping: bool,
    leaders: usize,
    /// Leaders that it has when everyone leads what it is the primary of.
    primaries: usize,
    replicas: usize,
    /// In the partitions that it leads.
    records: u64,
    replicated_bytes_total: u64,
    disk_free_bytes: Option<u64>,
    disk_size_bytes: Option<u64>,
    certificate_expires_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartitionJson {
    pub(crate) partition_id: PartitionId,
    leader: Option<NodeId>,
    primary: Option<NodeId>,
    /// Of the current or the last leadership; with its node, the fencing token.
    term: Option<u64>,
    records: u64,
    balanced: bool,
    /// Replicas that it can lose and still have a majority; below 0 it has none.
    quorum_margin: i64,
    pub(crate) replicas: Vec<ReplicaJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplicaJson {
    node_id: NodeId,
    role: &'static str,
    health: &'static str,
    priority: u32,
    lag_entries: Option<u64>,
    lag_bytes: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) indices: Option<IndicesJson>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndicesJson {
    last_log_index: u64,
    commit_index: u64,
    applied_index: u64,
}

impl From<Indices> for IndicesJson {
    fn from(indices: Indices) -> Self {
        Self {
            last_log_index: indices.last_log,
            commit_index: indices.commit,
            applied_index: indices.applied,
        }
    }
}

/// Whether replicas are shown with their indices, which change with every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithIndices {
    No,
    Yes,
}

pub(crate) fn cluster(topology: &Topology) -> ClusterJson {
    ClusterJson {
        cluster_size: topology.cluster_size,
        partitions_count: topology.partitions_count,
        replication_factor: topology.replication_factor,
        priority_election: topology.priority_election,
        gateway_version: GATEWAY_VERSION,
        system_leader: topology.system.as_ref().and_then(|group| group.leader),
        brokers: topology.brokers.iter().map(|view| broker(topology, view)).collect(),
        partitions: partitions(topology),
    }
}

impl ClusterJson {
    /// Whether all but brokers and partitions is the same, and there are as many of these.
    pub(crate) fn has_frame_of(&self, other: &Self) -> bool {
        let frame = |this: &Self| {
            (
                (this.cluster_size, this.partitions_count, this.replication_factor),
                (this.priority_election, this.system_leader, this.brokers.len(), this.partitions.len()),
            )
        };
        frame(self) == frame(other)
    }
}

pub(crate) fn broker(topology: &Topology, broker: &BrokerView) -> BrokerJson {
    let led = || topology.partitions.iter().filter(|partition| partition.leader == Some(broker.node));
    let expires = |seconds: u64| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
    BrokerJson {
        node_id: broker.node,
        host: broker.host.clone(),
        port: broker.port,
        version: broker.version.clone(),
        uuid: broker.uuid.clone(),
        reachable: broker.reachable,
        drained: broker.drained,
        stopping: broker.draining,
        leaders: led().count(),
        primaries: topology.partitions.iter().filter(|p| p.primary == Some(broker.node)).count(),
        replicas: broker.replicas.len(),
        records: led().map(|partition| partition.records).sum(),
        replicated_bytes_total: broker.replicated_bytes_total,
        disk_free_bytes: broker.facts.disk_free_bytes,
        disk_size_bytes: broker.facts.disk_size_bytes,
        certificate_expires_at: broker.facts.certificate_expires_at.map(expires),
    }
}

/// All of them, in order.
pub(crate) fn partitions(topology: &Topology) -> Vec<PartitionJson> {
    let mut replicas: BTreeMap<PartitionId, Vec<ReplicaJson>> = BTreeMap::new();
    for broker in &topology.brokers {
        for view in &broker.replicas {
            replicas.entry(view.partition).or_default().push(replica(broker.node, view, WithIndices::No));
        }
    }
    let margins = quorum_margins(topology);
    let shown = topology.partitions.iter().map(|view| {
        let margin = margins.get(&view.id).copied().unwrap_or_default();
        partition_of(view, margin, replicas.remove(&view.id).unwrap_or_default())
    });
    shown.collect()
}

/// One of them.
pub(crate) fn partition(topology: &Topology, view: &PartitionView, indices: WithIndices) -> PartitionJson {
    let replicas = topology.brokers.iter().filter_map(|broker| {
        let held = broker.replicas.iter().find(|replica| replica.partition == view.id)?;
        Some(replica(broker.node, held, indices))
    });
    let margin = quorum_margins(topology).get(&view.id).copied().unwrap_or_default();
    partition_of(view, margin, replicas.collect())
}

fn partition_of(view: &PartitionView, quorum_margin: i64, replicas: Vec<ReplicaJson>) -> PartitionJson {
    PartitionJson {
        partition_id: view.id,
        leader: view.leader,
        primary: view.primary,
        term: view.epoch.map(|epoch| epoch.term),
        records: view.records,
        balanced: is_balanced(view),
        quorum_margin,
        replicas,
    }
}

fn replica(node: NodeId, view: &ReplicaView, indices: WithIndices) -> ReplicaJson {
    ReplicaJson {
        node_id: node,
        role: match view.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Inactive | Role::Unspecified => "inactive",
        },
        health: match view.health {
            Health::Healthy => "healthy",
            Health::Dead => "dead",
            Health::Unhealthy | Health::Unspecified => "unhealthy",
        },
        priority: view.priority,
        lag_entries: view.lag_entries,
        lag_bytes: view.lag_bytes,
        indices: (indices == WithIndices::Yes).then(|| view.indices.into()),
    }
}
