use super::*;
use crate::topology::ReplicaView;
use evenkeel_protocol::internal::v1::{BrokerStatus, ReplicaStatus};
use evenkeel_protocol::v1::{Health, Role};

fn epoch(term: u64, node: u64) -> Epoch {
    Epoch { term, node: NodeId(node) }
}

/// Every partition on every broker; `partitions` are (leader, records).
fn topology(brokers: u64, partitions: &[(Option<u64>, u64)]) -> Topology {
    let replica = |id: u32| ReplicaView {
        partition: PartitionId(id),
        role: Role::Follower,
        health: Health::Healthy,
        priority: 1,
        term: 4,
        lag_entries: Some(0),
        lag_bytes: Some(0),
        indices: crate::topology::Indices::default(),
    };
    let broker = |node: u64| BrokerView {
        node: NodeId(node),
        host: "b".into(),
        port: 1,
        version: String::new(),
        uuid: format!("esc{}-uuid", node + 1),
        reachable: true,
        draining: false,
        drained: false,
        replicated_bytes_total: 0,
        facts: crate::topology::HostFacts::default(),
        replicas: (1..=partitions.len() as u32).map(replica).collect(),
    };
    let partition = |(id, &(leader, records)): (u32, &(Option<u64>, u64))| PartitionView {
        id: PartitionId(id),
        leader: leader.map(NodeId),
        epoch: Some(epoch(4, leader.unwrap_or(0))),
        primary: None,
        replicas: (0..brokers).map(NodeId).collect(),
        records,
        counted: true,
    };
    Topology {
        cluster_size: brokers as u32,
        partitions_count: partitions.len() as u32,
        replication_factor: brokers as u32,
        priority_election: true,
        brokers: (0..brokers).map(broker).collect(),
        partitions: (1..).zip(partitions).map(partition).collect(),
        system: None,
    }
}

/// ESC's example: 12 partitions of 50 records, six on each of two brokers, none on the third.
fn example() -> Topology {
    let partitions: Vec<_> = (0..12).map(|i| (Some(i % 2), 50)).collect();
    topology(3, &partitions)
}

/// Broker `to` leads the partition from now on.
fn lead(topology: &mut Topology, partition: PartitionId, to: NodeId) {
    let partition = &mut topology.partitions[partition.0 as usize - 1];
    partition.leader = Some(to);
    partition.epoch = Some(epoch(5, to.0));
}

/// Previous, requested, accepted, current, in order of UUID.
fn numbers(accounts: &BTreeMap<String, Account>) -> Vec<(u64, u64, u64, u64)> {
    let numbers = |account: &Account| {
        let Account {
            previous_configs_count,
            requested_unload_count,
            accepted_unload_count,
            current_configs_count,
        } = *account;
        assert!(accepted_unload_count <= requested_unload_count);
        (previous_configs_count, requested_unload_count, accepted_unload_count, current_configs_count)
    };
    let all: Vec<_> = accounts.values().map(numbers).collect();
    assert_eq!(all.iter().map(|a| a.0).sum::<u64>(), all.iter().map(|a| a.3).sum::<u64>(), "{all:?}");
    all
}

#[test]
fn what_leaders_say_that_they_own_counts_before_what_was_pushed() {
    let stale = topology(3, &[(Some(0), 0), (Some(0), 7), (Some(1), 0)]);
    let mut now = LeadersNow::default();
    let led = |partition_id: u32, term: u64, records: u64| ReplicaStatus {
        partition_id,
        role: Role::Leader.into(),
        term,
        records,
        ..ReplicaStatus::default()
    };
    // The last one tells of a leadership that the topology does not show.
    now.take(&BrokerStatus {
        node_id: 0,
        replicas: vec![led(1, 4, 50), led(3, 5, 90)],
        ..Default::default()
    });
    let counted = now.counted(&stale);
    assert_eq!(counted.partitions.iter().map(|p| p.records).collect::<Vec<_>>(), [50, 7, 0]);
    assert_eq!(earmark(&stale, &LeadersNow::default()).unwrap().handovers.len(), 0);
    assert_ne!(earmark(&counted, &now).unwrap().handovers.len(), 0);
}

