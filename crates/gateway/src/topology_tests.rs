use super::*;
use evenkeel_protocol::internal::v1::BrokerStatus;

fn contacts() -> Vec<Contact> {
    (0..3).map(|node| Contact { node: NodeId(node), host: "b".into(), port: 26510 + node as u16 }).collect()
}

/// A status of `node` with one replica of partition 1 in three, primary broker 0.
fn status(node: u64, role: Role, term: u64) -> Event {
    Event::Status(Box::new(raw_status(node, role, term).into()))
}

fn raw_status(node: u64, role: Role, term: u64) -> BrokerStatus {
    BrokerStatus {
        node_id: node,
        cluster_id: "c".into(),
        host: format!("host-{node}"),
        port: 26501,
        version: "1".into(),
        partitions_count: 1,
        replication_factor: 3,
        cluster_size: 3,
        priority_election: true,
        replicas: vec![ReplicaStatus {
            partition_id: 1,
            role: role.into(),
            health: Health::Healthy.into(),
            priority: 3u32.saturating_sub(node as u32),
            term,
            replicas: (0..3).map(|id| ReplicaPriority { node_id: id, priority: 3 - id as u32 }).collect(),
            ..ReplicaStatus::default()
        }],
        ..BrokerStatus::default()
    }
}

#[test]
fn the_system_group_is_routed_to_and_not_shown() {
    let now = Instant::now();
    let mut state = ClusterState::new(&contacts());
    let mut status = raw_status(1, Role::Leader, 3);
    let mut system = status.replicas[0].clone();
    system.partition_id = 0;
    status.replicas.push(system);
    state.apply(Event::Status(Box::new(status.into())), now).unwrap();
    let view = state.view(now);
    assert_eq!(view.partition(SYSTEM_GROUP).and_then(|group| group.leader), Some(NodeId(1)));
    let shown: Vec<PartitionId> = view.partitions.iter().map(|p| p.id).collect();
    assert_eq!(shown, [PartitionId(1)]);
    assert!(view.brokers.iter().flat_map(|b| &b.replicas).all(|r| r.partition == PartitionId(1)));
}

fn leader_after(events: &[Event]) -> Option<NodeId> {
    let now = Instant::now();
    let mut state = ClusterState::new(&contacts());
    for event in events {
        state.apply(event.clone(), now).unwrap();
    }
    state.view(now).partitions.first().and_then(|partition| partition.leader)
}

#[test]
fn the_leader_is_the_reachable_claimant_of_the_highest_epoch() {
    use Role::{Follower, Leader};
    let lost = |node| Event::Lost(NodeId(node));
    let table: [(&str, Vec<Event>, Option<u64>); 9] = [
        ("nobody claims", vec![status(0, Follower, 5)], None),
        ("one claims", vec![status(0, Leader, 5), status(1, Follower, 5)], Some(0)),
        ("the higher term wins", vec![status(0, Leader, 5), status(1, Leader, 6)], Some(1)),
        ("in whatever order it is heard", vec![status(1, Leader, 6), status(0, Leader, 5)], Some(1)),
        ("in one term the higher node id wins", vec![status(1, Leader, 5), status(0, Leader, 5)], Some(1)),
        (
            "never back to an older term, even when the newer leader is gone",
            vec![status(0, Leader, 5), status(1, Leader, 6), status(1, Follower, 7)],
            None,
        ),
        ("a leader that cannot be reached is none", vec![status(0, Leader, 5), lost(0)], None),
        ("until it is back", vec![status(0, Leader, 5), lost(0), status(0, Leader, 5)], Some(0)),
        (
            "a newer election takes over",
            vec![status(0, Leader, 5), lost(0), status(2, Leader, 6), status(0, Leader, 5)],
            Some(2),
        ),
    ];
    for (name, events, expected) in table {
        assert_eq!(leader_after(&events), expected.map(NodeId), "{name}");
    }
}

#[test]
fn a_silent_broker_is_unreachable_after_three_seconds() {
    let start = Instant::now();
    let mut state = ClusterState::new(&contacts());
    state.apply(status(0, Role::Leader, 5), start).unwrap();
    let replica = |view: &Topology| view.brokers[0].replicas[0].clone();

    let view = state.view(start + SILENCE_MAX);
    assert!(view.brokers[0].reachable);
    assert_eq!((replica(&view).role, replica(&view).health), (Role::Leader, Health::Healthy));

    let view = state.view(start + SILENCE_MAX + Duration::from_millis(1));
    assert!(!view.brokers[0].reachable);
    assert_eq!((replica(&view).role, replica(&view).health), (Role::Inactive, Health::Dead));
    assert_eq!(view.partitions[0].leader, None);
    assert_eq!(view.partitions[0].primary, Some(NodeId(0)), "the distribution stays known");
}

