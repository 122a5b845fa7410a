//! Assigns partitions to brokers at the least total price: a minimum-cost flow.
//!
//! Every partition sits with one of its options, at a cost; every broker has a price for its 1st, 2nd, 3rd …
//! partition that never falls. [`Assignment::settle`] makes the sum of all costs and prices as small as it can be.
//!
//! **Algorithm.** Steepest descent along shortest paths. It starts from an assignment in which every partition has
//! its cheapest option. A path a → v → … → b hands one partition over on each arc; it gives a one less, b one more
//! and leaves the rest alone. Bellman-Ford from all brokers at once, on a graph of brokers only (an arc costs what
//! its cheapest partition costs to hand over), finds the path that saves most; it is taken, until none saves.
//!
//! **Why the result is minimal.** At the start costs are the least possible for these loads, and augmenting along
//! a shortest path keeps them so (the invariant of successive shortest paths; no negative cycle arises). The least
//! cost as a function of the loads is M-convex, prices that never fall are separable convex, and so is their sum;
//! of an M-convex function, a point that no exchange of one unit improves is a global minimum (Murota, *Discrete
//! Convex Analysis*, theorem 6.26). Each round tries every such exchange.
//!
//! A round costs a few sweeps over the arcs (at most brokers², with three replicas on a ring 4 × brokers), and
//! there are about as many rounds as partitions to move, fewer where several go the same way.

use std::collections::BTreeSet;

/// No partition can be handed over here.
const NO_ARC: i64 = i64::MAX;

/// Of the units that would even out the two ends of a path, the share that goes at once: enough to need few
/// rounds, little enough to leave room for better paths.
const SHARE_AT_ONCE: u64 = 4;

/// An assignment under way.
pub(super) struct Assignment {
    brokers: usize,
    /// For each partition its possible brokers, with costs.
    options: Vec<Vec<(usize, i64)>>,
    /// For each partition an index into its options.
    chosen: Vec<usize>,
    loads: Vec<u64>,
    /// At `from * brokers + to`: what handing over costs, and which partition.
    arcs: Vec<BTreeSet<(i64, usize)>>,
    /// At `from * brokers + to`: the cheapest of them.
    cheapest: Vec<i64>,
    /// For each broker those to which it may at times hand something over.
    neighbours: Vec<Vec<usize>>,
}

impl Assignment {
    /// Every partition at the first of its cheapest options. `loads` is what each broker bears besides.
    /// Each partition has at least one option, each at another broker.
    pub(super) fn at_cheapest(options: Vec<Vec<(usize, i64)>>, loads: Vec<u64>) -> Self {
        let brokers = loads.len();
        let cheapest = |options: &Vec<(usize, i64)>| {
            options.iter().enumerate().min_by_key(|(i, (_, cost))| (*cost, *i)).map_or(0, |(i, _)| i)
        };
        let chosen: Vec<usize> = options.iter().map(cheapest).collect();
        let mut neighbours = vec![BTreeSet::new(); brokers];
        for partition in &options {
            for (from, _) in partition {
                neighbours[*from].extend(partition.iter().map(|(to, _)| *to).filter(|to| to != from));
            }
        }
        let mut assignment = Self {
            brokers,
            options,
            chosen,
            loads,
            arcs: vec![BTreeSet::new(); brokers * brokers],
            cheapest: vec![NO_ARC; brokers * brokers],
            neighbours: neighbours.into_iter().map(|set| set.into_iter().collect()).collect(),
        };
        for partition in 0..assignment.options.len() {
            let broker = assignment.broker_of(partition);
            assignment.loads[broker] += 1;
            assignment.enter(partition);
        }
        assignment
    }

    /// The broker of a partition.
    pub(super) fn broker_of(&self, partition: usize) -> usize {
        self.options[partition][self.chosen[partition]].0
    }