#[test]
fn escs_example_300_300_0_ends_at_200_each() {
    let before = example();
    let earmarked = earmark(&before, &LeadersNow::default()).unwrap();
    let mut after = before;
    let mut transferred = BTreeMap::new();
    for handover in &earmarked.handovers {
        assert_eq!(handover.candidates[0], NodeId(2));
        assert_eq!(handover.epoch, epoch(4, handover.from.0));
        lead(&mut after, handover.partition, handover.candidates[0]);
        transferred.insert(handover.partition, handover.candidates[0]);
    }
    let accounts = account(&earmarked, &after, &transferred);
    assert_eq!(numbers(&accounts), [(300, 100, 100, 200), (300, 100, 100, 200), (0, 0, 0, 200)]);
    assert_eq!(accounts.keys().collect::<Vec<_>>(), ["esc1-uuid", "esc2-uuid", "esc3-uuid"]);
    assert!(accounts.values().all(Account::is_complete));
    assert!(
        earmark(&after, &LeadersNow::default()).unwrap().handovers.is_empty(),
        "a second call finds nothing"
    );
}

#[test]
fn what_an_owner_did_not_hand_over_is_requested_and_not_accepted() {
    let before = example();
    let earmarked = earmark(&before, &LeadersNow::default()).unwrap();
    let refused = earmarked.handovers.iter().find(|handover| handover.from == NodeId(1)).unwrap().partition;
    let mut after = before;
    for handover in earmarked.handovers.iter().filter(|handover| handover.partition != refused) {
        lead(&mut after, handover.partition, NodeId(2));
    }
    let accounts = account(&earmarked, &after, &BTreeMap::new());
    assert_eq!(numbers(&accounts), [(300, 100, 100, 200), (300, 100, 50, 250), (0, 0, 0, 150)]);
    assert!(!accounts["esc2-uuid"].is_complete());
    // The next call moves the rest, and only that.
    let rest: Vec<_> = earmark(&after, &LeadersNow::default())
        .unwrap()
        .handovers
        .iter()
        .map(|h| (h.from, h.records))
        .collect();
    assert_eq!(rest, [(NodeId(1), 50)]);
}

#[test]
fn what_nobody_can_take_yet_for_its_lag_is_earmarked_and_not_called_even() {
    let mut before = example();
    for replica in &mut before.brokers[2].replicas {
        (replica.lag_entries, replica.lag_bytes) = (None, None);
    }
    let earmarked = earmark(&before, &LeadersNow::default()).unwrap();
    assert!(earmarked.handovers.iter().all(|handover| handover.candidates[0] == NodeId(2)));
    // Its owners refuse to hand over, so all is as it was.
    let accounts = account(&earmarked, &before, &BTreeMap::new());
    assert_eq!(numbers(&accounts), [(300, 100, 0, 300), (300, 100, 0, 300), (0, 0, 0, 0)]);
    // Who is away is another matter: that broker owns nothing until it is back.
    before.brokers[2].reachable = false;
    assert!(earmark(&before, &LeadersNow::default()).unwrap().handovers.is_empty());
}

#[test]
fn a_partition_counts_for_its_last_known_owner() {
    let before = topology(2, &[(Some(0), 10), (Some(0), 10), (Some(0), 10), (Some(0), 10)]);
    let earmarked = earmark(&before, &LeadersNow::default()).unwrap();
    let moved: Vec<PartitionId> = earmarked.handovers.iter().map(|handover| handover.partition).collect();
    assert_eq!(moved.len(), 2);
    let reported: BTreeMap<_, _> = moved.iter().map(|partition| (*partition, NodeId(1))).collect();
    let at = |partition: PartitionId| partition.0 as usize - 1;

    let mut leaderless = before.clone();
    leaderless.partitions[at(moved[0])].leader = None;
    let nobody = BTreeMap::new();
    let table = [
        ("the topology lags behind the reports", &before, &reported, [(40, 20, 20, 20), (0, 0, 0, 20)]),
        ("nothing moved", &before, &nobody, [(40, 20, 0, 40), (0, 0, 0, 0)]),
        ("one has no leader, as far as known", &leaderless, &reported, [(40, 20, 20, 20), (0, 0, 0, 20)]),
        ("one has no leader and did not move", &leaderless, &nobody, [(40, 20, 0, 40), (0, 0, 0, 0)]),
    ];
    for (name, after, transferred, expected) in table {
        assert_eq!(numbers(&account(&earmarked, after, transferred)), expected, "{name}");
    }
}

