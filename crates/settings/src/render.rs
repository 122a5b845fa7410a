//! Writes settings as the file that one would like to be given: every key, explained.

use std::fmt::Write as _;

use toml::{Table, Value};

use crate::Settings;
use crate::keys::{DocsError, Kind, flatten, keys};

/// Columns after which an explanation goes on in the next line.
const COLUMNS_MAX: usize = 100;

/// `settings` as TOML that [`load`](crate::load) reads back, each key below its explanation.
///
/// # Errors
/// When the explanations of `T` do not match its keys, or a value cannot be written as TOML.
pub fn render<T: Settings>(settings: &T) -> Result<String, DocsError> {
    let table = Table::try_from(settings).map_err(|error| DocsError::Default(error.to_string()))?;
    let values = flatten(&table);
    let mut text = String::new();
    let mut section = "";
    for key in keys::<T>()? {
        if key.section() != section {
            section = key.section();
            let _ = writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" });
        }
        comment(&mut text, key.doc);
        let name = key.path.rsplit('.').next().unwrap_or(key.path);
        let value = values.get(key.path).unwrap_or(&key.default);
        match value {
            Value::Array(items) if key.kind == Kind::TableList && !items.is_empty() => {
                let _ = writeln!(text, "{name} = [");
                for item in items {
                    let _ = writeln!(text, "    {item},");
                }
                let _ = writeln!(text, "]");
            }
            value => {
                let _ = writeln!(text, "{name} = {value}");
            }
        }
    }
    Ok(text)
}

fn comment(text: &mut String, doc: &str) {
    let mut line = String::from("#");
    for word in doc.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS_MAX && line.len() > 1 {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}
