//! Flags, one for each key.

use std::marker::PhantomData;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::error::SettingsError;
use crate::keys::{Key, Kind, keys};
use crate::{Settings, load};

/// One flag for each key of `T`, for a `clap::Command`; [`load`](crate::load) reads them from its matches.
///
/// Values are texts here, so that a wrong one gets the same message as anywhere else. Empty when the
/// explanations of `T` do not match its keys, which [`check_docs`](crate::check_docs) tells.
#[must_use]
pub fn flags<T: Settings>() -> Vec<Arg> {
    keys::<T>().unwrap_or_default().iter().map(flag).collect()
}

/// The flags of `T` for `clap`'s derive: a field `#[command(flatten)] settings: SettingsArgs<Options>`.
#[derive(Debug)]
pub struct SettingsArgs<T> {
    matches: ArgMatches,
    settings: PhantomData<fn() -> T>,
}

impl<T: Settings> SettingsArgs<T> {
    /// [`load`](crate::load) with these flags.
    ///
    /// # Errors
    /// As [`load`](crate::load).
    pub fn load(
        &self,
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<T, SettingsError> {
        load(file, env, &self.matches)
    }
}

impl<T> Clone for SettingsArgs<T> {
    fn clone(&self) -> Self {
        Self { matches: self.matches.clone(), settings: PhantomData }
    }
}

impl<T: Settings> FromArgMatches for SettingsArgs<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { matches: matches.clone(), settings: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.matches = matches.clone();
        Ok(())
    }
}

impl<T: Settings> Args for SettingsArgs<T> {
    fn augment_args(command: Command) -> Command {
        command.args(flags::<T>())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
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
        .help_heading(format!("Settings of [{}]", key.section()))
}
