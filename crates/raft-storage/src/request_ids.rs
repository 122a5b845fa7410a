//! What was answered last to each client, so that a retried write applies once.
//!
//! One table per partition, in memory for the lookup and in the state database in the same batch as the writes.
//! Deterministic: every replica remembers and forgets the same, hence the fixed [`CLIENTS_MAX`]. An entry costs about
//! 110 bytes of memory, so a full table about 11 MiB.

use std::collections::{BTreeMap, HashMap};
use std::io;

use evenkeel_protocol::internal::v1::Outcome;
use evenkeel_protocol::v1::RequestId;
use prost::Message;

use crate::state_layout::{Numbers, damaged};

/// Clients that a partition remembers; beyond, the one whose last write is oldest is forgotten.
pub const CLIENTS_MAX: usize = 100_000;

struct Remembered {
    sequence: u64,
    position: u64,
    /// Encoded [`Outcome`].
    outcome: Box<[u8]>,
}

/// What a request id says about its command.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    New,
    /// Answered before: with this.
    Duplicate(Outcome),
    /// A newer one of the same client was answered.
    Superseded {
        last_sequence: u64,
    },
}

/// One row to write to, or with `None` to remove from, the state database.
pub(crate) type Row = (u64, Option<Vec<u8>>);

pub(crate) struct RequestIds {
    clients: HashMap<u64, Remembered, foldhash::fast::RandomState>,
    by_position: BTreeMap<u64, u64>,
    /// Clients whose rows differ from the database's.
    dirty: Vec<u64>,
    clients_max: usize,
}

impl RequestIds {
    pub(crate) fn new(clients_max: usize) -> Self {
        Self { clients: HashMap::default(), by_position: BTreeMap::new(), dirty: Vec::new(), clients_max }
    }

    pub(crate) fn check(&self, id: &RequestId) -> io::Result<Seen> {
        let Some(last) = self.clients.get(&id.client_id) else { return Ok(Seen::New) };
        match id.sequence.cmp(&last.sequence) {
            std::cmp::Ordering::Greater => Ok(Seen::New),
            std::cmp::Ordering::Less => Ok(Seen::Superseded { last_sequence: last.sequence }),
            std::cmp::Ordering::Equal => {
                let outcome = Outcome::decode(&*last.outcome);
                outcome.map(Seen::Duplicate).map_err(|e| damaged(format!("remembered outcome: {e}")))
            }
        }
    }

    /// Notes the answer to a new request, applied at `position`, and forgets the oldest when there are too many.
    pub(crate) fn remember(&mut self, id: &RequestId, position: u64, outcome: &Outcome) {
        let outcome = outcome.encode_to_vec().into_boxed_slice();
        self.insert(id.client_id, Remembered { sequence: id.sequence, position, outcome });
        self.dirty.push(id.client_id);
        while self.clients.len() > self.clients_max {
            let Some((_, oldest)) = self.by_position.pop_first() else { break };
            self.clients.remove(&oldest);
            self.dirty.push(oldest);
        }
    }

    fn insert(&mut self, client: u64, remembered: Remembered) {
        self.by_position.insert(remembered.position, client);
        if let Some(before) = self.clients.insert(client, remembered) {
            self.by_position.remove(&before.position);
        }
    }

    /// The rows that changed since the last call, each client once.
    pub(crate) fn take_rows(&mut self) -> Vec<Row> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        dirty.into_iter().map(|client| (client, self.clients.get(&client).map(encode_row))).collect()
    }

    /// Takes in a row of the state database.
    pub(crate) fn load_row(&mut self, client: u64, row: &[u8]) -> io::Result<()> {
        let mut numbers = Numbers(row);
        let (sequence, position) = (numbers.u64_le()?, numbers.u64_le()?);
        self.insert(client, Remembered { sequence, position, outcome: numbers.0.into() });
        Ok(())
    }
}

fn encode_row(remembered: &Remembered) -> Vec<u8> {
    let mut row = Vec::with_capacity(16 + remembered.outcome.len());
    row.extend_from_slice(&remembered.sequence.to_le_bytes());
    row.extend_from_slice(&remembered.position.to_le_bytes());
    row.extend_from_slice(&remembered.outcome);
    row
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::internal::v1::outcome;

    use super::*;

    fn id(client_id: u64, sequence: u64) -> RequestId {
        RequestId { client_id, sequence }
    }

    fn applied(position: u64) -> Outcome {
        let applied = outcome::Applied { position, results: vec![] };
        Outcome { outcome: Some(outcome::Outcome::Applied(applied)) }
    }

    #[test]
    fn a_sequence_is_new_then_a_duplicate_then_superseded() {
        let mut table = RequestIds::new(10);
        assert_eq!(table.check(&id(1, 5)).unwrap(), Seen::New);
        table.remember(&id(1, 5), 100, &applied(100));
        assert_eq!(table.check(&id(1, 5)).unwrap(), Seen::Duplicate(applied(100)));
        assert_eq!(table.check(&id(1, 4)).unwrap(), Seen::Superseded { last_sequence: 5 });
        assert_eq!(table.check(&id(1, 6)).unwrap(), Seen::New);
        assert_eq!(table.check(&id(2, 5)).unwrap(), Seen::New);
    }

    #[test]
    fn the_client_whose_last_write_is_oldest_is_forgotten_first() {
        let mut table = RequestIds::new(2);
        table.remember(&id(1, 1), 10, &applied(10));
        table.remember(&id(2, 1), 11, &applied(11));
        table.remember(&id(1, 2), 12, &applied(12));
        table.take_rows();
        table.remember(&id(3, 1), 13, &applied(13));
        assert_eq!(table.clients.len(), 2);
        assert_eq!(table.check(&id(2, 1)).unwrap(), Seen::New);
        assert_eq!(table.check(&id(1, 2)).unwrap(), Seen::Duplicate(applied(12)));
        let rows = table.take_rows();
        assert_eq!(
            rows.iter().map(|(c, row)| (*c, row.is_some())).collect::<Vec<_>>(),
            [(2, false), (3, true)]
        );
    }

    #[test]
    fn rows_restore_the_table() {
        let mut table = RequestIds::new(10);
        table.remember(&id(1, 1), 10, &applied(10));
        table.remember(&id(7, 9), 11, &applied(11));
        let mut restored = RequestIds::new(10);
        for (client, row) in table.take_rows() {
            restored.load_row(client, &row.unwrap()).unwrap();
        }
        assert_eq!(restored.check(&id(7, 9)).unwrap(), Seen::Duplicate(applied(11)));
        assert_eq!(restored.by_position, table.by_position);
        assert!(restored.load_row(1, b"short").is_err());
    }
}
