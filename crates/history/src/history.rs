//! Records operations, and has each key's judged.

use std::collections::BTreeMap;

use crate::linearizability::{self, Violation};
use crate::operation::{Answer, Operation, Request};

/// Names an operation of a [`History`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OperationId(usize);

impl OperationId {
    /// Place in [`History::operations`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// What clients asked and were told.
///
/// Times are numbers of one clock that never goes back, in any unit: nanoseconds since the test began, or a counter.
/// Whoever records from several threads holds a lock while reading that clock, or uses one clock that is the same for
/// all. An answer and a call at the same time count as overlapping.
#[derive(Debug, Clone, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a call, before it is sent. Unless [`History::answer`] follows, it stays open.
    pub fn call(&mut self, at: u64, client: u64, key: impl Into<Vec<u8>>, request: Request) -> OperationId {
        self.operations.push(Operation {
            client,
            key: key.into(),
            request,
            called_at: at,
            answer: Answer::Unknown,
            answered_at: None,
        });
        OperationId(self.operations.len() - 1)
    }

    /// Records the answer, after it has come. [`Answer::Unknown`] leaves the operation open.
    pub fn answer(&mut self, at: u64, id: OperationId, answer: Answer) {
        let operation = &mut self.operations[id.0];
        operation.answered_at = (answer != Answer::Unknown).then_some(at);
        operation.answer = answer;
    }

    /// In the order of their calls to [`History::call`].
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether every key's operations could be those of one store, which began empty.
    ///
    /// # Errors
    /// The first key, in byte order, for which no order of its operations explains the answers, or for which more than
    /// `configurations_max` states of the search did not tell.
    pub fn check_within(&self, configurations_max: usize) -> Result<(), Violation> {
        let mut by_key: BTreeMap<&[u8], Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            by_key.entry(&operation.key).or_default().push(operation);
        }
        for operations in by_key.values() {
            linearizability::check(operations, configurations_max)?;
        }
        Ok(())
    }

    /// [`History::check_within`] a million states a key, about a second and 100 MB at the worst.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), Violation> {
        const CONFIGURATIONS_MAX: usize = 1_000_000;
        self.check_within(CONFIGURATIONS_MAX)
    }
}
