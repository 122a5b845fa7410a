//! The topology in the three shapes that clients read: `evenkeel.v1`, Zeebe's gateway protocol, and Zeebe's REST
//! `/v2/topology`.
//!
//! Zeebe's shapes list only brokers that can be reached, as Zeebe does; ours lists all.

use evenkeel_protocol::v1::{Health, Role};
use evenkeel_protocol::{Epoch, gateway_protocol as zeebe, v1};
use serde::Serialize;

use crate::topology::{BrokerView, ReplicaView, Topology};

/// Version of this gateway.
pub(crate) const GATEWAY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// `evenkeel.v1.Cluster/Topology`.
pub(crate) fn to_v1(topology: &Topology) -> v1::TopologyResponse {
    let replica = |replica: &ReplicaView| v1::Replica {
        partition_id: replica.partition.0,
        role: replica.role.into(),
        health: replica.health.into(),
        priority: replica.priority,
        term: replica.term,
        lag_entries: replica.lag_entries,
        lag_bytes: replica.lag_bytes,
    };
    let broker = |broker: &BrokerView| v1::Broker {
        node_id: broker.node.0,
        host: broker.host.clone(),
        port: broker.port,
        version: broker.version.clone(),
        reachable: broker.reachable,
        replicas: broker.replicas.iter().map(replica).collect(),
        draining: broker.draining,
        drained: broker.drained,
    };
    v1::TopologyResponse {
        brokers: topology.brokers.iter().map(broker).collect(),
        partitions: topology
            .partitions
            .iter()
            .map(|partition| v1::Partition {
                partition_id: partition.id.0,
                leader: partition.leader.map(|node| node.0),
                primary: partition.primary.map(|node| node.0),
                term: partition.epoch.map_or(0, |epoch| epoch.term),
                epoch: partition.epoch.map(epoch_to_v1),
            })
            .collect(),
        cluster_size: topology.cluster_size,
        partitions_count: topology.partitions_count,
        replication_factor: topology.replication_factor,
        gateway_version: GATEWAY_VERSION.into(),
        priority_election: topology.priority_election,
    }
}

/// A fencing token.
pub(crate) fn epoch_to_v1(epoch: Epoch) -> v1::Epoch {
    v1::Epoch { term: epoch.term, node_id: epoch.node.0 }
}

/// `gateway_protocol.Gateway/Topology`.
pub(crate) fn to_zeebe(topology: &Topology) -> zeebe::TopologyResponse {
    use zeebe::partition::{PartitionBrokerHealth, PartitionBrokerRole};
    let partition = |replica: &ReplicaView| zeebe::Partition {
        partition_id: signed(replica.partition.0),
        role: match replica.role {
            Role::Leader => PartitionBrokerRole::Leader,
            Role::Follower | Role::Candidate => PartitionBrokerRole::Follower,
            Role::Inactive | Role::Unspecified => PartitionBrokerRole::Inactive,
        }
        .into(),
        health: match replica.health {
            Health::Healthy => PartitionBrokerHealth::Healthy,
            Health::Dead => PartitionBrokerHealth::Dead,
            Health::Unhealthy | Health::Unspecified => PartitionBrokerHealth::Unhealthy,
        }
        .into(),
    };
    zeebe::TopologyResponse {
        brokers: reachable(topology)
            .map(|broker| zeebe::BrokerInfo {
                node_id: i32::try_from(broker.node.0).unwrap_or(i32::MAX),
                host: broker.host.clone(),
                port: signed(broker.port),
                partitions: broker.replicas.iter().map(partition).collect(),
                version: broker.version.clone(),
            })
            .collect(),
        cluster_size: signed(topology.cluster_size),
        partitions_count: signed(topology.partitions_count),
        replication_factor: signed(topology.replication_factor),
        gateway_version: GATEWAY_VERSION.into(),
    }
}

fn reachable(topology: &Topology) -> impl Iterator<Item = &BrokerView> {
    topology.brokers.iter().filter(|broker| broker.reachable)
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// `GET /v2/topology`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TopologyJson {
    brokers: Vec<BrokerJson>,
    cluster_size: u32,
    partitions_count: u32,
    replication_factor: u32,
    gateway_version: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerJson {
    node_id: u64,
    host: String,
    port: u32,
    partitions: Vec<PartitionJson>,
    version: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PartitionJson {
    partition_id: u32,
    role: &'static str,
    health: &'static str,
}

/// `GET /v2/topology`.
pub(crate) fn to_json(topology: &Topology) -> TopologyJson {
    let partition = |replica: &ReplicaView| PartitionJson {
        partition_id: replica.partition.0,
        role: match replica.role {
            Role::Leader => "leader",
            Role::Follower | Role::Candidate => "follower",
            Role::Inactive | Role::Unspecified => "inactive",
        },
        health: match replica.health {
            Health::Healthy => "healthy",
            Health::Dead => "dead",
            Health::Unhealthy | Health::Unspecified => "unhealthy",
        },
    };
    TopologyJson {
        brokers: reachable(topology)
            .map(|broker| BrokerJson {
                node_id: broker.node.0,
                host: broker.host.clone(),
                port: broker.port,
                partitions: broker.replicas.iter().map(partition).collect(),
                version: broker.version.clone(),
            })
            .collect(),
        cluster_size: topology.cluster_size,
        partitions_count: topology.partitions_count,
        replication_factor: topology.replication_factor,
        gateway_version: GATEWAY_VERSION,
    }
}
