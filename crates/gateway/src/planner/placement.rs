//! Where each partition goes under each policy.
//!
//! All three go through [`Assignment`] and differ in what an option costs and what a broker's nth leader does:
//!
//! | policy | option costs | broker's nth leader costs |
//! | --- | --- | --- |
//! | primary | rank among those who can lead | nothing, over the cap much |
//! | even count | nothing for the leader, one move for others | 2n − 1 moves, weighted: the sum of squares of leaders |
//! | records | as even count | nothing, over the cap much; then `records` evens out |
//!
//! Costs of different kinds are whole orders of magnitude apart, so the first to differ decides. The least sum of
//! squares is the least maximum, then the least second maximum and so on, so no broker leads more than it must.
//! Ranks break ties between moves.
//!
//! The primary policy does not look at who leads now: the same replicas always get the same leaders, capped or
//! not, and a second plan is empty.

use std::cmp::Reverse;

use super::assignment::Assignment;
use super::plan_request::{PlanRequest, Policy};
use super::records;
use super::standing::{Brokers, Freedom, Standing};

/// Above any sum of ranks along a path.
const MOVE: i64 = 1 << 20;
/// Above any number of moves along a path.
const UNEVEN: i64 = 1 << 32;
/// Above any unevenness, up to 2^20 partitions.
const OVER_CAP: i64 = 1 << 53;

/// For each partition the broker that shall lead it.
pub(super) struct Placement {
    pub(super) goal: Vec<Option<usize>>,
    /// Where it would go but for the cap.
    pub(super) held_back: Vec<Option<usize>>,
}

impl Placement {
    /// Who leads now.
    fn unchanged(standings: &[Standing<'_>]) -> Self {
        let goal = standings.iter().map(|standing| standing.leader).collect();
        Self { goal, held_back: vec![None; standings.len()] }
    }
}

/// Places every partition.
pub(super) fn place(
    standings: &[Standing<'_>],
    brokers: &Brokers,
    request: &PlanRequest,
    records_optimal: u64,
) -> Placement {
    let mut placement = Placement::unchanged(standings);
    let mut loads = vec![0; brokers.len()];
    let mut free = Vec::new();
    for (i, standing) in standings.iter().enumerate() {
        match standing.freedom {
            Freedom::Free => {
                free.push(i);
                continue;
            }
            Freedom::Named(broker) => placement.goal[i] = Some(broker),
            Freedom::Fixed(_) => {}
        }
        if let Some(broker) = placement.goal[i] {
            loads[broker] += 1;
        }
    }
    let options = free.iter().map(|i| options(&standings[*i], request.policy)).collect();
    let mut assignment = Assignment::at_cheapest(options, loads);
    let cap = request.leaders_per_broker_max.map_or(u64::MAX, u64::from);
    let over_cap = |nth: u64| if nth > cap { OVER_CAP } else { 0 };
    match request.policy {
        Policy::EvenCount => assignment.settle(|_, nth| {
            let odd = i64::try_from(2 * nth - 1).unwrap_or(i64::MAX / UNEVEN);
            over_cap(nth) + odd.min(OVER_CAP / UNEVEN) * UNEVEN
        }),
        Policy::Primary | Policy::Records if cap < u64::MAX => assignment.settle(|_, nth| over_cap(nth)),
        Policy::Primary | Policy::Records => {}
    }
    for (option, i) in free.iter().enumerate() {
        placement.goal[*i] = Some(assignment.broker_of(option));
    }
    if request.policy == Policy::Records {
        records::even_out(standings, brokers.len(), &mut placement.goal, records_optimal, cap);
    }
    hold_cap(standings, &mut placement, brokers.len(), cap);
    placement
}

fn options(standing: &Standing<'_>, policy: Policy) -> Vec<(usize, i64)> {
    let seats = standing.seats();
    let cost = |rank: usize, broker: usize| {
        let rank = i64::try_from(rank).unwrap_or(i64::MAX).min(MOVE - 1);
        match policy {
            Policy::Primary => rank,
            Policy::EvenCount | Policy::Records if standing.leader == Some(broker) => 0,
            Policy::EvenCount | Policy::Records => MOVE + rank,
        }
    };
    seats.iter().enumerate().map(|(rank, broker)| (*broker, cost(rank, *broker))).collect()
}

/// Takes moves back whose target would lead more than the cap, those of the policy before those asked for by name,
/// the highest partition first. What leaves a drained broker goes all the same.
fn hold_cap(standings: &[Standing<'_>], placement: &mut Placement, brokers: usize, cap: u64) {
    if cap == u64::MAX {
        return;
    }
    let mut loads = vec![0_u64; brokers];
    for broker in placement.goal.iter().flatten() {
        loads[*broker] += 1;
    }
    let mut moves_to: Vec<Vec<usize>> = vec![Vec::new(); brokers];
    for (i, standing) in standings.iter().enumerate() {
        let Some(to) = placement.goal[i] else { continue };
        if standing.leader != Some(to) && !standing.must_leave {
            moves_to[to].push(i);
        }
    }
    for moves in &mut moves_to {
        let named = |i: &usize| matches!(standings[*i].freedom, Freedom::Named(_));
        moves.sort_by_key(|i| (Reverse(named(i)), *i));
    }
    let mut over: Vec<usize> = (0..brokers).filter(|broker| loads[*broker] > cap).collect();
    while let Some(broker) = over.pop() {
        while loads[broker] > cap {
            let Some(i) = moves_to[broker].pop() else { break };
            placement.goal[i] = standings[i].leader;
            placement.held_back[i] = Some(broker);
            loads[broker] -= 1;
            if let Some(from) = standings[i].leader {
                loads[from] += 1;
                over.push(from);
            }
        }
    }
}
