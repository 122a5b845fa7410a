//! In which order to do the moves: neighbours share neither source nor target where that can be avoided, so that
//! transfers under way at the same time load different brokers.
//!
//! Greedy: of the moves that share nothing with the one before, one of the broker with the most moves left, since
//! what is put off piles up there.

use std::collections::{BTreeMap, VecDeque};

use evenkeel_protocol::NodeId;

use super::decisions::Transfer;

/// The moves, spread out. Moves between the same two brokers keep their order.
pub(super) fn spread(moves: Vec<Transfer>) -> Vec<Transfer> {
    let mut left: BTreeMap<(NodeId, NodeId), VecDeque<Transfer>> = BTreeMap::new();
    let mut giving: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut taking: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut ordered: Vec<Transfer> = Vec::with_capacity(moves.len());
    for transfer in moves {
        left.entry((transfer.from, transfer.to)).or_default().push_back(transfer);
        *giving.entry(transfer.from).or_default() += 1;
        *taking.entry(transfer.to).or_default() += 1;
    }
    loop {
        let last = ordered.last().map(|transfer| (transfer.from, transfer.to));
        let urgency = |(from, to): (NodeId, NodeId)| {
            let apart = last.is_none_or(|(last_from, last_to)| last_from != from && last_to != to);
            let (gives, takes) = (giving.get(&from).copied(), taking.get(&to).copied());
            (apart, gives.max(takes), gives.min(takes), std::cmp::Reverse((from, to)))
        };
        let Some(pair) = left.keys().copied().max_by_key(|pair| urgency(*pair)) else { return ordered };
        let Some(moves) = left.get_mut(&pair) else { return ordered };
        ordered.extend(moves.pop_front());
        if moves.is_empty() {
            left.remove(&pair);
        }
        for (counts, node) in [(&mut giving, pair.0), (&mut taking, pair.1)] {
            if let Some(count) = counts.get_mut(&node) {
                *count -= 1;
            }
        }
    }
}
