//! Where the cluster is and with what to come in: the options that every command understands, before or after its name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::ArgPredicate;
use evenkeel_client::{Client, ClientTls, Options, Token};
use evenkeel_security::{Shown, read_secret};
use evenkeel_traces::TraceContext;

use crate::cluster::cluster_api::ClusterApi;
use crate::cluster::http::Http;
use crate::output::outcome::{EXIT_TIMED_OUT, EXIT_UNREACHABLE, Failure};

/// A command without an answer for so long may be talking to a port with TLS.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// For finding out whether an address speaks TLS.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Where the cluster is")]
pub struct Connection {
    /// Gateway's gRPC address, host:port; several, comma-separated, take turns and stand in for each other
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_GATEWAY",
        default_value = "127.0.0.1:26500",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub gateway: Vec<String>,
    /// Gateway's HTTP API
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_API",
        default_value = "http://127.0.0.1:8080",
        default_value_if("ca", ArgPredicate::IsPresent, "https://127.0.0.1:8080"),
        value_name = "URL"
    )]
    pub api: String,
    /// Gateway's monitoring port
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_MONITORING",
        default_value = "http://127.0.0.1:9600",
        default_value_if("ca", ArgPredicate::IsPresent, "https://127.0.0.1:9600"),
        value_name = "URL"
    )]
    pub monitoring: String,
    /// Encrypt, and trust gateways with certificates of this authority (PEM)
    #[arg(long, global = true, env = "EVENKEEL_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Certificate to show to the gateway (PEM), with --cert-key
    #[arg(long, global = true, env = "EVENKEEL_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(
        id = "private_key",
        long = "cert-key",
        global = true,
        env = "EVENKEEL_CERT_KEY",
        value_name = "FILE"
    )]
    pub key: Option<PathBuf>,
    /// Named cluster that says what the others leave open; see `evenkeel context`
    #[arg(long, global = true, env = "EVENKEEL_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// File with a bearer token to send; not readable by everybody
    #[arg(long, global = true, env = "EVENKEEL_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl Connection {
    /// A client, once a gateway answers.
    pub async fn client(&self) -> Result<Client, Failure> {
        self.client_for(1).await
    }

    /// A client for many concurrent calls: one HTTP/2 connection carries about 32 of them well.
    pub async fn client_for(&self, concurrency: usize) -> Result<Client, Failure> {
        let mut options = Options::new(self.gateway.clone());
        options.connections_per_gateway = concurrency.div_ceil(CALLS_PER_CONNECTION);
        options.tls = self.tls()?;
        options.token = self.token()?;
        options.traceparent = traceparent().and_then(|given| given.to_string().parse().ok());
        Ok(Client::connect_with(options).await?)
    }

    /// Plain requests to the API and the monitoring port.
    pub fn http(&self) -> Result<Http, Failure> {
        Ok(Http::with(self.tls()?.as_ref(), self.token()?))
    }

    /// The operator's side of the gateway.
    pub fn cluster_api(&self) -> Result<ClusterApi, Failure> {
        Ok(ClusterApi::new(self.http()?, &self.api))
    }

    /// To an API alone, without credentials.
    #[cfg(test)]
    pub fn to_api(api: impl Into<String>) -> Self {
        Self {
            gateway: Vec::new(),
            api: api.into(),
            monitoring: String::new(),
            ca: None,
            cert: None,
            key: None,
            token_file: None,
            context: None,
        }
    }

    /// Carries a command out. Nobody answers plain requests on a port with TLS, so a command that gets no answer, or none
    /// soon, is told when it is that.
    pub async fn carry_out(&self, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        if self.ca.is_some() {
            return command.await;
        }
        let looked_at_soon = async {
            tokio::time::sleep(LOOK_AFTER).await;
            self.address_with_tls().await
        };
        let (address, failure) = tokio::select! {
            done = command => match done {
                Err(failure) if [EXIT_UNREACHABLE, EXIT_TIMED_OUT].contains(&failure.code) => {
                    (self.address_with_tls().await, failure)
                }
                done => return done,
            },
            Some(address) = looked_at_soon => (Some(address), Failure::told(EXIT_UNREACHABLE)),
        };
        Err(address.map_or(failure, |address| {
            Failure::unreachable(format!(
                "{address} answers with TLS only: name the authority of its certificate with --ca, and write https:// \
                 before the addresses of API and monitoring port"
            ))
        }))
    }

    /// The first of the addresses that speaks TLS.
    async fn address_with_tls(&self) -> Option<&str> {
        let api = self.api.split_once("://").map_or(self.api.as_str(), |(_, rest)| rest);
        for address in self.gateway.iter().map(String::as_str).chain([api]) {
            let parts = address.trim_end_matches('/').rsplit_once(':');
            let Some((host, Ok(port))) = parts.map(|(host, port)| (host, port.parse())) else { continue };
            let look = Shown::by_server(host.trim_matches(['[', ']']), port);
            if tokio::time::timeout(LOOK_TIMEOUT, look).await.is_ok_and(|shown| shown.is_ok()) {
                return Some(address);
            }
        }
        None
    }

    fn tls(&self) -> Result<Option<ClientTls>, Failure> {
        let own = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::usage("--cert is given without --cert-key; give both")),
            (None, Some(_)) => return Err(Failure::usage("--cert-key is given without --cert; give both")),
        };
        match &self.ca {
            Some(authority) => {
                let tls =
                    ClientTls::load(authority, own).map_err(|error| Failure::usage(error.to_string()))?;
                Ok(Some(tls))
            }
            None if own.is_some() => Err(Failure::usage(
                "--cert is given without --ca; name the authority that the gateway's certificate is of",
            )),
            None => Ok(None),
        }
    }

    fn token(&self) -> Result<Option<Token>, Failure> {
        self.token_file.as_deref().map(read_token).transpose()
    }
}

