//! Puts the layers on top of each other: defaults < file < environment < flags.

use std::collections::BTreeSet;
use std::path::Path;

use clap::ArgMatches;
use toml::{Table, Value};

use crate::Settings;
use crate::error::{Origin, SettingsError, one_line};
use crate::file;
use crate::keys::{ENV_PREFIX, Key, Kind, keys};

/// The process's environment, without what is not Unicode: none of our values is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The settings that follow from `file` (when given), `env` and the flags in `matches`.
///
/// Lists in variables and flags are separated by commas; an empty text is an empty list. Variables that begin
/// with `EVENKEEL_` and a section of `T` must be keys; all others are none of our business.
///
/// # Errors
/// An unreadable file, an unknown key or variable, or a value of the wrong kind, in one line.
pub fn load<T: Settings>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    matches: &ArgMatches,
) -> Result<T, SettingsError> {
    let known = keys::<T>()?;
    let mut layers = Vec::new();
    if let Some(path) = file {
        layers.extend(from_file(path, &known)?);
    }
    layers.extend(from_environment(env, &known)?);
    layers.extend(from_flags(matches, &known)?);

    let defaults =
        Table::try_from(T::default()).map_err(|error| SettingsError::Together(error.to_string()))?;
    let mut merged = defaults.clone();
    for (key, value, origin) in layers {
        check::<T>(key, &value, origin, &defaults)?;
        set(&mut merged, key.path, value);
    }
    merged.try_into().map_err(|error: toml::de::Error| SettingsError::Together(one_line(error.message())))
}

type Layer<'a> = Vec<(&'a Key, Value, Origin)>;

fn from_file<'a>(path: &Path, known: &'a [Key]) -> Result<Layer<'a>, SettingsError> {
    let sections = sections(known);
    let entries = file::read(path, |path| sections.contains(path))?;
    entries
        .into_iter()
        .map(|entry| match known.iter().find(|key| key.path == entry.path) {
            Some(key) => Ok((key, entry.value, entry.origin)),
            None if sections.contains(entry.path.as_str()) => Err(SettingsError::Value {
                value: shown(&entry.value),
                problem: "expected a section".into(),
                remedy: format!("write its keys below a line [{}]", entry.path),
                key: entry.path,
                origin: Box::new(entry.origin),
            }),
            None => Err(SettingsError::Unknown {
                value: shown(&entry.value),
                nearest: nearest(&entry.path, &entry.value, known, &sections),
                name: entry.path,
                origin: entry.origin,
            }),
        })
        .collect()
}

fn from_environment(
    env: impl IntoIterator<Item = (String, String)>,
    known: &[Key],
) -> Result<Layer<'_>, SettingsError> {
    let prefixes: BTreeSet<String> = sections(known)
        .iter()
        .map(|section| format!("{ENV_PREFIX}{}_", section.replace('.', "_").to_uppercase()))
        .collect();
    let mut layer = Vec::new();
    for (name, raw) in env {
        let origin = Origin::Environment(name.clone());
        if let Some(key) = known.iter().find(|key| key.env() == name) {
            layer.push((key, parse(key, &raw, &origin)?, origin));
        } else if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            let variables = known.iter().map(Key::env);
            let nearest = most_similar(&name, variables).unwrap_or_default();
            return Err(SettingsError::Unknown { name, value: one_line(&raw), origin, nearest });
        }
    }
    Ok(layer)
}

fn from_flags<'a>(matches: &ArgMatches, known: &'a [Key]) -> Result<Layer<'a>, SettingsError> {
    let mut layer = Vec::new();
    for key in known {
        // A command without that flag has no value for it either.
        if let Some(raw) = matches.try_get_one::<String>(key.path).ok().flatten() {
            let origin = Origin::Flag(key.flag());
            layer.push((key, parse(key, raw, &origin)?, origin));
        }
    }
    Ok(layer)
}

/// A text from a variable or a flag as a value of the key's kind.
fn parse(key: &Key, raw: &str, origin: &Origin) -> Result<Value, SettingsError> {
    let text = raw.trim();
    let value = match key.kind {
        Kind::Text => Some(Value::String(raw.to_owned())),
        Kind::Integer => text.replace('_', "").parse().ok().map(Value::Integer),
        Kind::Float => text.parse().ok().map(Value::Float),
        Kind::Switch => text.parse().ok().map(Value::Boolean),
        Kind::List if text.is_empty() => Some(Value::Array(Vec::new())),
        Kind::List => {
            Some(Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect()))
        }
        Kind::TableList if text.is_empty() => Some(Value::Array(Vec::new())),
        Kind::TableList => toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value")),
    };
    value.ok_or_else(|| wrong_kind(key, one_line(raw), origin.clone()))
}

/// Refuses a value of the wrong kind, and one that the key's own type refuses.
fn check<T: Settings>(
    key: &Key,
    value: &Value,
    origin: Origin,
    defaults: &Table,
) -> Result<(), SettingsError> {
    if !key.kind.fits(value) {
        return Err(wrong_kind(key, shown(value), origin));
    }
    // With everything else at its default, whatever is refused is this value's fault.
    let mut alone = defaults.clone();
    set(&mut alone, key.path, value.clone());
    let Err(error) = alone.try_into::<T>() else { return Ok(()) };
    let (problem, remedy) = match value.as_integer() {
        Some(number) if number < 0 => ("must not be negative".to_owned(), "set a positive number".to_owned()),
        Some(_) => ("is too large".to_owned(), format!("set something like {}", shown(&key.default))),
        None => (one_line(error.message()), format!("set something like {}", shown(&key.default))),
    };
    Err(SettingsError::Value {
        key: key.path.to_owned(),
        value: shown(value),
        origin: Box::new(origin),
        problem,
        remedy,
    })
}

fn wrong_kind(key: &Key, value: String, origin: Origin) -> SettingsError {
    SettingsError::Value {
        key: key.path.to_owned(),
        value,
        origin: Box::new(origin),
        problem: format!("expected {}", key.kind.expected()),
        remedy: format!("set something like {}", shown(&key.default)),
    }
}

fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

/// Every table that holds keys: `a.b.c` gives `a` and `a.b`.
fn sections(known: &[Key]) -> BTreeSet<&'static str> {
    let prefixes =
        |key: &Key| key.path.match_indices('.').map(|(end, _)| &key.path[..end]).collect::<Vec<_>>();
    known.iter().flat_map(prefixes).collect()
}

/// What was probably meant by an unknown path: a section if it holds a table, a key otherwise.
fn nearest(path: &str, value: &Value, known: &[Key], sections: &BTreeSet<&'static str>) -> String {
    if value.is_table() {
        return most_similar(path, sections.iter().map(ToString::to_string))
            .map_or_else(String::new, |s| format!("[{s}]"));
    }
    // The right name in the wrong section.
    let name = path.rsplit('.').next().unwrap_or(path);
    let elsewhere = known.iter().find(|key| key.path.rsplit('.').next() == Some(name));
    let key = elsewhere.map(|key| key.path.to_owned());
    key.or_else(|| most_similar(path, known.iter().map(|key| key.path.to_owned()))).unwrap_or_default()
}

fn most_similar(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let similarity = |candidate: &String| strsim::normalized_damerau_levenshtein(name, candidate);
    candidates.max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
}

/// A value as one would write it, on one line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(&format!("{text:?}")),
        other => one_line(&other.to_string()),
    }
}
