//! Evens out the records that brokers own, partition by partition: greedy, then local improvement.
//!
//! A broker that owns more than the optimal count and a tolerance gives until it owns no more than the optimal. It
//! takes the step that applies first:
//! 1. the largest partition that fits both its excess and the other's deficit, to the broker that owns least;
//! 2. a chain: a partition to a neighbour, which passes another of about the size on, and so on;
//! 3. a swap of a larger partition for a smaller one, when that relieves the giver by more than 5 % of the optimal count.
//!
//! A step counts only if the giver owns less afterwards and whoever else it touched owns less than the giver did, by
//! more than the tolerance. So the loads, sorted from the largest, fall with every step: it ends, and where it ends
//! a second plan finds nothing.
//!
//! **Bound.** In the end no broker above the optimal count and the tolerance has a partition of w records that
//! another broker could take, below its cap, while owning more than w + tolerance less. Hence where any broker can
//! take any partition, each owns at most the optimal count + its smallest partition + the tolerance. Perfect packing
//! is NP-hard. The tolerance keeps writes during and after a run from moving leaderships back and forth.

use std::collections::{BTreeSet, VecDeque};

use super::standing::{Freedom, Standing};

/// Unevenness that is not worth a transfer, as a divisor of the optimal count: 1 %, below 100 records nothing.
const TOLERANCE_DIVISOR: u64 = 100;
/// Relief that is worth the two transfers of a swap, as a divisor of the optimal count.
const SWAP_DIVISOR: u64 = 20;
/// Steps for each partition, at most; a few suffice.
const STEPS_PER_PARTITION_MAX: usize = 16;

/// Records above the optimal count that a broker may keep.
pub(super) fn tolerance(records_optimal: u64) -> u64 {
    records_optimal / TOLERANCE_DIVISOR
}

