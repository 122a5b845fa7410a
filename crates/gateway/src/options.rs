//! What an operator can set on a gateway, and the check that refuses what cannot work.
//!
//! Limits are signed here so that a negative one reaches [`Options::validate`] and gets an error that names the
//! key and the remedy, instead of a parser's complaint about types.

use std::collections::BTreeMap;
use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use evenkeel_protocol::NodeId;
use evenkeel_security::{AuthOptions, Checked, TlsOptions};
use evenkeel_settings::Settings;
use evenkeel_traces::TracesOptions;
use serde::{Deserialize, Serialize};

use crate::planner::Policy;

/// Longest time that a write may be parked: beyond it a client would have given up long ago.
const PARK_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Longest time that a slow watcher may hold what waits for it.
const SLOW_WATCHER_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Longest time that automatic rebalancing may be told to wait for anything: a week.
const AUTOMATIC_TIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Largest value or batch: brokers replicate a write in one message, with room for what it is wrapped in.
const WRITE_BYTES_MAX: i64 = 32 << 20;

/// Everything that a gateway can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where the brokers are.
    pub cluster: ClusterOptions,
    /// Where the gateway listens.
    pub network: NetworkOptions,
    /// Certificates of this gateway and of those that it trusts.
    pub tls: TlsOptions,
    /// Who may call.
    pub auth: AuthOptions,
    /// How writes wait while a partition changes leader.
    pub routing: RoutingOptions,
    /// What a request may carry.
    pub limits: LimitOptions,
    /// Rebalancing without being asked.
    pub rebalance: RebalanceOptions,
    /// Where spans of traced requests are sent to, and which requests are traced.
    pub traces: SampledTracesOptions,
}

/// Where the brokers are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterOptions {
    /// Every broker as `NODE_ID=HOST:PORT`, the port being its gRPC port.
    pub brokers: Vec<String>,
}

/// Where the gateway listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOptions {
    /// Address or name of the interface that all three listeners bind to.
    pub host: String,
    /// gRPC.
    pub port: u16,
    /// HTTP API.
    pub api_port: u16,
    /// Monitoring and actuator.
    pub monitoring_port: u16,
    /// Whether others may reach it without TLS or authentication.
    pub insecure: bool,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 26500, api_port: 8080, monitoring_port: 9600, insecure: false }
    }
}

/// How requests wait while a partition changes leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingOptions {
    /// How long a request may wait for a leader or an answer before the client is told.
    #[serde(with = "humantime_serde")]
    pub park_timeout: Duration,
    /// Bytes of writes that may be parked at once.
    pub parked_bytes_max: i64,
    /// Requests (other than watches) under way at once.
    pub in_flight_max: i64,
}

impl Default for RoutingOptions {
    fn default() -> Self {
        Self { park_timeout: Duration::from_secs(10), parked_bytes_max: 64 << 20, in_flight_max: 4_096 }
    }
}

/// What a request may carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitOptions {
    /// Longest key.
    pub key_bytes_max: i64,
    /// Longest value.
    pub value_bytes_max: i64,
    /// Keys and values of one batch together.
    pub batch_bytes_max: i64,
    /// Watches open at once.
    pub watchers_max: i64,
    /// How long a watcher may take nothing while changes wait for it before it is cut.
    #[serde(with = "humantime_serde")]
    pub slow_watcher_timeout: Duration,
    /// gRPC connections open at once.
    pub connections_max: i64,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            key_bytes_max: 1024,
            value_bytes_max: 1_048_576,
            batch_bytes_max: 4_194_304,
            watchers_max: 10_000,
            slow_watcher_timeout: Duration::from_secs(10),
            connections_max: 16_384,
        }
    }
}

/// When a gateway rebalances by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automatic {
    /// Never: leadership moves when somebody asks.
    #[default]
    Off,
    /// At the times of `schedule`, if the cluster is idle then.
    Scheduled,
    /// Whenever the cluster is idle.
    WhenIdle,
}

