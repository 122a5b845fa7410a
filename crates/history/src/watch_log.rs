//! What watchers were told, against what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Why deliveries are not those of a correct watch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchViolation {
    #[error("watcher {watcher}, partition {partition}: position {position} came after {before}")]
    OutOfOrder { watcher: u64, partition: u32, before: u64, position: u64 },
    #[error(
        "watcher {watcher}, partition {partition}: {change} was acknowledged, but not delivered \
         between positions {from} and {to}"
    )]
    Missed { watcher: u64, partition: u32, change: Box<Change>, from: u64, to: u64 },
    #[error("partition {partition}: one was told {one}, another {other}")]
    Differs { partition: u32, one: Box<Change>, other: Box<Change> },
}

/// One changed record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub position: u64,
    pub key: Vec<u8>,
    /// `None`: deleted.
    pub value: Option<Vec<u8>>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        match &self.value {
            Some(value) => {
                write!(f, "{key} = {:?} at position {}", String::from_utf8_lossy(value), self.position)
            }
            None => write!(f, "{key} deleted at position {}", self.position),
        }
    }
}

/// What one message of a watch carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub changes: Vec<Change>,
    /// Everything up to here has been delivered.
    pub position: u64,
}

/// Deliveries of watches, each from a position on, over as many connections as it took.
#[derive(Debug, Clone, Default)]
pub struct WatchLog {
    watches: BTreeMap<(u64, u32), Watch>,
    acknowledged: BTreeMap<u32, BTreeSet<Change>>,
}

#[derive(Debug, Clone)]
struct Watch {
    /// Nothing up to here is due.
    after: u64,
    deliveries: Vec<Delivery>,
}

impl WatchLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// A watcher asked for a partition's changes after a position. A resumed watch is not begun again.
    pub fn begun(&mut self, watcher: u64, partition: u32, after: u64) {
        self.watches.entry((watcher, partition)).or_insert(Watch { after, deliveries: Vec::new() });
    }

    /// A message came. One of a watch that was never begun begins it just before the message.
    pub fn delivered(&mut self, watcher: u64, partition: u32, delivery: Delivery) {
        let first =
            delivery.changes.first().map_or(delivery.position, |change| change.position.saturating_sub(1));
        let fresh = Watch { after: first, deliveries: Vec::new() };
        self.watches.entry((watcher, partition)).or_insert(fresh).deliveries.push(delivery);
    }

    /// A write of a single record was acknowledged.
    pub fn acknowledged(&mut self, partition: u32, change: Change) {
        self.acknowledged.entry(partition).or_default().insert(change);
    }

    /// Where the watch is: what to resume after.
    pub fn position(&self, watcher: u64, partition: u32) -> Option<u64> {
        let watch = self.watches.get(&(watcher, partition))?;
        Some(watch.deliveries.last().map_or(watch.after, |delivery| delivery.position))
    }

    /// Whether each watch was told every acknowledged change once and in order, and all were told the same.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), WatchViolation> {
        // Of one position several records may change, by a batch; a key only once for whoever watches.
        let mut told: BTreeMap<(u32, u64, &[u8]), &Change> = BTreeMap::new();
        for (&partition, changes) in &self.acknowledged {
            told.extend(
                changes.iter().map(|change| ((partition, change.position, change.key.as_slice()), change)),
            );
        }
        for (&(watcher, partition), watch) in &self.watches {
            let mut reached = watch.after;
            let mut delivered = BTreeSet::new();
            for delivery in &watch.deliveries {
                let mut last = reached;
                for change in &delivery.changes {
                    // The changes of one batch share a position and come in one message.
                    let again = change.position == last && last > reached;
                    let ordered = change.position > last || again;
                    if !ordered || !delivered.insert(change) {
                        let position = change.position;
                        return Err(WatchViolation::OutOfOrder {
                            watcher,
                            partition,
                            before: last,
                            position,
                        });
                    }
                    last = change.position;
                    let known = told.entry((partition, change.position, &change.key)).or_insert(change);
                    if *known != change {
                        let (one, other) = (Box::new((*known).clone()), Box::new(change.clone()));
                        return Err(WatchViolation::Differs { partition, one, other });
                    }
                }
                if delivery.position < last {
                    let position = delivery.position;
                    return Err(WatchViolation::OutOfOrder { watcher, partition, before: last, position });
                }
                reached = delivery.position;
            }
            let due = self.acknowledged.get(&partition).into_iter().flatten();
            for change in due.filter(|change| (watch.after + 1..=reached).contains(&change.position)) {
                if !delivered.contains(change) {
                    let change = Box::new(change.clone());
                    let (from, to) = (watch.after, reached);
                    return Err(WatchViolation::Missed { watcher, partition, change, from, to });
                }
            }
        }
        Ok(())
    }
}