/// Changes `goal` for free partitions so that no broker owns more than it must.
pub(super) fn even_out(
    standings: &[Standing<'_>],
    brokers: usize,
    goal: &mut [Option<usize>],
    records_optimal: u64,
    cap: u64,
) {
    let mut search = Search::new(standings, brokers, goal, records_optimal, cap);
    let mut steps_left = STEPS_PER_PARTITION_MAX * standings.len();
    loop {
        let mut givers: Vec<usize> = (0..brokers).filter(|broker| search.must_give(*broker)).collect();
        givers.sort_by_key(|broker| (std::cmp::Reverse(search.owned[*broker]), *broker));
        let mut improved = false;
        for giver in givers {
            while steps_left > 0 && search.relieve(giver) {
                steps_left -= 1;
                improved = true;
            }
        }
        if !improved || steps_left == 0 {
            break;
        }
    }
    for (i, broker) in search.goal.into_iter().enumerate() {
        goal[i] = broker;
    }
}

struct Search {
    brokers: usize,
    weights: Vec<u64>,
    seats: Vec<Vec<usize>>,
    goal: Vec<Option<usize>>,
    owned: Vec<u64>,
    leaders: Vec<u64>,
    /// At `from * brokers + to`: partitions that could be handed over, by weight; among equals those that are on the
    /// move already come last.
    arcs: Vec<BTreeSet<(u64, bool, usize)>>,
    leaders_now: Vec<Option<usize>>,
    optimal: u64,
    tolerance: u64,
    cap: u64,
}

/// A partition and where it goes.
type Handover = (usize, usize);

impl Search {
    fn new(
        standings: &[Standing<'_>],
        brokers: usize,
        goal: &[Option<usize>],
        optimal: u64,
        cap: u64,
    ) -> Self {
        let free = |standing: &Standing<'_>| standing.freedom == Freedom::Free;
        let mut search = Self {
            brokers,
            weights: standings.iter().map(|standing| standing.partition.records).collect(),
            seats: standings.iter().map(|s| if free(s) { s.seats() } else { Vec::new() }).collect(),
            goal: goal.to_vec(),
            leaders_now: standings.iter().map(|standing| standing.leader).collect(),
            owned: vec![0; brokers],
            leaders: vec![0; brokers],
            arcs: vec![BTreeSet::new(); brokers * brokers],
            optimal,
            tolerance: tolerance(optimal),
            cap,
        };
        for (i, broker) in goal.iter().enumerate() {
            if let Some(broker) = broker {
                search.enter(i, *broker);
            }
        }
        search
    }

    fn must_give(&self, broker: usize) -> bool {
        self.owned[broker] > self.optimal.saturating_add(self.tolerance)
    }

    /// Takes one step that relieves the broker, if there is one.
    fn relieve(&mut self, giver: usize) -> bool {
        if self.owned[giver] <= self.optimal {
            return false;
        }
        let step = self.direct(giver).or_else(|| self.chain(giver)).or_else(|| self.swap(giver));
        let Some(step) = step else { return false };
        for (partition, to) in step {
            self.leave(partition);
            self.enter(partition, to);
        }
        true
    }

    fn has_room(&self, broker: usize) -> bool {
        self.leaders[broker] < self.cap
    }

    /// Whether whoever owns so much afterwards is clearly better off than the giver was.
    fn better(&self, owned: u64, giver: usize) -> bool {
        owned.saturating_add(self.tolerance) < self.owned[giver]
    }

    fn direct(&self, giver: usize) -> Option<Vec<Handover>> {
        let mut takers: Vec<usize> = (0..self.brokers).filter(|taker| self.has_room(*taker)).collect();
        takers.sort_by_key(|taker| (self.owned[*taker], *taker));
        takers.into_iter().find_map(|taker| {
            let deficit = self.optimal.saturating_sub(self.owned[taker]);
            let wish = deficit.min(self.owned[giver] - self.optimal);
            let (weight, partition) = self.about(giver, taker, wish, true)?;
            let fits = self.better(self.owned[taker].saturating_add(weight), giver);
            fits.then(|| vec![(partition, taker)])
        })
    }

    /// A partition on the arc of about the weight wished for: the heaviest up to it, else the lightest above it.
    /// Those that move anyway are taken first; empty ones change nothing, so they are left out.
    fn about(&self, from: usize, to: usize, wish: u64, up_to_first: bool) -> Option<(u64, usize)> {
        let arc = &self.arcs[from * self.brokers + to];
        let last_of = |weight: u64| arc.range(..=(weight, true, usize::MAX)).next_back();
        let wish = wish.max(1);
        let up_to = last_of(wish).filter(|(weight, ..)| *weight > 0);
        let above =
            arc.range((wish.saturating_add(1), false, 0)..).next().and_then(|(weight, ..)| last_of(*weight));
        let chosen = match (up_to, above) {
            (Some(up_to), Some(above)) if !up_to_first && above.0 - wish < wish - up_to.0 => above,
            (Some(up_to), _) => up_to,
            (None, above) => above?,
        };
        Some((chosen.0, chosen.2))
    }

    /// Breadth first from the giver over brokers; each passes on a partition of about the weight that it got.
    fn chain(&self, giver: usize) -> Option<Vec<Handover>> {
        // How each broker was reached: from whom, with which partition, of what weight.
        let mut reached: Vec<Option<(usize, usize, u64)>> = vec![None; self.brokers];
        let mut queue = VecDeque::new();
        let excess = self.owned[giver] - self.optimal;
        for (next, first) in reached.iter_mut().enumerate() {
            if let Some((weight, partition)) = self.about(giver, next, excess, true) {
                *first = Some((giver, partition, weight));
                queue.push_back(next);
            }
        }
        while let Some(broker) = queue.pop_front() {
            let Some((_, _, got)) = reached[broker] else { continue };
            for next in (0..self.brokers).filter(|next| *next != giver) {
                if reached[next].is_some() {
                    continue;
                }
                let Some((weight, partition)) = self.about(broker, next, got, false) else { continue };
                let keeps = (self.owned[broker].saturating_add(got)).saturating_sub(weight);
                if !self.better(keeps, giver) {
                    continue;
                }
                reached[next] = Some((broker, partition, weight));
                if self.has_room(next) && self.better(self.owned[next].saturating_add(weight), giver) {
                    return Some(Self::path(&reached, giver, next));
                }
                queue.push_back(next);
            }
        }
        None
    }

    fn path(reached: &[Option<(usize, usize, u64)>], giver: usize, last: usize) -> Vec<Handover> {
        let mut path = Vec::new();
        let mut at = last;
        while let Some((from, partition, _)) = reached[at].filter(|_| at != giver) {
            path.push((partition, at));
            at = from;
        }
        path
    }

    /// The swap that leaves the larger of the two smallest.
    fn swap(&self, giver: usize) -> Option<Vec<Handover>> {
        let mut best: Option<(u64, Vec<Handover>)> = None;
        for other in 0..self.brokers {
            if self.owned[other] >= self.owned[giver] {
                continue;
            }
            let half_gap = (self.owned[giver] - self.owned[other]) / 2;
            for (given, _, partition) in &self.arcs[giver * self.brokers + other] {
                let wish = given.saturating_sub(half_gap);
                let Some((taken, back)) = self.about(other, giver, wish, false) else { continue };
                if taken >= *given {
                    continue;
                }
                let differs = given - taken;
                let larger = (self.owned[giver] - differs).max(self.owned[other].saturating_add(differs));
                let beats = best.as_ref().is_none_or(|(least, _)| larger < *least);
                if beats && larger.saturating_add(self.optimal / SWAP_DIVISOR) < self.owned[giver] {
                    best = Some((larger, vec![(*partition, other), (back, giver)]));
                }
            }
        }
        best.map(|(_, step)| step)
    }

    fn enter(&mut self, partition: usize, broker: usize) {
        let weight = self.weights[partition];
        let moves = self.leaders_now[partition] != Some(broker);
        self.goal[partition] = Some(broker);
        self.owned[broker] = self.owned[broker].saturating_add(weight);
        self.leaders[broker] += 1;
        for to in self.seats[partition].iter().filter(|to| **to != broker) {
            self.arcs[broker * self.brokers + to].insert((weight, moves, partition));
        }
    }

    fn leave(&mut self, partition: usize) {
        let Some(broker) = self.goal[partition] else { return };
        let weight = self.weights[partition];
        let moves = self.leaders_now[partition] != Some(broker);
        self.owned[broker] = self.owned[broker].saturating_sub(weight);
        self.leaders[broker] -= 1;
        for to in self.seats[partition].iter().filter(|to| **to != broker) {
            self.arcs[broker * self.brokers + to].remove(&(weight, moves, partition));
        }
    }
}
