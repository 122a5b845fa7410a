//! What a request may carry: checked before anything is sent, so that nothing is half-written.

use std::fmt::Display;

use bytes::Bytes;
use evenkeel_protocol::v1::{BatchOperation, Precondition, batch_operation, precondition};
use evenkeel_protocol::{PartitionId, partition_of};

use crate::options::Limits;
use crate::refusals::Refusal;

impl Limits {
    /// A key that may be written or read.
    pub(crate) fn check_key(&self, key: &[u8], field: impl Display) -> Result<(), Refusal> {
        if key.is_empty() {
            return Err(Refusal::invalid(
                "EMPTY_KEY",
                field.to_string(),
                format!("{field} is empty; give a key"),
            ));
        }
        self.check_prefix(key, field)
    }

    /// A key prefix: may be empty.
    pub(crate) fn check_prefix(&self, key: &[u8], field: impl Display) -> Result<(), Refusal> {
        if key.len() > self.key_bytes_max {
            return Err(Refusal::TooLarge {
                reason: "KEY_TOO_LARGE",
                what: field.to_string(),
                field: field.to_string(),
                actual: key.len(),
                limit: self.key_bytes_max,
                setting: "limits.key_bytes_max",
            });
        }
        Ok(())
    }

    fn check_value(&self, value: &[u8], field: impl Display) -> Result<(), Refusal> {
        if value.len() > self.value_bytes_max {
            return Err(Refusal::TooLarge {
                reason: "VALUE_TOO_LARGE",
                what: field.to_string(),
                field: field.to_string(),
                actual: value.len(),
                limit: self.value_bytes_max,
                setting: "limits.value_bytes_max",
            });
        }
        Ok(())
    }

    /// One operation; `at` is its path in the request, `""` or such as `operations[3].`.
    pub(crate) fn check_operation(
        &self,
        operation: &BatchOperation,
        at: impl Display,
    ) -> Result<(), Refusal> {
        let key = key_of(operation).ok_or_else(|| {
            let problem = format!("{at}operation is neither put nor delete; set one");
            Refusal::invalid("EMPTY_OPERATION", format!("{at}operation"), problem)
        })?;
        self.check_key(key, format_args!("{at}key"))?;
        let condition = match &operation.operation {
            Some(batch_operation::Operation::Put(put)) => {
                self.check_value(&put.value, format_args!("{at}value"))?;
                put.precondition.as_ref()
            }
            Some(batch_operation::Operation::Delete(delete)) => delete.precondition.as_ref(),
            None => None,
        };
        check_precondition(condition, &at)
    }

    /// A whole batch: not empty, within the limits, and all of it one partition's, which is returned.
    pub(crate) fn check_batch(
        &self,
        operations: &[BatchOperation],
        partitions_count: u32,
    ) -> Result<PartitionId, Refusal> {
        let mut first: Option<(&Bytes, PartitionId)> = None;
        let mut bytes = 0;
        for (index, operation) in operations.iter().enumerate() {
            self.check_operation(operation, format_args!("operations[{index}]."))?;
            let Some(key) = key_of(operation) else { continue };
            bytes += bytes_of(operation);
            let partition = partition_of(key, partitions_count);
            match first {
                None => first = Some((key, partition)),
                Some((_, expected)) if expected == partition => {}
                Some((expected_key, expected)) => {
                    let problem = format!(
                        "keys of a batch must belong to one partition: \"{}\" belongs to partition {expected}, \
                         \"{}\" to partition {partition}; send them apart",
                        expected_key.escape_ascii(),
                        key.escape_ascii(),
                    );
                    let field = format!("operations[{index}].key");
                    return Err(Refusal::invalid("SEVERAL_PARTITIONS", field, problem));
                }
            }
        }
        if bytes > self.batch_bytes_max {
            return Err(Refusal::TooLarge {
                reason: "BATCH_TOO_LARGE",
                what: "the batch".into(),
                field: "operations".into(),
                actual: bytes,
                limit: self.batch_bytes_max,
                setting: "limits.batch_bytes_max",
            });
        }
        first.map(|(_, partition)| partition).ok_or_else(|| {
            Refusal::invalid("EMPTY_BATCH", "operations", "the batch has no operations; give at least one")
        })
    }
}

