//! The rebalance planner: who should lead which partition, and which transfers bring that about. Pure.
//!
//! [`plan`] serves every caller: a rebalance by hand or by itself, a drain, Cisco ESC's ownership rebalance. The
//! way of a plan: `standing` says who could take each partition over and which are not to be touched, `placement`
//! gives each a leader by the [`Policy`], `verdict` and `explanation` say what that means for each and why,
//! `execution_order` spreads the moves, `fingerprint` names the whole.
//!
//! What holds of every plan:
//! - A move goes to a voter that is reachable, on a healthy broker that is not drained, and within the lag limit.
//! - A drained broker keeps a leadership only if nobody can take it over or the request left it out.
//! - No broker is given more leaderships than the cap, except to drain another.
//! - Planned again after every move was done, nothing is left to move. Who leads now matters only to save moves,
//!   so plans cannot chase each other: without a change of topology there is at most one plan that moves anything.

mod assignment;
mod cluster_view;
mod decisions;
mod execution_order;
mod explanation;
mod fingerprint;
mod placement;
mod plan_request;
mod records;
mod standing;
mod verdict;

pub use cluster_view::{BrokerState, ClusterView, PartitionState, ReplicaState};
pub use decisions::{BrokerLoad, Decision, Hindrance, PartitionDecision, Plan, Reason, Transfer};
pub use plan_request::{PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX};

use standing::{Brokers, Standing};
use verdict::{Court, Loads};

/// Decides what to do with every partition. The same arguments give the same plan, in whatever order brokers,
/// partitions and replicas are listed.
#[must_use]
pub fn plan(cluster: &ClusterView, request: &PlanRequest) -> Plan {
    let brokers = Brokers::new(cluster);
    let mut partitions: Vec<&PartitionState> = cluster.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.id);
    let standings: Vec<Standing<'_>> =
        partitions.into_iter().map(|partition| Standing::new(partition, &brokers, request)).collect();

    let now: Vec<Option<usize>> = standings.iter().map(|standing| standing.leader).collect();
    let before = Loads::of(&standings, &now, brokers.len());
    let records_optimal = records_optimal(&before, &brokers);
    let placement = placement::place(&standings, &brokers, request, records_optimal);
    let after = Loads::of(&standings, &placement.goal, brokers.len());

    let court = Court {
        brokers: &brokers,
        request,
        placement: &placement,
        before: &before,
        after: &after,
        records_optimal,
        paused: cluster.paused,
    };
    let decisions: Vec<PartitionDecision> =
        standings.iter().enumerate().map(|(i, standing)| court.decide(i, standing)).collect();
    let fingerprint = fingerprint::fingerprint(cluster, request, &brokers, &standings, &decisions);
    let brokers = if cluster.paused {
        broker_loads(&brokers, &standings, &now, &before, &before)
    } else {
        broker_loads(&brokers, &standings, &placement.goal, &before, &after)
    };
    let transfers = execution_order::spread(decisions.iter().filter_map(transfer).collect());
    Plan { decisions, transfers, brokers, records_optimal, fingerprint }
}

fn transfer(decision: &PartitionDecision) -> Option<Transfer> {
    match &decision.decision {
        Decision::Move { from, to, .. } => {
            Some(Transfer { partition: decision.partition, from: *from, to: *to })
        }
        Decision::Stay | Decision::Skip => None,
    }
}

fn records_optimal(before: &Loads, brokers: &Brokers) -> u64 {
    let total = before.records.iter().fold(0_u64, |sum, owned| sum.saturating_add(*owned));
    let owners = brokers.iter().filter(|broker| broker.healthy && !broker.drained).count() as u64;
    total.div_ceil(owners.max(1))
}

fn broker_loads(
    brokers: &Brokers,
    standings: &[Standing<'_>],
    reached: &[Option<usize>],
    before: &Loads,
    after: &Loads,
) -> Vec<BrokerLoad> {
    let mut requested = vec![0_u64; brokers.len()];
    for (standing, to) in standings.iter().zip(reached) {
        if let Some(from) = standing.leader.filter(|_| standing.leader != *to) {
            requested[from] = requested[from].saturating_add(standing.partition.records);
        }
    }
    let load = |(i, broker): (usize, &BrokerState)| BrokerLoad {
        node: broker.node,
        leaders_before: before.leaders[i],
        leaders_after: after.leaders[i],
        records_before: before.records[i],
        records_after: after.records[i],
        records_requested: requested[i],
    };
    brokers.iter().enumerate().map(load).collect()
}
