//! What a command does to records: versions, preconditions, all or nothing. Pure: the stored state comes in through
//! a function.
//!
//! Writes of one apply batch are staged by key, so that the database sees each key once per batch however often the
//! batch wrote it, and later operations see earlier ones.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use evenkeel_protocol::internal::v1::outcome::{Malformed, PreconditionFailed};
use evenkeel_protocol::v1::{
    BatchOperation, BatchResult, Precondition, Record, WatchEvent, batch_operation::Operation,
    precondition::Condition, watch_event::Kind,
};

use crate::state_layout::KEY_BYTES_MAX;
use crate::types::GroupId;

/// A record as the batch leaves it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StagedRecord {
    pub version: u64,
    pub position: u64,
    pub value: Bytes,
}

/// Why a command wrote nothing.
#[derive(Debug, PartialEq)]
pub(crate) enum Rejection {
    Malformed(Malformed),
    PreconditionFailed(PreconditionFailed),
}

/// What a command did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Written {
    pub results: Vec<BatchResult>,
    pub events: Vec<WatchEvent>,
    /// Records more than before.
    pub records_added: i64,
}

/// One operation, checked for form.
struct Op {
    key: Bytes,
    /// Absent for a delete.
    value: Option<Bytes>,
    condition: Option<Condition>,
}

/// Records that the current apply batch wrote (`None`: deleted).
#[derive(Default)]
pub(crate) struct StagedRecords {
    records: HashMap<Bytes, Option<StagedRecord>>,
}

impl StagedRecords {
    /// Executes a command's operations as one: each sees those before it, and all or none take effect.
    ///
    /// `stored_version` is asked for keys that are not staged, and answers 0 for a record that does not exist.
    pub(crate) fn execute(
        &mut self,
        partition: GroupId,
        position: u64,
        operations: Vec<BatchOperation>,
        mut stored_version: impl FnMut(&[u8]) -> io::Result<u64>,
    ) -> io::Result<Result<Written, Rejection>> {
        let operations = match operations.into_iter().map(check_form).collect::<Result<Vec<_>, _>>() {
            Ok(operations) => operations,
            Err(reason) => {
                return Ok(Err(Rejection::Malformed(Malformed { reason: reason.into() })));
            }
        };
        let mut written = Written::default();
        let mut undo: Vec<(Bytes, Option<Option<StagedRecord>>)> = Vec::new();
        let operations_count = operations.len();
        for (index, op) in operations.into_iter().enumerate() {
            let before = match self.records.get(&op.key) {
                Some(staged) => staged.as_ref().map_or(0, |record| record.version),
                None => stored_version(&op.key)?,
            };
            if !holds(op.condition.as_ref(), before) {
                for (key, staged) in undo.into_iter().rev() {
                    match staged {
                        Some(staged) => self.records.insert(key, staged),
                        None => self.records.remove(&key),
                    };
                }
                let failed = PreconditionFailed { operation: index as u32, current_version: before };
                return Ok(Err(Rejection::PreconditionFailed(failed)));
            }
            let existed = before > 0;
            let deletes = op.value.is_none();
            if deletes && !existed {
                written.results.push(BatchResult { version: 0, existed });
                continue;
            }
            let version = if deletes { before } else { before + 1 };
            written.results.push(BatchResult { version: if deletes { 0 } else { version }, existed });
            written.events.push(WatchEvent {
                kind: if deletes { Kind::Delete } else { Kind::Put }.into(),
                record: Some(Record {
                    key: op.key.clone(),
                    value: op.value.clone().unwrap_or_default(),
                    version,
                    position,
                    partition_id: partition,
                }),
            });
            written.records_added += i64::from(!deletes) - i64::from(existed);
            let staged = op.value.map(|value| StagedRecord { version, position, value });
            if operations_count == 1 {
                self.records.insert(op.key, staged);
            } else {
                let replaced = self.records.insert(op.key.clone(), staged);
                undo.push((op.key, replaced));
            }
        }
        Ok(Ok(written))
    }

    /// The final state of every key written since the last call.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Bytes, Option<StagedRecord>)> + '_ {
        self.records.drain()
    }
}

fn check_form(operation: BatchOperation) -> Result<Op, &'static str> {
    let (key, value, precondition) = match operation.operation {
        Some(Operation::Put(put)) => (put.key, Some(put.value), put.precondition),
        Some(Operation::Delete(delete)) => (delete.key, None, delete.precondition),
        None => return Err("an operation is neither put nor delete"),
    };
    if key.is_empty() {
        return Err("a key is empty");
    }
    if key.len() > KEY_BYTES_MAX {
        return Err("a key is too long");
    }
    let condition = match precondition {
        None => None,
        Some(Precondition { condition: Some(condition) }) => Some(condition),
        Some(Precondition { condition: None }) => return Err("a precondition has no condition"),
    };
    match condition {
        Some(Condition::MustNotExist(false)) => Err("must_not_exist is false"),
        Some(Condition::VersionEquals(0)) => Err("version_equals is 0"),
        condition => Ok(Op { key, value, condition }),
    }
}

/// `current` is the record's version, 0 when it does not exist.
fn holds(condition: Option<&Condition>, current: u64) -> bool {
    match condition {
        None => true,
        Some(Condition::MustNotExist(_)) => current == 0,
        Some(Condition::VersionEquals(version)) => current == *version,
    }
}
