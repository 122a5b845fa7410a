//! Named clusters, so that nobody has to type addresses: a TOML file in the person's configuration folder.
//!
//! What a context says counts below flags and variables, and above the defaults.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::{Deserialize, Serialize};

use crate::cluster::connection::Connection;
use crate::output::outcome::Failure;

/// More is no file that a person has written.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Context {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contexts {
    /// Used unless --context names another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    pub contexts: BTreeMap<String, Context>,
}

/// `$XDG_CONFIG_HOME/evenkeel/contexts.toml`, or below `~/.config`.
pub fn file() -> Result<PathBuf, Failure> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    let config = config.ok_or_else(|| {
        Failure::usage(
            "neither XDG_CONFIG_HOME nor HOME is an absolute path, so there is no place for contexts",
        )
    })?;
    Ok(config.join("evenkeel/contexts.toml"))
}

impl Contexts {
    /// As the file says; nothing when there is none.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let unusable = |problem: &dyn std::fmt::Display| {
            Failure::usage(format!("{}: {problem}; correct it, or move it away", path.display()))
        };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unusable(&error)),
            Ok(found) if found.len() > FILE_BYTES_MAX => {
                return Err(unusable(&format!("larger than {FILE_BYTES_MAX} bytes")));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
        toml::from_str(&text).map_err(|error| unusable(&error.message().replace('\n', " ")))
    }

    /// Replaces the file as a whole.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let unwritable =
            |problem: &dyn std::fmt::Display| Failure::new(1, format!("{}: {problem}", path.display()));
        let text = toml::to_string_pretty(self).map_err(|error| unwritable(&error))?;
        let folder = path.parent().ok_or_else(|| unwritable(&"it has no folder"))?;
        std::fs::create_dir_all(folder).map_err(|error| unwritable(&error))?;
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(|error| unwritable(&error))?;
        new.write_all(text.as_bytes()).map_err(|error| unwritable(&error))?;
        new.persist(path).map_err(|error| unwritable(&error.error)).map(drop)
    }

    /// The context with this name, or the remedy.
    pub fn find(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there is none yet".to_owned() } else { known.join(", ") };
            Failure::usage(format!(
                "there is no context {name:?} ({known}); add it with `evenkeel context add {name} --gateway HOST:PORT`"
            ))
        })
    }
}

impl Connection {
    /// Takes from the chosen context what neither flags nor variables say.
    pub fn with_context(mut self, matches: &ArgMatches) -> Result<Self, Failure> {
        let named = self.context.clone();
        let contexts = match (&named, file()) {
            (_, Ok(path)) => Contexts::read(&path)?,
            (Some(_), Err(failure)) => return Err(failure),
            (None, Err(_)) => return Ok(self),
        };
        let Some(name) = named.or_else(|| contexts.current.clone()) else { return Ok(self) };
        let context = contexts.find(&name)?;
        self.fill_from(context, |id| {
            matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        });
        Ok(self)
    }

    fn fill_from(&mut self, context: &Context, is_given: impl Fn(&str) -> bool) {
        let encrypts_now = self.ca.is_none() && context.ca.is_some();
        if !is_given("gateway") && !context.gateway.is_empty() {
            self.gateway.clone_from(&context.gateway);
        }
        for (id, own, named) in
            [("api", &mut self.api, &context.api), ("monitoring", &mut self.monitoring, &context.monitoring)]
        {
            match named {
                _ if is_given(id) => {}
                Some(url) => own.clone_from(url),
                // As for --ca.
                None if encrypts_now => *own = own.replacen("http://", "https://", 1),
                None => {}
            }
        }
        for (own, named) in [
            (&mut self.ca, &context.ca),
            (&mut self.cert, &context.cert),
            (&mut self.key, &context.cert_key),
            (&mut self.token_file, &context.token_file),
        ] {
            if own.is_none() {
                own.clone_from(named);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_counts_below_what_is_given_and_above_defaults() {
        let context = Context {
            gateway: vec!["prod:26500".into()],
            api: Some("https://prod:8080".into()),
            ca: Some("/ca.crt".into()),
            token_file: Some("/token".into()),
            ..Context::default()
        };
        let defaults = || Connection {
            monitoring: "http://127.0.0.1:9600".into(),
            gateway: vec!["127.0.0.1:26500".into()],
            ..Connection::to_api("http://127.0.0.1:8080")
        };
        let mut connection = defaults();
        connection.fill_from(&context, |_| false);
        assert_eq!(connection.gateway, ["prod:26500"]);
        assert_eq!(connection.api, "https://prod:8080");
        assert_eq!(connection.monitoring, "https://127.0.0.1:9600");
        assert_eq!(connection.token_file.as_deref(), Some(Path::new("/token")));
        let mut connection = Connection { api: "http://mine:1".into(), ..defaults() };
        connection.fill_from(&context, |id| id == "api");
        assert_eq!(connection.api, "http://mine:1");
    }

    #[test]
    fn the_file_keeps_what_was_written_and_refuses_what_it_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evenkeel/contexts.toml");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());
        let context = Context { gateway: vec!["a:1".into()], ..Context::default() };
        let contexts = Contexts { current: Some("prod".into()), contexts: [("prod".into(), context)].into() };
        contexts.write(&path).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), contexts);
        assert_eq!(contexts.find("prdo").unwrap_err().code, 2);
        std::fs::write(&path, "[contexts.a]\ngatewya = []\n").unwrap();
        let failure = Contexts::read(&path).unwrap_err();
        assert!(failure.message.contains("gatewya") && failure.code == 2, "{failure}");
    }
}
