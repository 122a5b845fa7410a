//! The search against trying every order, on thousands of small random histories, correct ones and others.

use evenkeel_history::{Answer, Condition, History, Operation, Request, Stored};
use proptest::prelude::*;

#[derive(Debug, Clone, Default, PartialEq)]
struct Record {
    version: u64,
    value: Vec<u8>,
    position: u64,
}

/// What a correct store does, and answers, at this position.
fn perform(record: &mut Record, request: &Request, position: u64) -> Answer {
    let condition = match request {
        Request::Get if record.version == 0 => return Answer::Read(None),
        Request::Get => {
            let Record { version, value, position } = record.clone();
            return Answer::Read(Some(Stored { value, version, position }));
        }
        Request::Put { condition, .. } | Request::Delete { condition } => condition,
    };
    let holds = match condition {
        None => true,
        Some(Condition::MustNotExist) => record.version == 0,
        Some(Condition::VersionEquals(version)) => record.version == *version,
    };
    if !holds {
        return Answer::ConditionFailed { current_version: Some(record.version) };
    }
    match request {
        Request::Put { value, .. } => {
            *record = Record { version: record.version + 1, value: value.clone(), position };
            Answer::Put { version: record.version, position }
        }
        _ => {
            let existed = record.version > 0;
            *record = Record { version: 0, value: Vec::new(), position };
            Answer::Deleted { existed, position }
        }
    }
}

/// Whether some order, respecting time, of the answered operations and any of the open ones explains all answers.
/// Positions of open writes are not known, so they are tried: any between the known ones around them.
fn explainable(operations: &[Operation], done: &mut Vec<usize>) -> bool {
    if orders_explain(operations, done) {
        return true;
    }
    // What was not done is never waited for.
    let over = |i: usize| match (&operations[i].answer, operations[i].answered_at) {
        (Answer::NotDone, _) | (_, None) => u64::MAX,
        (_, Some(at)) => at,
    };
    for next in 0..operations.len() {
        let allowed = !done.contains(&next)
            && (0..operations.len()).all(|i| done.contains(&i) || over(i) >= operations[next].called_at);
        if allowed {
            done.push(next);
            let explained = explainable(operations, done);
            done.pop();
            if explained {
                return true;
            }
        }
    }
    false
}

fn orders_explain(operations: &[Operation], order: &[usize]) -> bool {
    let needed = |i: usize| !matches!(operations[i].answer, Answer::Unknown | Answer::NotDone);
    if (0..operations.len()).any(|i| needed(i) && !order.contains(&i)) {
        return false;
    }
    if order.iter().any(|&i| operations[i].answer == Answer::NotDone) {
        return false;
    }
    let mut record = Record::default();
    // Known positions are fixed points; a write without one is at an unknown place, told later by a read perhaps.
    let mut last_known = 0;
    let mut unknown_here = false;
    for &i in order {
        let operation = &operations[i];
        let told = match &operation.answer {
            Answer::Put { position, .. } | Answer::Deleted { position, .. } => Some(*position),
            _ => None,
        };
        let looks = match (&operation.request, &operation.answer) {
            (Request::Get, _) | (_, Answer::ConditionFailed { .. }) => true,
            _ => told.is_some_and(|position| position <= last_known),
        };
        if looks && told.is_some() {
            return false;
        }
        let before = record.clone();
        let mut answer = perform(&mut record, &operation.request, told.unwrap_or(0));
        if record != before {
            match told {
                Some(position) => (last_known, unknown_here) = (position, false),
                None => unknown_here = true,
            }
        } else if let Some(position) = told {
            // A delete of nothing takes a position too.
            (last_known, unknown_here) = (position, false);
        }
        if let (Answer::Read(Some(shown)), Answer::Read(Some(stored))) = (&operation.answer, &mut answer)
            && unknown_here
            && shown.position > last_known
        {
            stored.position = shown.position;
            record.position = shown.position;
            (last_known, unknown_here) = (shown.position, false);
        }
        if let (
            Answer::ConditionFailed { current_version: None },
            Answer::ConditionFailed { current_version },
        ) = (&operation.answer, &mut answer)
        {
            *current_version = None;
        }
        if operation.answer != Answer::Unknown && answer != operation.answer {
            return false;
        }
    }
    true
}

fn request() -> impl Strategy<Value = Request> {
    let condition = || {
        prop_oneof![
            3 => Just(None),
            1 => Just(Some(Condition::MustNotExist)),
            1 => (1u64..4).prop_map(|version| Some(Condition::VersionEquals(version))),
        ]
    };
    prop_oneof![
        3 => Just(Request::Get),
        4 => (0u8..4, condition()).prop_map(|(value, condition)| Request::Put { value: vec![value], condition }),
        1 => condition().prop_map(|condition| Request::Delete { condition }),
    ]
}

/// When an operation is called, how long it takes, when within that it takes effect (of 4), whether its answer is lost,
/// and a lie to tell.
type Shape = (Request, u64, u64, u64, u8, u8);

fn history(shapes: &[Shape]) -> History {
    let mut order: Vec<(u64, usize)> = Vec::new();
    for (index, (_, called_at, takes, effect, _, _)) in shapes.iter().enumerate() {
        order.push((called_at * 4 + effect.min(&(takes * 4)), index));
    }
    order.sort_unstable();
    let mut record = Record::default();
    let mut answers = vec![Answer::Unknown; shapes.len()];
    for (position, (_, index)) in order.into_iter().enumerate() {
        let (request, .., lost, _) = &shapes[index];
        match lost {
            // Lost before it had an effect, or refused.
            0 => {}
            1 => answers[index] = Answer::NotDone,
            2 => drop(perform(&mut record, request, position as u64 + 1)),
            _ => answers[index] = perform(&mut record, request, position as u64 + 1),
        }
    }
    let mut history = History::new();
    for (index, (request, called_at, takes, _, _, lie)) in shapes.iter().enumerate() {
        let answer = match (answers[index].clone(), lie) {
            (Answer::Read(Some(stored)), 0) => {
                Answer::Read(Some(Stored { version: stored.version + 1, ..stored }))
            }
            (Answer::Read(Some(stored)), 1) => {
                Answer::Read(Some(Stored { position: stored.position + 1, ..stored }))
            }
            (Answer::Read(Some(_)), 2) => Answer::Read(None),
            (Answer::Put { version, position }, 0) => Answer::Put { version: version + 1, position },
            (Answer::Put { version, position }, 1) => Answer::Put { version, position: position + 1 },
            (Answer::ConditionFailed { .. }, 0) => Answer::ConditionFailed { current_version: None },
            (Answer::Deleted { existed, position }, 0) => Answer::Deleted { existed: !existed, position },
            (answer, _) => answer,
        };
        let id = history.call(*called_at, index as u64, "k", request.clone());
        history.answer(called_at + takes, id, answer);
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_search_agrees_with_trying_every_order(
        shapes in prop::collection::vec((request(), 0u64..6, 0u64..4, 0u64..12, 0u8..8, 0u8..12), 1..6)
    ) {
        let history = history(&shapes);
        let expected = explainable(history.operations(), &mut Vec::new());
        let found = history.check();
        prop_assert_eq!(found.is_ok(), expected, "{:?}\n{:#?}", found, history.operations());
        if shapes.iter().all(|shape| shape.5 > 2) {
            prop_assert!(expected, "a correct store's history was refused");
        }
    }
}
