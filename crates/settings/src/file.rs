//! The configuration file: which key is set to what on which line.

use std::path::Path;

use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::error::{Origin, SettingsError, one_line};

/// A key of the file, with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Dotted path.
    pub(crate) path: String,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// Reads `path` and lists what it sets. A table is descended into when `is_section` says so, and is listed as one
/// entry otherwise.
pub(crate) fn read(path: &Path, is_section: impl Fn(&str) -> bool) -> Result<Vec<Entry>, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SettingsError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    let origin = |offset: usize| {
        let before = text.as_bytes().iter().take(offset);
        Origin::File { path: path.to_owned(), line: 1 + before.filter(|byte| **byte == b'\n').count() }
    };
    let syntax = |error: &toml::de::Error| SettingsError::Syntax {
        origin: origin(error.span().map_or(0, |span| span.start)),
        problem: one_line(error.message()),
    };
    let values: Value = toml::from_str(&text).map_err(|error| syntax(&error))?;
    let spans = DeTable::parse(&text).map_err(|error| syntax(&error))?;
    let mut entries = Vec::new();
    walk("", spans.get_ref(), &values, &is_section, &origin, &mut entries);
    Ok(entries)
}

/// Pairs what knows positions with what is easy to handle: the same document, parsed both ways.
fn walk(
    prefix: &str,
    spans: &DeTable<'_>,
    values: &Value,
    is_section: &impl Fn(&str) -> bool,
    origin: &impl Fn(usize) -> Origin,
    entries: &mut Vec<Entry>,
) {
    for (name, spanned) in spans {
        let Some(value) = values.get(name.get_ref().as_ref()) else { continue };
        let path = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match spanned.get_ref() {
            DeValue::Table(inner) if is_section(&path) => {
                walk(&path, inner, value, is_section, origin, entries);
            }
            _ => {
                let origin = origin(name.span().start);
                entries.push(Entry { path, value: value.clone(), origin });
            }
        }
    }
}
