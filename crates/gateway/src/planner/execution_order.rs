//! In which order to do the moves: neighbours share neither source nor target where that can be avoided, so that
//! transfers under way at the same time load different brokers.
//!
//! Greedy: next goes a move of the broker that has the most left to give or to take, with the partner that has the most
//! left, as long as it shares nothing with the move before. What is put off would pile up there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use evenkeel_protocol::NodeId;

use super::decisions::Transfer;

/// The moves, spread out. Moves between the same two brokers keep their order.
pub(super) fn spread(moves: Vec<Transfer>) -> Vec<Transfer> {
    let count = moves.len();
    let mut left = Left::default();
    for transfer in moves {
        left.add(transfer);
    }
    let mut ordered: Vec<Transfer> = Vec::with_capacity(count);
    while let Some((from, to)) = left.next(ordered.last()).or_else(|| left.next(None)) {
        ordered.extend(left.take(from, to));
    }
    ordered
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Giver(NodeId),
    Taker(NodeId),
}

/// Moves that are not yet ordered.
#[derive(Default)]
struct Left {
    moves: BTreeMap<(NodeId, NodeId), VecDeque<Transfer>>,
    /// With whom each has moves left.
    partners: BTreeMap<Side, BTreeSet<NodeId>>,
    counts: BTreeMap<Side, usize>,
    /// Most left first.
    by_count: BTreeSet<(Reverse<usize>, Side)>,
}

impl Left {
    fn add(&mut self, transfer: Transfer) {
        let (from, to) = (transfer.from, transfer.to);
        self.moves.entry((from, to)).or_default().push_back(transfer);
        for (side, partner) in [(Side::Giver(from), to), (Side::Taker(to), from)] {
            self.partners.entry(side).or_default().insert(partner);
            self.recount(side, |count| count + 1);
        }
    }

    fn take(&mut self, from: NodeId, to: NodeId) -> Option<Transfer> {
        let queue = self.moves.get_mut(&(from, to))?;
        let transfer = queue.pop_front();
        let done = queue.is_empty();
        if done {
            self.moves.remove(&(from, to));
        }
        for (side, partner) in [(Side::Giver(from), to), (Side::Taker(to), from)] {
            if let Some(partners) = self.partners.get_mut(&side).filter(|_| done) {
                partners.remove(&partner);
            }
            self.recount(side, |count| count.saturating_sub(1));
        }
        transfer
    }

    fn recount(&mut self, side: Side, change: impl Fn(usize) -> usize) {
        let count = self.counts.entry(side).or_default();
        self.by_count.remove(&(Reverse(*count), side));
        *count = change(*count);
        if *count > 0 {
            self.by_count.insert((Reverse(*count), side));
        }
    }

    /// The most urgent move that shares no broker on the same side with the last one.
    fn next(&self, last: Option<&Transfer>) -> Option<(NodeId, NodeId)> {
        let fresh = |side: Side| {
            last.is_none_or(|last| side != Side::Giver(last.from) && side != Side::Taker(last.to))
        };
        let urgent = self.by_count.iter().map(|(_, side)| *side).filter(|side| fresh(*side));
        let mut pairs = urgent.filter_map(|side| {
            let opposite = |node: NodeId| match side {
                Side::Giver(_) => Side::Taker(node),
                Side::Taker(_) => Side::Giver(node),
            };
            let partners = self.partners.get(&side)?.iter().copied().filter(|node| fresh(opposite(*node)));
            let partner = partners.max_by_key(|node| (self.counts.get(&opposite(*node)), Reverse(*node)))?;
            Some(match side {
                Side::Giver(giver) => (giver, partner),
                Side::Taker(taker) => (partner, taker),
            })
        });
        pairs.next()
    }
}