    /// Makes the total as small as it can be. `price(broker, n)` is the price of a broker's nth partition and must
    /// not fall with n.
    pub(super) fn settle(&mut self, price: impl Fn(usize, u64) -> i64) {
        while let Some(path) = self.best_path(&price) {
            let [first, .., last] = path[..] else { return };
            let gap = self.loads[first].saturating_sub(self.loads[last]);
            let costs: Vec<i64> = path.windows(2).map(|arc| self.cost(arc[0], arc[1])).collect();
            let path_cost: i64 = costs.iter().sum();
            for _ in 0..(gap / SHARE_AT_ONCE).max(1) {
                let saves = path_cost + price(last, self.loads[last] + 1) < price(first, self.loads[first]);
                let unchanged =
                    path.windows(2).zip(&costs).all(|(arc, cost)| self.cost(arc[0], arc[1]) == *cost);
                if !saves || !unchanged {
                    break;
                }
                for arc in path.windows(2) {
                    self.hand_over(arc[0], arc[1]);
                }
                self.loads[first] -= 1;
                self.loads[last] += 1;
            }
        }
    }

    /// The path that saves most, from the broker that gets one less to the one that gets one more.
    fn best_path(&self, price: &impl Fn(usize, u64) -> i64) -> Option<Vec<usize>> {
        let saved = |broker: usize| match self.loads[broker] {
            0 => 0,
            load => price(broker, load),
        };
        // What it costs to have one more at a broker, before its own price.
        let mut distance: Vec<i64> = (0..self.brokers).map(|broker| -saved(broker)).collect();
        let mut before: Vec<Option<usize>> = vec![None; self.brokers];
        let mut improved = true;
        // Without negative cycles a shortest path has less arcs than there are brokers.
        let mut sweeps_left = self.brokers;
        while improved && sweeps_left > 0 {
            improved = false;
            sweeps_left -= 1;
            for from in 0..self.brokers {
                for to in &self.neighbours[from] {
                    let cost = self.cost(from, *to);
                    if cost != NO_ARC && distance[from] + cost < distance[*to] {
                        distance[*to] = distance[from] + cost;
                        before[*to] = Some(from);
                        improved = true;
                    }
                }
            }
        }
        let total = |broker: usize| distance[broker] + price(broker, self.loads[broker] + 1);
        let last = (0..self.brokers)
            .filter(|broker| before[*broker].is_some())
            .min_by_key(|broker| (total(*broker), *broker))
            .filter(|broker| total(*broker) < 0)?;
        let mut path = vec![last];
        let mut at = last;
        while let Some(previous) = before[at] {
            path.push(previous);
            at = previous;
        }
        path.reverse();
        Some(path)
    }

    fn cost(&self, from: usize, to: usize) -> i64 {
        self.cheapest[from * self.brokers + to]
    }

    fn hand_over(&mut self, from: usize, to: usize) {
        let Some((_, partition)) = self.arcs[from * self.brokers + to].first().copied() else { return };
        self.leave(partition);
        let option = self.options[partition].iter().position(|(broker, _)| *broker == to);
        self.chosen[partition] = option.unwrap_or(self.chosen[partition]);
        self.enter(partition);
    }

    fn enter(&mut self, partition: usize) {
        let (from, cost_now) = self.options[partition][self.chosen[partition]];
        for (to, cost) in self.options[partition].iter().filter(|(to, _)| *to != from) {
            let arc = from * self.brokers + to;
            self.arcs[arc].insert((cost - cost_now, partition));
            self.cheapest[arc] = self.cheapest[arc].min(cost - cost_now);
        }
    }

    fn leave(&mut self, partition: usize) {
        let (from, cost_now) = self.options[partition][self.chosen[partition]];
        for (to, cost) in self.options[partition].iter().filter(|(to, _)| *to != from) {
            let arc = from * self.brokers + to;
            self.arcs[arc].remove(&(cost - cost_now, partition));
            self.cheapest[arc] = self.arcs[arc].first().map_or(NO_ARC, |(cost, _)| *cost);
        }
    }
}
