//! What can be wrong with settings. Every message is one line that names the key, the value and the remedy.

use std::fmt;
use std::path::PathBuf;

use crate::keys::DocsError;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A command line flag, without the dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// Settings that cannot be used. A process that meets one stops with exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file is not there, or not for us to read.
    #[error("--config {}: cannot read the file: {reason}; name a readable TOML file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{origin}: not valid TOML: {problem}; correct that line")]
    Syntax {
        /// The line.
        origin: Origin,
        /// What the parser says.
        problem: String,
    },
    /// Nobody would read this.
    #[error("{name} = {value} ({origin}): not a known setting; did you mean {nearest}?")]
    Unknown {
        /// As written: a key or a variable.
        name: String,
        /// What it was set to.
        value: String,
        /// Where.
        origin: Origin,
        /// The most similar one there is.
        nearest: String,
    },
    /// A value of the wrong kind, or one that its type refuses.
    #[error("{key} = {value} ({origin}): {problem}; {remedy}")]
    Value {
        /// Dotted path.
        key: String,
        /// As written.
        value: String,
        /// Where. Boxed to keep results small.
        origin: Box<Origin>,
        /// What was expected.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The program's own description of its settings is wrong.
    #[error(transparent)]
    Docs(#[from] DocsError),
    /// The values fit one by one, but not together.
    #[error("the settings do not fit together: {0}; check the last ones that were changed")]
    Together(String),
}

/// Longest value shown in a message.
const SHOWN_CHARS_MAX: usize = 120;

/// Makes any text fit into one line of a message.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(SHOWN_CHARS_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}
