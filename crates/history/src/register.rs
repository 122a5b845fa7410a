//! The model: one key's record, and what each operation does to it.

use std::collections::HashMap;

use crate::operation::{Answer, Condition, Operation, Request};

/// A value by number: equal numbers, equal values. All values that no read returned share [`UNSEEN`], since nothing
/// tells them apart.
pub(crate) type ValueId = u32;
pub(crate) const UNSEEN: ValueId = 0;

/// One key's record. `version` 0: none; then `value` is [`UNSEEN`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Register {
    pub version: u64,
    pub value: ValueId,
    /// Of the last write whose position is known.
    pub position: u64,
    /// Whether that was the last write of all.
    pub position_is_exact: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    Nothing,
    Put(ValueId),
    Delete,
}

/// What the answer says about the register before (reads) or after (writes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Record { version: u64, value: ValueId, position: u64 },
    NoRecord,
    Put { version: u64, position: u64 },
    Deleted { existed: bool, position: u64 },
    ConditionFailed { current_version: Option<u64> },
    Nothing,
}

/// An operation in the terms of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    pub effect: Effect,
    pub condition: Option<Condition>,
    pub told: Told,
}

impl Step {
    /// The register after this step, if the step may come now.
    pub(crate) fn apply(&self, before: Register) -> Option<Register> {
        let holds = match self.condition {
            None => true,
            Some(Condition::MustNotExist) => before.version == 0,
            Some(Condition::VersionEquals(version)) => before.version == version,
        };
        if let Told::ConditionFailed { current_version } = self.told {
            let as_told = current_version.is_none_or(|version| version == before.version);
            return (self.condition.is_some() && !holds && as_told).then_some(before);
        }
        if !holds {
            return None;
        }
        // A write whose position is not known leaves the last known one: later ones are beyond that too.
        let beyond = |position: u64| position > before.position;
        let exactly =
            |version, value, position| Register { version, value, position, position_is_exact: true };
        let somewhere =
            |version, value| Register { version, value, position: before.position, position_is_exact: false };
        match (self.effect, self.told) {
            (Effect::Nothing, Told::NoRecord) => (before.version == 0).then_some(before),
            (Effect::Nothing, Told::Record { version, value, position }) => {
                let same = before.version == version && before.version > 0 && before.value == value;
                let there =
                    if before.position_is_exact { position == before.position } else { beyond(position) };
                (same && there).then(|| exactly(version, value, position))
            }
            (Effect::Put(value), Told::Put { version, position }) => {
                (before.version + 1 == version && beyond(position)).then(|| exactly(version, value, position))
            }
            (Effect::Put(value), Told::Nothing) => Some(somewhere(before.version + 1, value)),
            (Effect::Delete, Told::Deleted { existed, position }) => {
                (existed == (before.version > 0) && beyond(position)).then(|| exactly(0, UNSEEN, position))
            }
            (Effect::Delete, Told::Nothing) => Some(somewhere(0, UNSEEN)),
            _ => None,
        }
    }
}

/// Puts one key's operations into the terms of the model, those that cannot matter as `None`.
pub(crate) fn steps(operations: &[&Operation]) -> Vec<Option<Step>> {
    let mut values: HashMap<&[u8], ValueId> = HashMap::new();
    // Where a value that only one put wrote was seen: that put made exactly this version at exactly this position.
    let mut seen: HashMap<ValueId, (u64, u64)> = HashMap::new();
    for operation in operations {
        if let Answer::Read(Some(stored)) = &operation.answer {
            let next = u32::try_from(values.len() + 1).unwrap_or(u32::MAX);
            let id = *values.entry(&stored.value).or_insert(next);
            seen.entry(id).or_insert((stored.version, stored.position));
        }
    }
    let value_of = |value: &Vec<u8>| values.get(value.as_slice()).copied().unwrap_or(UNSEEN);
    let mut writers: HashMap<ValueId, usize> = HashMap::new();
    for operation in operations {
        if let Request::Put { value, .. } = &operation.request {
            *writers.entry(value_of(value)).or_default() += 1;
        }
    }
    let step = |operation: &&Operation| {
        let (effect, condition) = match &operation.request {
            Request::Get => (Effect::Nothing, None),
            Request::Put { value, condition } => (Effect::Put(value_of(value)), *condition),
            Request::Delete { condition } => (Effect::Delete, *condition),
        };
        let told = match &operation.answer {
            Answer::NotDone => return None,
            Answer::Unknown => match effect {
                Effect::Nothing => return None,
                Effect::Put(value) if value != UNSEEN && writers.get(&value) == Some(&1) => seen
                    .get(&value)
                    .map_or(Told::Nothing, |&(version, position)| Told::Put { version, position }),
                Effect::Put(_) | Effect::Delete => Told::Nothing,
            },
            Answer::Read(None) => Told::NoRecord,
            Answer::Read(Some(stored)) => Told::Record {
                version: stored.version,
                value: value_of(&stored.value),
                position: stored.position,
            },
            Answer::Put { version, position } => Told::Put { version: *version, position: *position },
            Answer::Deleted { existed, position } => Told::Deleted { existed: *existed, position: *position },
            Answer::ConditionFailed { current_version } => {
                Told::ConditionFailed { current_version: *current_version }
            }
        };
        Some(Step { effect, condition, told })
    };
    operations.iter().map(step).collect()
}