/// Rebalancing without being asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceOptions {
    /// When.
    pub automatic: Automatic,
    /// Five fields of cron, in UTC.
    pub schedule: String,
    /// Who should lead.
    pub policy: Policy,
    /// The cluster is idle while its leaders replicate less than this per second, all together…
    pub idle_bytes_per_s: i64,
    /// …for so long.
    #[serde(with = "humantime_serde")]
    pub idle_window: Duration,
    /// How often `when-idle` looks.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// A partition that was moved is left alone for so long.
    #[serde(with = "humantime_serde")]
    pub cool_down: Duration,
}

impl Default for RebalanceOptions {
    fn default() -> Self {
        Self {
            automatic: Automatic::Off,
            schedule: String::new(),
            policy: Policy::Primary,
            idle_bytes_per_s: 65_536,
            idle_window: Duration::from_secs(60),
            interval: Duration::from_secs(30),
            cool_down: Duration::from_secs(600),
        }
    }
}

/// Traces, where they begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampledTracesOptions {
    /// `http://HOST:PORT` of a collector's OTLP port for gRPC; empty for no traces.
    pub endpoint: String,
    /// The share of requests without a trace of their own that are traced.
    pub sample_ratio: f64,
}

impl Default for SampledTracesOptions {
    fn default() -> Self {
        Self { endpoint: String::new(), sample_ratio: 0.01 }
    }
}

impl SampledTracesOptions {
    pub(crate) fn destination(&self) -> TracesOptions {
        TracesOptions { endpoint: self.endpoint.clone() }
    }
}

impl RebalanceOptions {
    /// The times of `schedule`.
    ///
    /// # Errors
    /// When it is not a cron expression.
    pub(crate) fn cron(&self) -> Result<Cron, OptionsError> {
        self.schedule.parse().map_err(|error: CronError| {
            refuse(
                "rebalance.schedule",
                format!("{:?}", self.schedule),
                format!("is no cron expression ({error})"),
                "write minute, hour, day, month and weekday in UTC, such as \"0 3 * * *\" for 3 o'clock every night",
            )
        })
    }