#[test]
fn a_broker_never_heard_shows_with_the_replicas_that_others_know_of() {
    let now = Instant::now();
    let mut state = ClusterState::new(&contacts());
    state.apply(status(1, Role::Leader, 5), now).unwrap();
    let view = state.view(now);
    let unheard = view.broker(NodeId(2)).unwrap();
    assert_eq!((unheard.host.as_str(), unheard.port, unheard.reachable), ("b", 26512, false));
    assert_eq!((unheard.replicas[0].priority, unheard.replicas[0].role), (1, Role::Inactive));
}

#[test]
fn lag_is_what_the_leader_says() {
    let now = Instant::now();
    let mut leader = raw_status(0, Role::Leader, 5);
    leader.replicas[0].followers = vec![
        FollowerLag { node_id: 1, entries: Some(7), bytes: Some(700), unreachable: false, silent: false },
        FollowerLag { node_id: 2, entries: None, bytes: None, unreachable: false, silent: false },
    ];
    let mut state = ClusterState::new(&contacts());
    state.apply(status(1, Role::Follower, 5), now).unwrap();
    state.apply(Event::Status(Box::new(leader.into())), now).unwrap();
    let lags: Vec<_> = state.view(now).brokers.iter().map(|broker| broker.replicas[0].lag_entries).collect();
    assert_eq!(lags, [Some(0), Some(7), None]);
}

#[test]
fn replicas_that_share_the_highest_priority_are_no_primary() {
    let set = |priorities: &[u32]| -> Vec<ReplicaPriority> {
        (0..).zip(priorities).map(|(node_id, &priority)| ReplicaPriority { node_id, priority }).collect()
    };
    let primary = |priorities: &[u32], drained: &[u64]| {
        primary_of(&set(priorities), &drained.iter().copied().collect())
    };
    assert_eq!(primary(&[1, 3, 2], &[]), Some(NodeId(1)));
    assert_eq!(primary(&[1, 3, 2], &[1]), Some(NodeId(2)));
    assert_eq!(primary(&[1, 1, 1], &[]), None);
    assert_eq!(primary(&[], &[]), None);
}

#[test]
fn a_broker_of_another_cluster_or_partition_count_is_refused() {
    let now = Instant::now();
    let mut state = ClusterState::new(&contacts());
    state.apply(status(0, Role::Leader, 5), now).unwrap();

    let mut other = raw_status(1, Role::Leader, 9);
    other.cluster_id = "x".into();
    let refused = state.apply(Event::Status(Box::new(other.into())), now).unwrap_err();
    assert!(matches!(refused, StatusRefused::OtherCluster { node: NodeId(1), .. }));

    let mut wider = raw_status(1, Role::Follower, 5);
    wider.partitions_count = 2;
    let refused = state.apply(Event::Status(Box::new(wider.into())), now).unwrap_err();
    assert_eq!(refused, StatusRefused::PartitionsCount { node: NodeId(1), theirs: 2, ours: 1 });

    let refused = state.apply(status(7, Role::Follower, 5), now).unwrap_err();
    assert_eq!(refused, StatusRefused::UnknownBroker(NodeId(7)));
    assert_eq!(state.view(now).partitions[0].leader, Some(NodeId(0)), "refused statuses change nothing");
}

#[test]
fn a_new_cluster_at_the_old_addresses_begins_with_its_own_terms() {
    let now = Instant::now();
    let mut state = ClusterState::new(&contacts());
    state.apply(status(0, Role::Leader, 50), now).unwrap();
    state.apply(Event::Lost(NodeId(0)), now).unwrap();
    let mut fresh = raw_status(1, Role::Leader, 1);
    fresh.cluster_id = "new".into();
    state.apply(Event::Status(Box::new(fresh.into())), now).unwrap();
    assert_eq!(state.view(now).partitions[0].leader, Some(NodeId(1)));
}

#[test]
fn records_are_what_the_leader_has_applied() {
    let now = Instant::now();
    let reported = |node: u64, role, records, applied_index| {
        let mut status = raw_status(node, role, 5);
        status.broker_uuid = format!("uuid-{node}");
        status.replicas[0].records = records;
        (status.replicas[0].commit_index, status.replicas[0].applied_index) = (9, applied_index);
        Event::Status(Box::new(status.into()))
    };
    let table = [
        (
            "nobody leads",
            vec![reported(0, Role::Follower, 5, 9), reported(1, Role::Follower, 6, 9)],
            (6, false),
        ),
        (
            "the leader has less",
            vec![reported(0, Role::Follower, 7, 9), reported(1, Role::Leader, 6, 9)],
            (6, true),
        ),
        ("in any order", vec![reported(0, Role::Leader, 6, 9), reported(1, Role::Follower, 7, 9)], (6, true)),
        ("the leader still applies", vec![reported(0, Role::Leader, 6, 8)], (6, false)),
    ];
    for (name, events, expected) in table {
        let mut state = ClusterState::new(&contacts());
        for event in events {
            state.apply(event, now).unwrap();
        }
        let view = state.view(now);
        assert_eq!((view.partitions[0].records, view.partitions[0].counted), expected, "{name}");
        assert_eq!((view.brokers[0].uuid.as_str(), view.brokers[2].uuid.as_str()), ("uuid-0", ""), "{name}");
    }
}
