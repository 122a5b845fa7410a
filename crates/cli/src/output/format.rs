//! In which shape a command prints what it found: tables for people, documents for programs.

use std::fmt::Display;
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::output::outcome::{Failure, print};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For people, with everything there is to tell
    Wide,
    /// For programs: one JSON document; on one line, unless a terminal shows it
    Json,
    /// For programs: YAML
    Yaml,
    /// For programs: JSON, one line for each element
    Ndjson,
}

/// The flag alone, for commands without flags of their own.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct PrintArgs {
    /// How to print what came of it
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl Output {
    /// Whether people read it.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// Prints what people read, or else the same as data.
    pub fn show<T: Display>(
        self,
        people: impl FnOnce() -> T,
        data: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        match self {
            Self::Table | Self::Wide => print(people()),
            _ => self.print(data()),
        }
    }

    /// Prints data. People who asked for a table get JSON: there is no other shape of it.
    pub fn print(self, data: Value) -> Result<(), Failure> {
        match (self, data) {
            (Self::Yaml, data) => print(yaml(&data).trim_end()),
            (Self::Ndjson, Value::Array(elements)) => elements.into_iter().try_for_each(print),
            (Self::Json, data) if std::io::stdout().is_terminal() => print(format_args!("{data:#}")),
            (_, data) => print(data),
        }
    }

    /// Prints one of many documents.
    pub fn print_one_of_many(self, data: Value) -> Result<(), Failure> {
        match self {
            Self::Yaml => print(format_args!("---\n{}", yaml(&data).trim_end())),
            _ => print(data),
        }
    }
}

/// The value as a YAML document in block style. Texts are quoted as in JSON, which YAML takes as it is.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(&mut text, value, 0);
    text
}

fn write_yaml(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                text.push_str(&format!("{indent}{}:", yaml_key(name)));
                write_nested(text, member, depth + 1);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for element in elements {
                if is_block(element) {
                    let mut nested = String::new();
                    write_yaml(&mut nested, element, depth + 1);
                    // The first line of what is nested stands beside the dash.
                    text.push_str(&format!("{indent}- {}", nested.trim_start()));
                } else {
                    text.push_str(&format!("{indent}- {element}\n"));
                }
            }
        }
        other => text.push_str(&format!("{indent}{other}\n")),
    }
}

fn write_nested(text: &mut String, value: &Value, depth: usize) {
    if is_block(value) {
        text.push('\n');
        write_yaml(text, value, depth);
    } else {
        text.push_str(&format!(" {value}\n"));
    }
}

/// Whether it takes lines of its own.
fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        _ => false,
    }
}

/// What YAML might take for something else than a text is quoted.
fn yaml_key(name: &str) -> String {
    const NOT_TEXTS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && !NOT_TEXTS.contains(&name.to_ascii_lowercase().as_str());
    if plain { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_nests_in_blocks_and_quotes_what_could_be_misread() {
        let value = json!({
            "balanced": true,
            "brokers": [{"node_id": 0, "host": "a: b"}, {"node_id": 1, "host": null}],
            "empty": [],
            "lists": [[1, 2], []],
            "no": {"0": "1", "x": {}},
        });
        let expected = "\
balanced: true
brokers:
  - host: \"a: b\"
    node_id: 0
  - host: null
    node_id: 1
empty: []
lists:
  - - 1
    - 2
  - []
\"no\":
  \"0\": \"1\"
  x: {}
";
        assert_eq!(yaml(&value), expected);
        assert_eq!(yaml(&json!("text")), "\"text\"\n");
    }
}