    fn validate(&self) -> Result<(), OptionsError> {
        if self.automatic == Automatic::Scheduled || !self.schedule.is_empty() {
            self.cron()?;
        }
        if self.idle_bytes_per_s < 1 {
            return Err(refuse(
                "rebalance.idle_bytes_per_s",
                self.idle_bytes_per_s,
                "is a rate that no cluster stays below",
                "set 1 or more; 65536 is the default",
            ));
        }
        let durations = [
            ("rebalance.idle_window", self.idle_window, Duration::from_secs(1)),
            ("rebalance.interval", self.interval, Duration::from_secs(1)),
            ("rebalance.cool_down", self.cool_down, Duration::ZERO),
        ];
        for (key, given, least) in durations {
            if given < least || given > AUTOMATIC_TIME_MAX {
                return Err(refuse(
                    key,
                    humantime::format_duration(given),
                    "is out of range",
                    format!(
                        "set {} to {}",
                        humantime::format_duration(least),
                        humantime::format_duration(AUTOMATIC_TIME_MAX)
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Settings for Options {
    const DOCS: &'static [(&'static str, &'static str)] = &[
        ("cluster.brokers", "Every broker as NODE_ID=HOST:PORT, the port being its gRPC port"),
        ("network.host", "Address that all three listeners bind to"),
        ("network.port", "Port for gRPC"),
        ("network.api_port", "Port for the HTTP API"),
        ("network.monitoring_port", "Port for metrics, health and POST /actuator/rebalance"),
        (
            "network.insecure",
            "Let other machines in without TLS or authentication; only in a network where everybody is trusted",
        ),
        (
            "tls.certificate_file",
            "PEM file with this process's certificate; with it and the next two, all ports use TLS",
        ),
        ("tls.key_file", "PEM file with its private key; not readable by everybody"),
        (
            "tls.ca_file",
            "PEM file with the cluster's authority: brokers and callers must have certificates of it",
        ),
        (
            "auth.tokens_file",
            "File with a line NAME ROLES sha256:HASH per bearer token, as evenkeel token makes them",
        ),
        ("auth.client_certificates", "Let certificates of tls.ca_file tell who calls"),
        (
            "auth.certificate_roles",
            "NAME=ROLES for certificates that name no role: read, write, operate, several with commas",
        ),
        ("routing.park_timeout", "How long a request may wait for a leader or an answer before it fails"),
        ("routing.parked_bytes_max", "Bytes of writes that may wait at once; more are refused as overload"),
        (
            "routing.in_flight_max",
            "Requests (other than watches) under way at once; more are refused as overload",
        ),
        ("limits.key_bytes_max", "Longest key, in bytes"),
        ("limits.value_bytes_max", "Longest value, in bytes"),
        ("limits.batch_bytes_max", "Keys and values of one batch together, in bytes"),
        ("limits.watchers_max", "Watches open at once; more are refused as overload"),
        (
            "limits.slow_watcher_timeout",
            "How long a watcher may take nothing while changes wait for it before it is cut",
        ),
        ("limits.connections_max", "gRPC connections open at once; more wait to be accepted"),
        ("rebalance.automatic", "When to rebalance without being asked: off, scheduled or when-idle"),
        ("rebalance.schedule", "When scheduled: minute, hour, day, month, weekday (cron, UTC)"),
        ("rebalance.policy", "Who should lead after it: primary, even-count or records"),
        (
            "rebalance.idle_bytes_per_s",
            "The cluster counts as idle while all leaders together replicate less than this per second",
        ),
        ("rebalance.idle_window", "How long it must have been idle before leadership is moved"),
        ("rebalance.interval", "How often when-idle looks whether something should be moved"),
        ("rebalance.cool_down", "How long a partition that was moved is left alone"),
        (
            "traces.endpoint",
            "http://HOST:PORT of an OpenTelemetry collector's OTLP port for gRPC; empty for no traces",
        ),
        (
            "traces.sample_ratio",
            "Share of the requests without a traceparent that are traced, 0 to 1; callers decide about theirs",
        ),
    ];
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {problem}; {remedy}")]
pub struct OptionsError {
    /// Dotted path of the setting.
    pub key: &'static str,
    /// What it was set to.
    pub value: String,
    /// Why that cannot work.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Where one broker is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The broker.
    pub node: NodeId,
    /// Host name or address.
    pub host: String,
    /// gRPC port.
    pub port: u16,
}

/// Checked limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key.
    pub key_bytes_max: usize,
    /// Longest value.
    pub value_bytes_max: usize,
    /// Keys and values of one batch together.
    pub batch_bytes_max: usize,
}

impl From<evenkeel_security::OptionsError> for OptionsError {
    fn from(error: evenkeel_security::OptionsError) -> Self {
        let evenkeel_security::OptionsError { key, value, problem, remedy } = error;
        Self { key, value, problem, remedy }
    }
}

impl From<evenkeel_traces::OptionsError> for OptionsError {
    fn from(error: evenkeel_traces::OptionsError) -> Self {
        let evenkeel_traces::OptionsError { key, value, problem, remedy } = error;
        Self { key, value, problem: problem.into(), remedy: remedy.into() }
    }
}

impl Options {
    /// TLS and authentication, checked.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn security(&self) -> Result<Checked, OptionsError> {
        let security = evenkeel_security::check(&self.tls, &self.auth)?;
        security.check_exposure(&self.network.host, self.network.insecure)?;
        Ok(security)
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first setting that cannot work, with its value and the remedy.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.contacts()?;
        self.rebalance.validate()?;
        evenkeel_traces::check_endpoint(&self.traces.destination())?;
        evenkeel_traces::check_ratio(self.traces.sample_ratio)?;
        let network = &self.network;
        if network.host.is_empty() {
            return Err(refuse("network.host", "\"\"", "is empty", "give an address, such as 127.0.0.1"));
        }
        self.security()?;
        let ports = [
            ("network.port", network.port),
            ("network.api_port", network.api_port),
            ("network.monitoring_port", network.monitoring_port),
        ];
        for (i, (key, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports[..i].iter().find(|(_, earlier)| *port != 0 && earlier == port) {
                return Err(refuse(
                    key,
                    port,
                    format!("is also {other}"),
                    "give every listener its own port",
                ));
            }
        }
        let timeout = self.routing.park_timeout;
        if timeout.is_zero() || timeout > PARK_TIMEOUT_MAX {
            return Err(refuse(
                "routing.park_timeout",
                humantime::format_duration(timeout),
                "is not a time that a client waits",
                format!("set more than 0 and at most {}", humantime::format_duration(PARK_TIMEOUT_MAX)),
            ));
        }
        let bounds = [
            ("routing.parked_bytes_max", self.routing.parked_bytes_max, 1 << 40),
            ("routing.in_flight_max", self.routing.in_flight_max, 1 << 24),
            ("limits.key_bytes_max", self.limits.key_bytes_max, 1 << 16),
            ("limits.value_bytes_max", self.limits.value_bytes_max, WRITE_BYTES_MAX),
            ("limits.batch_bytes_max", self.limits.batch_bytes_max, WRITE_BYTES_MAX),
            ("limits.watchers_max", self.limits.watchers_max, 1 << 24),
            ("limits.connections_max", self.limits.connections_max, 1 << 20),
        ];
        for (key, value, most) in bounds {
            if value < 1 || value > most {
                let remedy = format!("set 1 to {most}");
                return Err(refuse(key, value, "is out of range", remedy));
            }
        }
        let patience = self.limits.slow_watcher_timeout;
        if patience.is_zero() || patience > SLOW_WATCHER_TIMEOUT_MAX {
            return Err(refuse(
                "limits.slow_watcher_timeout",
                humantime::format_duration(patience),
                "is not a time that a slow watcher is waited for",
                format!(
                    "set more than 0 and at most {}",
                    humantime::format_duration(SLOW_WATCHER_TIMEOUT_MAX)
                ),
            ));
        }
        if self.limits.batch_bytes_max < self.limits.value_bytes_max {
            return Err(refuse(
                "limits.batch_bytes_max",
                self.limits.batch_bytes_max,
                format!("is less than limits.value_bytes_max = {}", self.limits.value_bytes_max),
                "let a batch hold at least one value",
            ));
        }
        Ok(())
    }

    /// The contact points, parsed, in order of node id.
    ///
    /// # Errors
    /// When there is none, one is malformed, or a node id or an address is given twice.
    pub fn contacts(&self) -> Result<Vec<Contact>, OptionsError> {
        const KEY: &str = "cluster.brokers";
        const SHAPE: &str = "write each broker as NODE_ID=HOST:PORT, such as 0=127.0.0.1:26501";
        let mut by_node: BTreeMap<NodeId, Contact> = BTreeMap::new();
        for text in &self.cluster.brokers {
            let parsed = text.split_once('=').and_then(|(node, address)| {
                let (host, port) = address.trim().rsplit_once(':')?;
                let contact = Contact {
                    node: NodeId(node.trim().parse().ok()?),
                    host: host.to_owned(),
                    port: port.parse().ok().filter(|port| *port != 0)?,
                };
                (!host.is_empty()).then_some(contact)
            });
            let Some(contact) = parsed else {
                return Err(refuse(KEY, format!("\"{text}\""), "is not a contact point", SHAPE));
            };
            if let Some(other) = by_node
                .values()
                .find(|c| c.node == contact.node || (&c.host, c.port) == (&contact.host, contact.port))
            {
                let problem = format!("repeats \"{}={}:{}\"", other.node, other.host, other.port);
                let remedy = "name every broker once, with its own address";
                return Err(refuse(KEY, format!("\"{text}\""), problem, remedy));
            }
            by_node.insert(contact.node, contact);
        }
        if by_node.is_empty() {
            return Err(refuse(KEY, "[]", "names no broker", SHAPE));
        }
        Ok(by_node.into_values().collect())
    }

    pub(crate) fn request_limits(&self) -> Limits {
        Limits {
            key_bytes_max: bound(self.limits.key_bytes_max),
            value_bytes_max: bound(self.limits.value_bytes_max),
            batch_bytes_max: bound(self.limits.batch_bytes_max),
        }
    }
}

/// A validated limit as a size; at least 1.
pub(crate) fn bound(limit: i64) -> usize {
    usize::try_from(limit).unwrap_or(1).max(1)
}

fn refuse(
    key: &'static str,
    value: impl ToString,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> OptionsError {
    OptionsError { key, value: value.to_string(), problem: problem.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Options)) -> Result<(), OptionsError> {
        let mut options = Options::default();
        options.cluster.brokers = vec!["0=127.0.0.1:26501".into()];
        change(&mut options);
        options.validate()
    }

    #[test]
    fn every_bad_setting_is_named_with_its_value_and_remedy() {
        type Change = fn(&mut Options);
        let table: [(&str, Change); 18] = [
            ("cluster.brokers = []: names no broker", |o| o.cluster.brokers.clear()),
            ("cluster.brokers = \"0:1\": is not a contact", |o| o.cluster.brokers = vec!["0:1".into()]),
            ("cluster.brokers = \"0=b:2\": repeats \"0=a:1\"", |o| {
                o.cluster.brokers = vec!["0=a:1".into(), "0=b:2".into()];
            }),
            ("network.api_port = 26500: is also network.port", |o| o.network.api_port = 26500),
            ("network.host = \"\": is empty", |o| o.network.host.clear()),
            ("network.host = \"0.0.0.0\": would serve other machines without TLS; set tls.", |o| {
                o.network.host = "0.0.0.0".into();
            }),
            ("tls.certificate_file = \"\": is missing while tls.ca_file is set", |o| {
                o.tls.ca_file = "ca.crt".into();
            }),
            ("routing.park_timeout = 0s: is not", |o| o.routing.park_timeout = Duration::ZERO),
            ("routing.parked_bytes_max = -1: is out of range; set 1 to", |o| o.routing.parked_bytes_max = -1),
            ("limits.key_bytes_max = 0: is out of range; set 1 to 65536", |o| o.limits.key_bytes_max = 0),
            ("limits.watchers_max = -7: is out of range", |o| o.limits.watchers_max = -7),
            ("limits.connections_max = 0: is out of range", |o| o.limits.connections_max = 0),
            ("limits.slow_watcher_timeout = 0s: is not", |o| o.limits.slow_watcher_timeout = Duration::ZERO),
            ("rebalance.schedule = \"\": is no cron expression", |o| {
                o.rebalance.automatic = Automatic::Scheduled
            }),
            ("rebalance.schedule = \"61 * * * *\": is no cron expression", |o| {
                o.rebalance.schedule = "61 * * * *".into()
            }),
            ("rebalance.idle_bytes_per_s = 0: is a rate", |o| o.rebalance.idle_bytes_per_s = 0),
            ("rebalance.interval = 1ms: is out of range; set 1s to 7days", |o| {
                o.rebalance.interval = Duration::from_millis(1)
            }),
            ("limits.batch_bytes_max = 9: is less than limits.value_bytes_max", |o| {
                o.limits.batch_bytes_max = 9
            }),
        ];
        for (expected, change) in table {
            let error = with(change).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(with(|_| ()), Ok(()));
    }

    #[test]
    fn every_key_is_documented() {
        evenkeel_settings::check_docs::<Options>().unwrap();
    }

    #[test]
    fn the_documented_file_parses_and_an_unknown_key_does_not() {
        let text = "[cluster]\nbrokers = [\"0=a:1\", \"1=[::1]:2\"]\n[routing]\npark_timeout = \"3s\"\n";
        let options: Options = toml::from_str(text).unwrap();
        assert_eq!(options.routing.park_timeout, Duration::from_secs(3));
        assert_eq!(options.contacts().unwrap()[1].host, "[::1]");
        assert!(toml::from_str::<Options>("[routing]\nparking = 1\n").is_err());
    }
}
