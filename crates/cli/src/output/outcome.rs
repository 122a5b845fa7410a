//! How a command ends: exit codes, and the one line on standard error that explains a failure.

use std::fmt;
use std::io::{self, Write};

use evenkeel_client::ClientError;

/// What was asked about is not there; also every failure that has no code of its own.
pub const EXIT_NOT_FOUND: u8 = 1;
/// Wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;
/// The cluster, or the way to it, is down, or it refused.
pub const EXIT_UNREACHABLE: u8 = 3;
/// The credentials are not known or not sufficient, or a certificate is not accepted.
pub const EXIT_AUTH: u8 = 4;
/// It did not come to its end in time.
pub const EXIT_TIMED_OUT: u8 = 5;
/// A rebalance ran, and some transfers failed.
pub const EXIT_TRANSFERS_FAILED: u8 = 6;
/// A rebalance is already under way.
pub const EXIT_ALREADY_ACTIVE: u8 = 7;
/// What was looked at is not well.
pub const EXIT_UNHEALTHY: u8 = 10;
/// The cluster works, and not every partition is led by its primary.
pub const EXIT_UNBALANCED: u8 = 11;

/// Remedies that a gateway names are requests; these commands do the same.
const SAME_AS_REQUEST: [(&str, &str); 2] = [
    ("PUT /ESCManager/internal/ownership/resume", "evenkeel resume"),
    ("GET /cluster/v2/brokers", "evenkeel status"),
];

/// Every exit code, for the help.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed, or what was asked about is not there
   2  wrong usage or configuration
   3  the cluster cannot be reached, or it refused
   4  credentials or certificates are not accepted
   5  not done in time
   6  partly done: some partitions are not led as wanted
   7  a rebalance is under way already
  10  not healthy, or not safe
  11  not balanced
`check --format nagios` exits as a Nagios plugin does: 0 ok, 1 warning, 2 critical, 3 unknown.";

/// A command's failure: its exit code and what to tell the person.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(EXIT_USAGE, message)
    }

    /// Everything about it has been said already.
    pub fn told(code: u8) -> Self {
        Self::new(code, "")
    }

    /// What was asked about is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(EXIT_NOT_FOUND, message)
    }

    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(EXIT_TIMED_OUT, message)
    }

    /// What to run next, unless the message says so itself.
    pub fn next_command(&self) -> Option<&'static str> {
        // Servers and files name their own remedies.
        let named =
            self.message.is_empty() || self.message.contains("`evenkeel ") || self.message.contains("--");
        let same_as = SAME_AS_REQUEST.iter().find(|(request, _)| self.message.contains(request));
        match self.code {
            _ if named => None,
            _ if same_as.is_some() => same_as.map(|(_, command)| *command),
            EXIT_USAGE => Some("evenkeel help"),
            EXIT_TRANSFERS_FAILED => Some("evenkeel rebalance explain"),
            EXIT_ALREADY_ACTIVE => Some("evenkeel rebalance status"),
            EXIT_UNBALANCED => Some("evenkeel rebalance"),
            EXIT_TIMED_OUT | EXIT_UNHEALTHY => Some("evenkeel status"),
            _ => Some("evenkeel doctor"),
        }
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(EXIT_UNREACHABLE, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(1, format!("{error:#}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::BadAddress { .. } => EXIT_USAGE,
            error if error.is_unreachable() => EXIT_UNREACHABLE,
            error if error.is_about_credentials() => EXIT_AUTH,
            _ => 1,
        };
        let mut message = error.to_string();
        if error.is_about_credentials() {
            message.push_str("; see `evenkeel help` for --token-file, --ca, --cert and --cert-key");
        }
        if error.is_precondition_failed() {
            message.push_str("; see the record with `evenkeel get KEY --output json`");
        }
        Self::new(code, message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(1, error.to_string())
    }
}

/// Writes data to standard output. A reader that went away (`| head`) is no failure: the command just ends.
pub fn print(text: impl fmt::Display) -> Result<(), Failure> {
    write_out(&format!("{text}\n").into_bytes())
}

/// Writes bytes to standard output as they are.
pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Failure::new(1, format!("standard output: {error}"))),
    }
}

/// Tells the person something that is not data.
pub fn note(text: impl fmt::Display) {
    // Nobody to tell is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_run_next_follows_from_what_the_gateway_says_and_then_from_the_code() {
        let next = |code, message: &str| Failure::new(code, message).next_command();
        let paused = "refused: ownership is paused; resume it with PUT /ESCManager/internal/ownership/resume";
        assert_eq!(next(EXIT_UNREACHABLE, paused), Some("evenkeel resume"));
        let unknown = "broker 9 is not in cluster.brokers; GET /cluster/v2/brokers lists those that are";
        assert_eq!(next(EXIT_USAGE, unknown), Some("evenkeel status"));
        assert_eq!(next(EXIT_USAGE, "no number"), Some("evenkeel help"));
        assert_eq!(next(EXIT_UNREACHABLE, "connection refused"), Some("evenkeel doctor"));
        assert_eq!(next(EXIT_NOT_FOUND, "there is none; list them with `evenkeel list`"), None);
        assert_eq!(Failure::told(EXIT_UNBALANCED).next_command(), None);
    }
}
