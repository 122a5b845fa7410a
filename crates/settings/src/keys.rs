//! The keys of a settings type, derived from its serialized default.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::Settings;

/// First part of every environment variable.
pub const ENV_PREFIX: &str = "EVENKEEL_";

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Float,
    Switch,
    List,
    TableList,
}

impl Kind {
    /// In words, for messages.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Integer => "a whole number",
            Kind::Float => "a number",
            Kind::Switch => "true or false",
            Kind::List => "a list of texts",
            Kind::TableList => "a list of tables",
        }
    }

    pub(crate) fn fits(self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_str(),
            Kind::Integer => value.is_integer(),
            Kind::Float => value.is_float() || value.is_integer(),
            Kind::Switch => value.is_bool(),
            Kind::List => value.as_array().is_some_and(|items| items.iter().all(Value::is_str)),
            Kind::TableList => value.as_array().is_some_and(|items| items.iter().all(Value::is_table)),
        }
    }
}

/// One setting.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Dotted path, such as `cluster.node_id`.
    pub(crate) path: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Value,
}

impl Key {
    /// `cluster.node_id` → `cluster-node-id`.
    pub(crate) fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// `cluster.node_id` → `EVENKEEL_CLUSTER_NODE_ID`.
    pub(crate) fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.path.replace('.', "_").to_uppercase())
    }

    /// `cluster.node_id` → `cluster`; empty for a key outside any section.
    pub(crate) fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }
}

/// The explanations of a settings type do not match its keys: a mistake in the program, found by its tests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocsError {
    /// The default cannot be written as TOML.
    #[error("the default settings are not valid TOML: {0}")]
    Default(String),
    /// A key without explanation.
    #[error("key {0} has no line in DOCS; add one")]
    Undocumented(String),
    /// An explanation without a key.
    #[error(
        "DOCS explains {0}, which is not a key; remove the line or give the field a default that is written"
    )]
    NoSuchKey(&'static str),
    /// Two keys that no flag or variable could tell apart.
    #[error("keys {0} and {1} share the environment variable {2}; rename one")]
    SameVariable(&'static str, &'static str, String),
}

/// Checks that [`Settings::DOCS`] explains exactly the keys that `T` has. Meant for a test of each type.
///
/// # Errors
/// The first mismatch.
pub fn check_docs<T: Settings>() -> Result<(), DocsError> {
    keys::<T>().map(|_| ())
}

/// All keys of `T` in the order of its explanations.
pub(crate) fn keys<T: Settings>() -> Result<Vec<Key>, DocsError> {
    let default = Table::try_from(T::default()).map_err(|error| DocsError::Default(error.to_string()))?;
    let mut values = flatten(&default);
    let mut keys = Vec::with_capacity(T::DOCS.len());
    let mut variables = BTreeMap::new();
    for &(path, doc) in T::DOCS {
        let default = values.remove(path).ok_or(DocsError::NoSuchKey(path))?;
        let kind = kind_of(&default, T::TABLE_LISTS.contains(&path));
        let key = Key { path, doc, kind, default };
        if let Some(other) = variables.insert(key.env(), path) {
            return Err(DocsError::SameVariable(other, path, key.env()));
        }
        keys.push(key);
    }
    match values.into_keys().next() {
        Some(path) => Err(DocsError::Undocumented(path)),
        None => Ok(keys),
    }
}

fn kind_of(value: &Value, table_list: bool) -> Kind {
    match value {
        Value::Integer(_) => Kind::Integer,
        Value::Float(_) => Kind::Float,
        Value::Boolean(_) => Kind::Switch,
        Value::Array(_) if table_list => Kind::TableList,
        Value::Array(_) => Kind::List,
        Value::String(_) | Value::Datetime(_) | Value::Table(_) => Kind::Text,
    }
}

/// Dotted path → value of everything in `table` that is not a table itself.
pub(crate) fn flatten(table: &Table) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, table: &Table, into: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) => walk(&path, inner, into),
                leaf => {
                    into.insert(path, leaf.clone());
                }
            }
        }
    }
    let mut values = BTreeMap::new();
    walk("", table, &mut values);
    values
}
