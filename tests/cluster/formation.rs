//! A cluster starts, every partition is led from where it should be, and all views of it agree.

use std::collections::BTreeMap;

use evenkeel_protocol::gateway_protocol as zeebe;
use evenkeel_protocol::gateway_protocol::gateway_client::GatewayClient;
use evenkeel_protocol::v1::Consistency;
use http::Method;

use crate::harness::{Cluster, Spec, http, leaders, leads_per_broker, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_forms_with_every_leader_on_its_primary() {
    let cluster = Cluster::start(Spec::new(3, 12)).await;
    let topology = cluster.wait_until_balanced().await;
    assert_eq!((topology.cluster_size, topology.partitions_count, topology.replication_factor), (3, 12, 3));
    for partition in &topology.partitions {
        assert_eq!(partition.leader, Some(u64::from(partition.partition_id - 1) % 3), "{partition:?}");
    }
    assert_eq!(leads_per_broker(&topology), [4, 4, 4]);
}

/// (broker, partition) → role and health.
type Roles = BTreeMap<(u64, u32), (String, String)>;

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_serve_the_same_records_and_every_topology_agrees() {
    let cluster = Cluster::start(Spec::new(3, 4).gateways(2)).await;
    let [first, second] = [0, 1].map(|gateway| cluster.client_of(gateway));
    first.put("written-at-one", "read at the other", None).await.unwrap();
    let record = second.get("written-at-one", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(record.value, "read at the other");

    let zeebe = wait_until("the same topology in every shape", async || {
        let ours = leaders(&second.topology().await.map_err(|error| error.to_string())?);
        let json = http(Method::GET, &cluster.api("/v2/topology")).await?.json();
        let rest = roles_of_json(&json);
        let response = GatewayClient::new(cluster.channel(1)).topology(zeebe::TopologyRequest {}).await;
        let grpc = response.map_err(|status| status.to_string())?.into_inner();
        let roles = roles_of_zeebe(&grpc);
        let led = rest.iter().filter(|(_, (role, _))| role == "leader").map(|((node, p), _)| (*p, *node));
        let agree = rest == roles && led.collect::<BTreeMap<_, _>>() == ours && rest.len() == 12;
        let healthy = rest.values().all(|(_, health)| health == "healthy");
        if agree && healthy { Ok((json, grpc)) } else { Err(format!("{ours:?} {rest:?} {roles:?}")) }
    })
    .await;
    let (json, grpc) = zeebe;
    assert_eq!((grpc.cluster_size, grpc.partitions_count, grpc.replication_factor), (3, 4, 3));
    assert_eq!(json["clusterSize"], 3);
    assert_eq!(json["partitionsCount"], 4);
    assert_eq!(json["replicationFactor"], 3);
    assert_eq!(json["gatewayVersion"], grpc.gateway_version);
    for (node, (port, _)) in cluster.ports.brokers.iter().enumerate() {
        assert_eq!(json["brokers"][node]["host"], "127.0.0.1");
        assert_eq!(json["brokers"][node]["port"], *port);
    }
}

fn roles_of_json(topology: &serde_json::Value) -> Roles {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let brokers = topology["brokers"].as_array().unwrap().iter();
    let partitions = brokers.flat_map(|broker| {
        let node = number(&broker["nodeId"]);
        broker["partitions"].as_array().unwrap().iter().map(move |partition| (node, partition))
    });
    let entry = |(node, partition): (u64, &serde_json::Value)| {
        let id = u32::try_from(number(&partition["partitionId"])).unwrap();
        ((node, id), (text(&partition["role"]), text(&partition["health"])))
    };
    partitions.map(entry).collect()
}

fn roles_of_zeebe(topology: &zeebe::TopologyResponse) -> Roles {
    let brokers = topology.brokers.iter();
    let partitions = brokers.flat_map(|broker| broker.partitions.iter().map(|p| (broker.node_id, p)));
    let entry = |(node, partition): (i32, &zeebe::Partition)| {
        let id = u32::try_from(partition.partition_id).unwrap();
        let role = partition.role().as_str_name().to_lowercase();
        let health = partition.health().as_str_name().to_lowercase();
        ((u64::try_from(node).unwrap(), id), (role, health))
    };
    partitions.map(entry).collect()
}