#[test]
fn a_broker_that_stops_or_is_away_is_given_nothing() {
    for (draining, reachable) in [(true, true), (false, false)] {
        let mut topology = example();
        (topology.brokers[2].draining, topology.brokers[2].reachable) = (draining, reachable);
        assert!(earmark(&topology, &LeadersNow::default()).unwrap().handovers.is_empty());
    }
}

#[test]
fn brokers_without_a_uuid_of_their_own_are_an_internal_error() {
    for uuid in ["", "esc1-uuid"] {
        let mut topology = example();
        topology.brokers[1].uuid = uuid.into();
        let error = earmark(&topology, &LeadersNow::default()).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (500, "Internal Error"));
    }
}

#[test]
fn refusals_come_in_the_order_of_what_must_be_mended_first() {
    let led = &[(Some(0), 1)][..];
    let leaderless = &[(Some(0), 1), (None, 1)][..];
    let away = |mut topology: Topology, nodes: &[usize]| {
        for node in nodes {
            topology.brokers[*node].reachable = false;
        }
        topology
    };
    let no_system = {
        let mut topology = topology(3, led);
        topology.system = Some(PartitionView { leader: None, ..topology.partitions[0].clone() });
        topology
    };
    let unheard = Topology { cluster_size: 0, ..away(topology(3, &[]), &[0, 1, 2]) };
    let code = |refused: Option<Refused>| refused.map(|refused| (refused.code(), refused.name()));
    let table = [
        ("all is well", topology(3, led), None, None),
        ("one broker", topology(1, led), Some((501, "refused_standalone")), None),
        ("one broker, away", away(topology(1, led), &[0]), Some((501, "refused_standalone")), None),
        ("one of three left", away(topology(3, led), &[1, 2]), Some((503, "refused_too_few_healthy")), None),
        ("two of three left", away(topology(3, led), &[2]), None, None),
        ("nobody heard yet", unheard, Some((503, "refused_too_few_healthy")), None),
        ("no leader", topology(3, leaderless), None, Some((409, "refused_failover"))),
        ("no leader of the system group", no_system, None, Some((409, "refused_failover"))),
    ];
    for (name, topology, brokers, failover) in table {
        assert_eq!(code(refused_by_brokers(&topology)), brokers, "{name}");
        assert_eq!(code(refused_by_failover(&topology)), failover, "{name}");
    }
}

#[test]
fn a_new_owner_is_settled_when_it_leads_in_a_newer_epoch_and_has_counted() {
    let mut topology = topology(2, &[(Some(0), 1)]);
    let (partition, before) = (PartitionId(1), epoch(4, 0));
    assert!(!is_settled(&topology, partition, before));
    lead(&mut topology, partition, NodeId(1));
    assert!(is_settled(&topology, partition, before));
    topology.partitions[0].counted = false;
    assert!(!is_settled(&topology, partition, before));
    (topology.partitions[0].counted, topology.partitions[0].leader) = (true, None);
    assert!(!is_settled(&topology, partition, before));
}

#[test]
fn who_owns_what_names_every_broker() {
    let mut topology = topology(2, &[(Some(0), 7), (Some(0), 5), (Some(1), 3)]);
    topology.brokers[1].reachable = false;
    topology.brokers[1].uuid = String::new();
    let shown = serde_json::to_value(ownership(&topology, Some(true))).unwrap();
    let expected = serde_json::json!({"paused": true, "brokers": [
        {"uuid": "esc1-uuid", "node_id": 0, "records": 12, "partitions_led": 2, "healthy": true},
        {"uuid": null, "node_id": 1, "records": 3, "partitions_led": 1, "healthy": false},
    ]});
    assert_eq!(shown, expected);
    assert!(serde_json::to_value(ownership(&topology, None)).unwrap()["paused"].is_null());
}