/// The trace that a caller has put this command into, in the variable that OpenTelemetry's programs use for that.
pub fn traceparent() -> Option<TraceContext> {
    TraceContext::parse(&std::env::var("TRACEPARENT").ok()?)
}

fn read_token(path: &Path) -> Result<Token, Failure> {
    let unusable = |problem: &dyn std::fmt::Display| {
        Failure::usage(format!("--token-file {}: {problem}", path.display()))
    };
    let bytes = read_secret(path).map_err(|error| unusable(&error.problem))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable(&evenkeel_client::NotAToken))?;
    Token::new(text).map_err(|error| unusable(&error))
}

const CALLS_PER_CONNECTION: usize = 32;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        connection: Connection,
    }

    fn connection(words: &[&str]) -> Connection {
        Cli::parse_from(std::iter::once("evenkeel").chain(words.iter().copied())).connection
    }

    #[test]
    fn encryption_counts_for_the_default_addresses_too() {
        let plain = connection(&[]);
        assert_eq!(
            (plain.api.as_str(), plain.monitoring.as_str()),
            ("http://127.0.0.1:8080", "http://127.0.0.1:9600")
        );
        let encrypted = connection(&["--ca", "ca.crt", "--monitoring", "http://a:1"]);
        assert_eq!(
            (encrypted.api.as_str(), encrypted.monitoring.as_str()),
            ("https://127.0.0.1:8080", "http://a:1")
        );
    }

    #[test]
    fn credentials_that_cannot_work_are_refused_with_the_remedy() {
        let table: [(&[&str], &str); 4] = [
            (&["--cert", "c"], "--cert is given without --cert-key"),
            (&["--cert-key", "k"], "--cert-key is given without --cert"),
            (&["--cert", "c", "--cert-key", "k"], "--cert is given without --ca"),
            (&["--ca", "/nowhere/ca.crt"], "--ca = \"/nowhere/ca.crt\": No such file"),
        ];
        for (words, expected) in table {
            let failure = connection(words).http().unwrap_err();
            assert_eq!(failure.code, 2);
            assert!(failure.message.starts_with(expected), "{failure}");
        }
    }
}