/// The key that an operation is about.
pub(crate) fn key_of(operation: &BatchOperation) -> Option<&Bytes> {
    match operation.operation.as_ref()? {
        batch_operation::Operation::Put(put) => Some(&put.key),
        batch_operation::Operation::Delete(delete) => Some(&delete.key),
    }
}

fn bytes_of(operation: &BatchOperation) -> usize {
    match &operation.operation {
        Some(batch_operation::Operation::Put(put)) => put.key.len() + put.value.len(),
        Some(batch_operation::Operation::Delete(delete)) => delete.key.len(),
        None => 0,
    }
}

fn check_precondition(precondition: Option<&Precondition>, at: &impl Display) -> Result<(), Refusal> {
    let problem = match precondition.map(|given| given.condition.as_ref()) {
        Some(Some(precondition::Condition::MustNotExist(false))) => {
            "must_not_exist accepts only true; leave it out"
        }
        Some(Some(precondition::Condition::VersionEquals(0))) => {
            "version_equals = 0 matches no record; use must_not_exist"
        }
        Some(None) => "is given without a condition; leave it out or set one",
        None | Some(Some(_)) => return Ok(()),
    };
    let field = format!("{at}precondition");
    Err(Refusal::invalid("BAD_PRECONDITION", field.clone(), format!("{field}: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_protocol::v1::{BatchDelete, BatchPut};

    const LIMITS: Limits = Limits { key_bytes_max: 4, value_bytes_max: 8, batch_bytes_max: 16 };

    fn put(key: &str, value: &str) -> BatchOperation {
        let put = BatchPut {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            precondition: None,
        };
        BatchOperation { operation: Some(batch_operation::Operation::Put(put)) }
    }

    fn reason(refusal: &Refusal) -> &'static str {
        match refusal {
            Refusal::TooLarge { reason, .. } | Refusal::Invalid { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn operations_beyond_a_limit_are_refused_by_name() {
        let table = [
            (put("", "v"), "EMPTY_KEY"),
            (put("12345", "v"), "KEY_TOO_LARGE"),
            (put("1", "123456789"), "VALUE_TOO_LARGE"),
            (BatchOperation { operation: None }, "EMPTY_OPERATION"),
        ];
        for (operation, expected) in table {
            assert_eq!(reason(&LIMITS.check_operation(&operation, "").unwrap_err()), expected);
        }
        assert_eq!(LIMITS.check_operation(&put("1234", "12345678"), ""), Ok(()));
    }

    #[test]
    fn a_precondition_that_can_never_hold_is_refused() {
        for condition in [
            Some(precondition::Condition::MustNotExist(false)),
            Some(precondition::Condition::VersionEquals(0)),
            None,
        ] {
            let delete =
                BatchDelete { key: Bytes::from_static(b"k"), precondition: Some(Precondition { condition }) };
            let operation = BatchOperation { operation: Some(batch_operation::Operation::Delete(delete)) };
            assert_eq!(reason(&LIMITS.check_operation(&operation, "").unwrap_err()), "BAD_PRECONDITION");
        }
    }

    #[test]
    fn a_batch_over_two_partitions_names_both_keys_and_partitions() {
        let other = (b'b'..=b'z')
            .map(|byte| char::from(byte).to_string())
            .find(|key| partition_of(key.as_bytes(), 2) != partition_of(b"a", 2))
            .unwrap();
        let refusal = LIMITS.check_batch(&[put("a", "1"), put(&other, "2")], 2).unwrap_err();
        assert_eq!(reason(&refusal), "SEVERAL_PARTITIONS");
        let text = refusal.to_string();
        for (key, partition) in [("a", partition_of(b"a", 2)), (&other, partition_of(other.as_bytes(), 2))] {
            assert!(text.contains(&format!("\"{key}\"")), "{text}");
            assert!(text.contains(&format!("partition {partition}")), "{text}");
        }
    }

    #[test]
    fn a_batch_is_bounded_as_a_whole_and_never_empty() {
        assert_eq!(reason(&LIMITS.check_batch(&[], 1).unwrap_err()), "EMPTY_BATCH");
        let batch = [put("a", "12345678"), put("b", "12345678")];
        assert_eq!(reason(&LIMITS.check_batch(&batch, 1).unwrap_err()), "BATCH_TOO_LARGE");
        assert_eq!(LIMITS.check_batch(&batch[..1], 1), Ok(PartitionId(1)));
    }
}
