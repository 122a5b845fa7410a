//! Shows people the operations around an answer that cannot be explained.

use std::fmt::Write as _;

use crate::operation::{Answer, Operation, Request};

/// Operations shown before the one that cannot be explained; those overlapping it are always shown.
const BEFORE_COUNT_MAX: usize = 12;
/// Of what could have been true.
const REGISTERS_COUNT_MAX: usize = 8;
const VALUE_CHARS_MAX: usize = 40;

pub(crate) fn around(operations: &[&Operation], refused: usize, registers: &[String]) -> String {
    let answered_at = operations[refused].answered_at.unwrap_or(u64::MAX);
    let mut shown: Vec<usize> =
        (0..operations.len()).filter(|&i| operations[i].called_at <= answered_at).collect();
    shown.sort_by_key(|&i| (operations[i].called_at, i));
    // What was over long before says little; what is still open may matter.
    let overlapping =
        |i: usize| operations[i].answered_at.is_none_or(|at| at >= operations[refused].called_at);
    let over = shown.iter().filter(|&&i| !overlapping(i)).count();
    let mut skip = over.saturating_sub(BEFORE_COUNT_MAX);
    let skipped = skip;
    shown.retain(|&i| {
        let keep = overlapping(i) || skip == 0;
        if !keep {
            skip -= 1;
        }
        keep
    });
    let mut text = String::new();
    if skipped > 0 {
        let _ = writeln!(text, "  ({skipped} earlier operations)");
    }
    for index in shown {
        let mark = if index == refused { '>' } else { ' ' };
        let _ = writeln!(text, "{mark} {}", line(operations[index]));
    }
    let _ = write!(text, "before it the record could only have been: ");
    let _ = write!(text, "{}", registers[..registers.len().min(REGISTERS_COUNT_MAX)].join("; or "));
    if registers.len() > REGISTERS_COUNT_MAX {
        let _ = write!(text, "; or {} more", registers.len() - REGISTERS_COUNT_MAX);
    }
    text
}

fn line(operation: &Operation) -> String {
    let until = operation.answered_at.map_or_else(|| "open".to_owned(), |at| at.to_string());
    let asked = match &operation.request {
        Request::Get => "get".to_owned(),
        Request::Put { value, condition: None } => format!("put {}", shown(value)),
        Request::Put { value, condition: Some(condition) } => {
            format!("put {} if {condition:?}", shown(value))
        }
        Request::Delete { condition: None } => "delete".to_owned(),
        Request::Delete { condition: Some(condition) } => format!("delete if {condition:?}"),
    };
    let told = match &operation.answer {
        Answer::Read(None) => "no record".to_owned(),
        Answer::Read(Some(stored)) => {
            format!("{}, version {}, position {}", shown(&stored.value), stored.version, stored.position)
        }
        Answer::Put { version, position } => format!("version {version}, position {position}"),
        Answer::Deleted { existed, position } => format!("existed {existed}, position {position}"),
        Answer::ConditionFailed { current_version: Some(version) } => {
            format!("refused, version is {version}")
        }
        Answer::ConditionFailed { current_version: None } => "refused by its condition".to_owned(),
        Answer::NotDone => "not done".to_owned(),
        Answer::Unknown => "unknown".to_owned(),
    };
    format!("[{}, {until}] client {}: {asked} -> {told}", operation.called_at, operation.client)
}

fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}
