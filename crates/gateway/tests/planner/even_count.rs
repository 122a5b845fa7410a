//! Even counts with the fewest moves, against every assignment there is.

use evenkeel_gateway::planner::{
    ClusterView, PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX, Transfer, plan,
};
use evenkeel_protocol::NodeId;
use proptest::prelude::*;

use crate::world::{carry_out, catch_up, clusters, come_back, die, round_robin};

fn request() -> PlanRequest {
    PlanRequest { policy: Policy::EvenCount, ..PlanRequest::default() }
}

/// Who may lead each partition.
fn options(cluster: &ClusterView) -> Vec<Vec<NodeId>> {
    let broker = |node: NodeId| *cluster.brokers.iter().find(|b| b.node == node).unwrap();
    let of = |partition: &evenkeel_gateway::planner::PartitionState| {
        let Some(leader) = partition.leader.filter(|leader| broker(*leader).healthy) else {
            return partition.leader.into_iter().collect();
        };
        let able = partition.replicas.iter().filter(|r| {
            let lag = r.lag_bytes.is_some_and(|lag| lag <= REPLICATION_LAG_BYTES_MAX);
            r.node != leader
                && r.voter
                && r.reachable
                && lag
                && broker(r.node).healthy
                && !broker(r.node).drained
        });
        let mut options: Vec<NodeId> = able.map(|replica| replica.node).collect();
        if !broker(leader).drained || options.is_empty() {
            options.push(leader);
        }
        options
    };
    cluster.partitions.iter().map(of).collect()
}

/// Loads from the largest down, and moves.
fn outcome(cluster: &ClusterView, leaders: &[Option<NodeId>]) -> (Vec<usize>, usize) {
    let count = |node: NodeId| leaders.iter().filter(|leader| **leader == Some(node)).count();
    let mut loads: Vec<usize> = cluster.brokers.iter().map(|b| count(b.node)).collect();
    loads.sort_unstable_by_key(|load| std::cmp::Reverse(*load));
    let moves = cluster.partitions.iter().zip(leaders).filter(|(p, leader)| p.leader != **leader).count();
    (loads, moves)
}

fn best(cluster: &ClusterView) -> (Vec<usize>, usize) {
    let mut assignments: Vec<Vec<Option<NodeId>>> = vec![Vec::new()];
    for options in options(cluster) {
        let options: Vec<Option<NodeId>> =
            if options.is_empty() { vec![None] } else { options.into_iter().map(Some).collect() };
        assignments = assignments
            .into_iter()
            .flat_map(|assignment| {
                options
                    .iter()
                    .map(move |option| [assignment.as_slice(), &[*option]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    assignments.iter().map(|assignment| outcome(cluster, assignment)).min().unwrap()
}

fn planned(cluster: &ClusterView) -> (Vec<usize>, usize) {
    let transfers: Vec<Transfer> = plan(cluster, &request()).transfers;
    let leaders: Vec<Option<NodeId>> = cluster
        .partitions
        .iter()
        .map(|p| transfers.iter().find(|t| t.partition == p.id).map(|t| t.to).or(p.leader))
        .collect();
    outcome(cluster, &leaders)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_assignment_is_more_even_nor_as_even_with_fewer_moves(cluster in clusters(1..6, 0..7)) {
        prop_assert_eq!(planned(&cluster), best(&cluster));
    }
}

#[test]
fn leaders_differ_by_at_most_one_after_a_return() {
    for (brokers, partitions) in [(3, 12), (3, 13), (5, 60), (7, 100)] {
        let mut cluster = round_robin(brokers, partitions, 3, 1);
        die(&mut cluster, NodeId(0));
        come_back(&mut cluster, NodeId(0));
        // While it lags, only the others are made even.
        let others = plan(&cluster, &request());
        assert!(others.transfers.iter().all(|transfer| transfer.to != NodeId(0)));
        carry_out(&mut cluster, &others.transfers);
        catch_up(&mut cluster, NodeId(0));
        let (loads, moves) = planned(&cluster);
        assert!(loads[0] - loads[loads.len() - 1] <= 1, "{loads:?}");
        let lacked = u64::from(partitions) / brokers;
        // In larger rings its heirs are few and the others shift, too.
        assert!(if brokers == 3 { moves as u64 == lacked } else { moves as u64 >= lacked }, "{moves} moves");
    }
}
