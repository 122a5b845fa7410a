//! What every plan keeps to, under every policy and in every state of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_gateway::planner::{
    ClusterView, Decision, PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX, Reason, plan,
};
use evenkeel_protocol::{NodeId, PartitionId};
use proptest::prelude::*;

use crate::world::{
    broker, carry_out, catch_up, check, clusters, come_back, die, partition, replica, round_robin,
    set_drained,
};

pub fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Primary), Just(Policy::EvenCount), Just(Policy::Records)]
}

fn requests() -> impl Strategy<Value = PlanRequest> {
    (
        policies(),
        proptest::option::weighted(0.4, 1_u32..6),
        proptest::option::weighted(
            0.2,
            proptest::collection::btree_set((1_u32..20).prop_map(PartitionId), 0..15),
        ),
        proptest::collection::btree_map((1_u32..20).prop_map(PartitionId), (0_u64..7).prop_map(NodeId), 0..3),
    )
        .prop_map(|(policy, leaders_per_broker_max, partitions, targets)| PlanRequest {
            policy,
            replication_lag_bytes_max: REPLICATION_LAG_BYTES_MAX,
            leaders_per_broker_max,
            partitions,
            targets,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn moves_go_only_to_those_who_can_lead_and_loads_add_up(
        cluster in clusters(1..7, 0..20),
        request in requests(),
    ) {
        check(&cluster, &plan(&cluster, &request), request.replication_lag_bytes_max);
    }

    #[test]
    fn a_second_plan_is_empty(cluster in clusters(1..7, 0..20), request in requests()) {
        let first = plan(&cluster, &request);
        let mut after = cluster;
        carry_out(&mut after, &first.transfers);
        let second = plan(&after, &request);
        prop_assert!(second.is_empty(), "first {:?}\nthen {:?}", first.transfers, second.transfers);
    }

    #[test]
    fn a_drained_broker_keeps_only_what_nobody_can_take(
        cluster in clusters(1..7, 0..20),
        policy in policies(),
        cap in proptest::option::of(1_u32..4),
    ) {
        let request = PlanRequest { policy, leaders_per_broker_max: cap, ..PlanRequest::default() };
        let drained: BTreeSet<NodeId> =
            cluster.brokers.iter().filter(|b| b.drained && b.healthy).map(|b| b.node).collect();
        for decision in plan(&cluster, &request).decisions {
            if decision.current.is_some_and(|leader| drained.contains(&leader)) {
                let left = matches!(decision.decision, Decision::Move { .. });
                prop_assert!(left || decision.reason == Reason::NoCandidate, "{}", decision.detail);
            }
        }
    }

    #[test]
    fn nobody_is_moved_above_the_cap_except_to_drain(
        cluster in clusters(1..7, 0..20),
        policy in policies(),
        cap in 1_u32..5,
    ) {
        let request = PlanRequest { policy, leaders_per_broker_max: Some(cap), ..PlanRequest::default() };
        let plan = plan(&cluster, &request);
        for load in plan.brokers.iter().filter(|load| load.leaders_after > cap) {
            for transfer in plan.transfers.iter().filter(|transfer| transfer.to == load.node) {
                let from = cluster.brokers.iter().find(|b| b.node == transfer.from).unwrap();
                prop_assert!(from.drained, "{:?} makes {:?}", transfer, load);
            }
        }
    }

    #[test]
    fn exactly_the_misplaced_partitions_go_home(cluster in clusters(1..7, 0..20)) {
        let request = PlanRequest::default();
        let plan = plan(&cluster, &request);
        for (decision, partition) in plan.decisions.iter().zip(&cluster.partitions) {
            let broker = |node: NodeId| cluster.brokers.iter().find(|b| b.node == node).unwrap();
            let highest = partition.replicas.iter().map(|r| r.priority).max().unwrap();
            let single = partition.replicas.iter().filter(|r| r.priority == highest).count() == 1;
            let expected = partition
                .leader
                .filter(|leader| broker(*leader).healthy)
                .filter(|leader| broker(*leader).drained || (partition.priority_election && single))
                .and_then(|leader| {
                    let best = partition
                        .replicas
                        .iter()
                        .filter(|r| broker(r.node).healthy && !broker(r.node).drained)
                        .filter(|r| r.voter && r.reachable)
                        .filter(|r| r.lag_bytes.is_some_and(|lag| lag <= request.replication_lag_bytes_max))
                        .max_by_key(|r| (r.priority, std::cmp::Reverse(r.node)))?;
                    (best.node != leader).then_some((leader, best.node))
                });
            let moved = match decision.decision {
                Decision::Move { from, to, .. } => Some((from, to)),
                _ => None,
            };
            prop_assert_eq!(moved, expected, "{}", decision.detail);
        }
    }

    #[test]
    fn the_order_in_which_things_are_listed_does_not_matter(
        cluster in clusters(1..7, 0..20),
        request in requests(),
    ) {
        let mut turned = cluster.clone();
        turned.brokers.reverse();
        turned.partitions.reverse();
        turned.partitions.iter_mut().for_each(|partition| partition.replicas.reverse());
        prop_assert_eq!(plan(&turned, &request), plan(&cluster, &request));
    }

    #[test]
    fn a_little_lag_does_not_change_the_fingerprint(
        cluster in clusters(1..7, 1..20),
        request in requests(),
        more in 1_u64..1000,
    ) {
        let limit = request.replication_lag_bytes_max;
        let mut later = cluster.clone();
        for replica in later.partitions.iter_mut().flat_map(|partition| &mut partition.replicas) {
            replica.lag_bytes = replica.lag_bytes.map(|lag| if lag <= limit { (lag + more).min(limit) } else { lag + more });
            replica.lag_entries = replica.lag_entries.map(|lag| lag + more);
        }
        prop_assert_eq!(plan(&later, &request).fingerprint, plan(&cluster, &request).fingerprint);
    }
}

type Change = fn(&mut ClusterView);

#[test]
fn whatever_matters_changes_the_fingerprint() {
    let cluster = round_robin(3, 6, 3, 10);
    let fingerprint = |cluster: &ClusterView, request: &PlanRequest| plan(cluster, request).fingerprint;
    let request = PlanRequest::default();
    let first = fingerprint(&cluster, &request);
    assert!(first.len() == 16 && first.chars().all(|c| c.is_ascii_hexdigit()));
    let changes: [Change; 9] = [
        |c| c.partitions[0].leader = Some(NodeId(1)),
        |c| c.partitions[0].term += 1,
        |c| c.partitions[0].replicas[1].priority.0 += 10,
        |c| c.partitions[0].replicas[2].reachable = false,
        |c| c.partitions[0].replicas[2].lag_bytes = Some(u64::MAX),
        |c| c.partitions[0].priority_election = false,
        |c| c.brokers[2].healthy = false,
        |c| c.brokers[2].drained = true,
        |c| c.paused = true,
    ];
    let mut seen = BTreeSet::from([first.clone()]);
    for change in changes {
        let mut changed = cluster.clone();
        change(&mut changed);
        assert!(seen.insert(fingerprint(&changed, &request)));
    }
    let requests = [
        PlanRequest { policy: Policy::EvenCount, ..PlanRequest::default() },
        PlanRequest { policy: Policy::Records, ..PlanRequest::default() },
        PlanRequest { leaders_per_broker_max: Some(9), ..PlanRequest::default() },
        PlanRequest { partitions: Some(BTreeSet::from([PartitionId(1)])), ..PlanRequest::default() },
        PlanRequest { targets: BTreeMap::from([(PartitionId(1), NodeId(0))]), ..PlanRequest::default() },
        PlanRequest { replication_lag_bytes_max: 1, ..PlanRequest::default() },
    ];
    for request in requests {
        assert!(seen.insert(fingerprint(&cluster, &request)));
    }
    let mut written = cluster;
    written.partitions[0].records += 1;
    assert_eq!(fingerprint(&written, &request), first);
}

#[test]
fn neighbouring_transfers_share_no_broker_on_the_same_side() {
    let mut cluster = round_robin(6, 60, 3, 10);
    // Two that share no partition died and came back: their partitions are with the others.
    for event in [die, come_back, catch_up] {
        [NodeId(0), NodeId(3)].into_iter().for_each(|node| event(&mut cluster, node));
    }
    let plan = plan(&cluster, &PlanRequest::default());
    assert_eq!(plan.transfers.len(), 20);
    let clashes = plan.transfers.windows(2).filter(|t| t[0].from == t[1].from || t[0].to == t[1].to).count();
    assert_eq!(clashes, 0, "{:?}", plan.transfers);
}

#[test]
fn a_broker_that_nobody_described_is_given_nothing() {
    let view = ClusterView {
        brokers: vec![broker(0)],
        partitions: vec![partition(1, 0, 5, vec![replica(0, 1), replica(9, 2)])],
        paused: false,
    };
    let plan = plan(&view, &PlanRequest::default());
    assert!(plan.is_empty());
    assert_eq!(plan.decisions[0].reason, Reason::PrimaryUnreachable);
}

#[test]
fn an_empty_cluster_has_an_empty_plan() {
    for policy in [Policy::Primary, Policy::EvenCount, Policy::Records] {
        let request = PlanRequest { policy, leaders_per_broker_max: Some(0), ..PlanRequest::default() };
        let plan = plan(&ClusterView::default(), &request);
        assert!(plan.is_empty() && plan.decisions.is_empty() && plan.brokers.is_empty());
    }
}

#[test]
fn paused_nothing_moves_under_any_policy() {
    let mut cluster = round_robin(3, 12, 3, 10);
    set_drained(&mut cluster, NodeId(0), true);
    cluster.paused = true;
    for policy in [Policy::Primary, Policy::EvenCount, Policy::Records] {
        let plan = plan(&cluster, &PlanRequest { policy, ..PlanRequest::default() });
        check(&cluster, &plan, REPLICATION_LAG_BYTES_MAX);
        assert!(plan.is_empty());
        assert!(plan.decisions.iter().any(|decision| decision.reason == Reason::Paused));
    }
}
