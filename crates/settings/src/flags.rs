//! Flags, one for each key.

use clap::{Arg, ArgAction};

use crate::Settings;
use crate::keys::{Key, Kind, keys};

/// One flag for each key of `T`, for a `clap::Command`; [`load`](crate::load) reads them from its matches.
///
/// Values are texts here, so that a wrong one gets the same message as anywhere else. Empty when the
/// explanations of `T` do not match its keys, which [`check_docs`](crate::check_docs) tells.
#[must_use]
pub fn flags<T: Settings>() -> Vec<Arg> {
    keys::<T>().unwrap_or_default().iter().map(flag).collect()
}

fn flag(key: &Key) -> Arg {
    let default = match &key.default {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) if key.kind == Kind::List => {
            items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let value_name = match key.kind {
        Kind::Text => "TEXT",
        Kind::Integer | Kind::Float => "NUMBER",
        Kind::Switch => "true|false",
        Kind::List => "LIST",
        Kind::TableList => "TOML",
    };
    Arg::new(key.path)
        .long(key.flag())
        .action(ArgAction::Set)
        .value_name(value_name)
        .allow_negative_numbers(true)
        .help(format!("{} [default: {default}] [env: {}]", key.doc, key.env()))
        .help_heading(format!("Settings: {}", key.section()))
}
